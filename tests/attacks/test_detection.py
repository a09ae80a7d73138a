import numpy as np
import pytest
import torch

from robustgen.attacks.detection import EnergyDetector, cross_fitted, max_softmax
from robustgen.attacks.gradient_based import pgd
from robustgen.core.energy import marginal_energy
from robustgen.metrics.statistics import auroc, bootstrap, effect_size
from robustgen.models.inference import logits_of


def logits(energies, generator=0):
    """Logits (N, 10) with these energies -logsumexp."""
    f = torch.randn(len(energies), 10, generator=torch.Generator().manual_seed(generator), dtype=torch.float64)
    return f - (f.logsumexp(1) + torch.as_tensor(energies))[:, None]


@pytest.fixture
def split():
    """Natural energies around 0, attacked ones around -2 and, fewer, around 4."""
    g = torch.Generator().manual_seed(1)
    n, low, high = (torch.randn(count, generator=g, dtype=torch.float64) for count in (300, 150, 50))
    return logits(n), logits(torch.cat([low - 2, 0.5 * high + 4]))


def exhaustive(natural, attacked, low, high):
    """The largest G-mean over all pairs of the given thresholds, counted one by one."""
    n, a = (-f.logsumexp(1).numpy() for f in (natural, attacked))
    return max(np.sqrt(np.mean((a <= x) | (a >= y)) * np.mean((n > x) & (n < y))) for x in low for y in high)


def test_the_threshold_is_the_best_point_of_the_roc_curve(split):
    from sklearn.metrics import roc_curve

    natural, attacked = split
    detector = EnergyDetector().fit(natural, attacked)
    fpr, tpr, _ = roc_curve([0] * len(natural) + [1] * len(attacked), torch.cat([natural, attacked]).logsumexp(1))
    assert detector.rates(natural, attacked)["G-mean"] == pytest.approx(np.sqrt(tpr * (1 - fpr)).max())
    assert detector.high == np.inf and torch.equal(detector(attacked), marginal_energy(attacked) <= detector.low)


@pytest.mark.parametrize("sides", ["low", "high", "both"])
def test_thresholds_maximise_the_g_mean(split, sides):
    natural, attacked = (f[:60] for f in split) if sides == "both" else split
    attacked = split[1][120:180] if sides == "both" else attacked
    every = np.unique(-torch.cat([natural, attacked]).logsumexp(1).numpy())
    low = every if sides != "high" else [-np.inf]
    high = every if sides != "low" else [np.inf]
    fitted = EnergyDetector(sides=sides).fit(natural, attacked).rates(natural, attacked)["G-mean"]
    assert fitted == pytest.approx(exhaustive(natural, attacked, low, high))


def test_two_sides_beat_one_where_attacks_lie_on_both(split):
    one, two = (EnergyDetector(sides=sides).fit(*split) for sides in ("low", "both"))
    assert two.rates(*split)["G-mean"] > one.rates(*split)["G-mean"] + 0.03
    assert -2 < two.low < 0 < two.high < 4


def test_rates_are_shares(split):
    natural, attacked = split
    detector = EnergyDetector().fit(natural, attacked)
    rates = detector.rates(natural, attacked)
    assert rates["DR"] == (attacked.logsumexp(1) >= -detector.low).double().mean()
    assert rates["FPR"] == (natural.logsumexp(1) >= -detector.low).double().mean()
    assert rates["G-mean"] == pytest.approx((rates["DR"] * (1 - rates["FPR"])) ** 0.5)


def test_the_area_under_the_curve_is_the_chance_that_an_attacked_image_is_lower(split):
    natural, attacked = split
    fpr, tpr, area = EnergyDetector().roc(natural, attacked)
    pairs = marginal_energy(attacked)[:, None] < marginal_energy(natural)[None]
    assert area == pytest.approx(pairs.double().mean().item())
    assert fpr[0] == tpr[0] == 0 and fpr[-1] == tpr[-1] == 1
    assert EnergyDetector(sides="high").roc(natural, attacked)[2] == pytest.approx(1 - area)


def test_other_scores_and_evasion(net, digits):
    x, y = digits
    attacked = logits_of(net, pgd(net, x, y, norm="linf", eps=0.3, step_size=0.03, steps=5))
    natural = net(x)
    detector = EnergyDetector(sides="both", score=max_softmax).fit(natural, attacked)
    assert detector.rates(natural, attacked)["G-mean"] > 0.5 and "max_softmax" in repr(detector)
    through = detector.evaded(attacked, y)
    assert torch.equal(through, (attacked.argmax(1) != y) & ~detector(attacked))
    assert torch.allclose(max_softmax(natural), torch.softmax(natural, 1).max(1).values)


def test_cross_fitting_rates_each_half_with_the_others_thresholds():
    natural, attacked = logits(torch.arange(8.0)), logits(torch.tensor([-5.0, 20, -6, 21, -7, 22, -8, 23]))
    called = cross_fitted(natural, attacked)
    even, odd = (EnergyDetector().fit(natural[half::2], attacked[half::2]) for half in (0, 1))
    for answer, given in zip(called, (natural, attacked)):
        assert torch.equal(answer[1::2], even(given[1::2])) and torch.equal(answer[::2], odd(given[::2]))
    # low energies in one half only: of no use for the other
    assert even(attacked[::2]).all() and not called[1][1::2].any()


def test_effect_size_is_cohens_d():
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 4.0, 6.0, 9.0])
    pooled = np.sqrt((np.var([1, 2, 3, 4], ddof=1) + np.var([2, 4, 6, 9], ddof=1)) / 2)
    assert effect_size(a, b).item() == pytest.approx((5.25 - 2.5) / pooled)


def test_bootstrap_intervals_are_those_of_theory():

    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    low, high = bootstrap(values)
    error = values.std().item() / 20
    assert (low, high) == pytest.approx((values.mean().item() - 1.96 * error, values.mean().item() + 1.96 * error),
                                        abs=0.15 * error)
    paired = bootstrap(values, values + 2, statistic=lambda a, b: (b - a).mean(1))
    assert paired == pytest.approx([2, 2])   # pairs stay together


@pytest.mark.parametrize("call, message", [
    (lambda f: EnergyDetector()(f), "no thresholds yet; call fit"),
    (lambda f: EnergyDetector().rates(f, f), "no thresholds yet; call fit"),
    (lambda f: EnergyDetector().fit(f[:0], f), "there are no natural images; .* Make the split larger"),
    (lambda f: EnergyDetector().fit(f, f[:0]), "there are no attacked images"),
    (lambda f: EnergyDetector().roc(f, f[:0]), "there are no attacked images"),
    (lambda f: EnergyDetector().fit(f.softmax(1), f), "returns probabilities"),
    (lambda f: EnergyDetector().fit(f.log_softmax(1), f), "returns log-probabilities"),
    (lambda f: EnergyDetector().fit(f, f / 0), "attacked logits hold NaN or infinite"),
    (lambda f: EnergyDetector().fit(f.logsumexp(1), f), "takes logits of shape \\(B, K\\)"),
    (lambda f: EnergyDetector(sides="left"), "EnergyDetector: 'sides' is 'left': it should be 'low', 'high' or 'both'"),
    (lambda f: EnergyDetector(sides="both").roc(f, f), "use sides='low' or 'high'"),
])
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(logits(torch.arange(5.0)))
    assert "\n" not in str(caught.value)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    natural, others = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 2.5])
    assert auroc(natural, others) == pytest.approx(4 / 6) and auroc(others, natural) == pytest.approx(2 / 6)
