import copy

import pytest
import torch
import torchattacks

from robustgen.attacks import external
from robustgen.attacks.evaluation import batched, logits_along, robust_accuracy, true_and_rival
from robustgen.attacks.gradient_based import (
    balancing_lam,
    energy_attack,
    fgsm,
    he_pgd,
    pgd,
    random_noise,
    random_targets,
    targeted,
)
from robustgen.core import ascent
from robustgen.core.energy import joint_energy, log_odds, marginal_energy
from robustgen.core.images import norm
from robustgen.models.builders import build_model


def foolbox_pgd(net, x, y, norm, eps, step_size, steps):
    return external.foolbox_pgd(net, x, y, norm=norm, eps=eps, step_size=step_size, steps=steps)


def torchattacks_pgd(net, x, y, norm, eps, step_size, steps):
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    return kind(net, eps=eps, alpha=step_size, steps=steps, random_start=False)(x, y)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.5)])
@pytest.mark.parametrize("theirs", [foolbox_pgd, torchattacks_pgd])
def test_pgd_agrees_with_other_libraries(net, digits, norm, eps, theirs):
    """In float64, in which no rounding of a processor's leads the two apart."""
    settings = dict(norm=norm, eps=eps, step_size=eps / 4, steps=10)
    net, x, y = copy.deepcopy(net).double(), digits[0].double(), digits[1]
    ours = pgd(net, x, y, **settings)
    assert torch.allclose(ours, theirs(net, x, y, **settings), atol=1e-5)
    assert not torch.allclose(ours, x, atol=eps / 100)


@pytest.mark.parametrize("norm, eps", [("linf", 0.2), ("l2", 3.0)])
def test_pgd_stays_in_the_ball_and_in_the_unit_cube_and_raises_the_loss(net, digits, norm, eps):
    x, y = digits
    reached = pgd(net, x, y, norm=norm, eps=eps, step_size=eps / 2, steps=8, random_start=True, generator=0)
    order = {"linf": float("inf"), "l2": 2}[norm]
    assert torch.linalg.vector_norm((reached - x).flatten(1), order, dim=1).max() <= eps + 1e-5
    assert reached.min() >= 0 and reached.max() <= 1
    loss = torch.nn.functional.cross_entropy
    assert (loss(net(reached), y, reduction="none") >= loss(net(x), y, reduction="none")).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_do_not_depend_on_the_batch(net, digits, norm):
    x, y = digits
    settings = dict(norm=norm, eps=0.5, step_size=0.1, steps=2, random_start=True)
    whole = pgd(net, x, y, **settings, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    parts = [pgd(net, x[part], y[part], **settings, generator=generator) for part in (slice(0, 5), slice(5, 32))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_random_start_fills_the_l2_ball_uniformly():
    x = torch.full((2000, 1, 2, 2), 0.5)
    radius = norm(ascent.random_in_ball("l2", x, 0.4, 0) - x).flatten() / 0.4
    assert radius.max() <= 1 + 1e-6 and abs((radius**4).mean() - 0.5) < 0.02   # (r/eps)^P is uniform in P dimensions


def test_the_gradient_climbed_is_right_by_finite_differences(digits):
    x = digits[0][:3].double()
    weights = torch.randn(784, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def objective(v):
        return (v.flatten(1) @ weights).sin()[:, 0]

    step = ascent.ascend(x, ascent.gradient_of(objective), step=lambda g: g, project=lambda v: v, steps=1) - x
    h = 1e-6 * torch.eye(784, dtype=torch.float64)[400].view(1, 1, 28, 28)
    assert torch.allclose(step.flatten(1)[:, 400], (objective(x + h) - objective(x - h)) / 2e-6, atol=1e-6)


def test_robust_accuracy_is_that_of_a_plain_loop(net, digits):
    net, x, y = copy.deepcopy(net).double(), digits[0].double(), digits[1]
    settings = dict(norm="l2", eps=1.0, step_size=0.2, steps=6)
    right = net(x).argmax(1) == y
    for steps in range(1, 7):   # right at every iterate
        right &= net(pgd(net, x, y, **settings | {"steps": steps})).argmax(1) == y
    for batch in (5, 100):
        assert robust_accuracy(net, x, y, **settings, batch=batch) == right.float().mean()
        assert torch.equal(robust_accuracy(net, x, y, **settings, batch=batch, each=True), right)
    assert 0 < right.float().mean() < 1


def test_an_attack_leaves_no_gradient_in_the_weights(digits):

    model = build_model("mnist_cnn", width=4, hidden=8, generator=0)
    pgd(model, *digits, norm="l2", eps=1.0, step_size=0.5, steps=2)
    assert all(p.grad is None for p in model.parameters())


def test_cross_entropy_is_joint_minus_marginal_energy():
    logits = torch.randn(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 10
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(joint_energy(logits, y) - marginal_energy(logits), expected)


LINF = dict(eps=0.2, step_size=0.02, steps=12)


def test_he_pgd_without_its_energy_term_is_pgd_ours_and_torchattacks(net, digits):
    """In float64, as float32 rounds the sign of gradients that are nearly zero, each processor in its way."""
    net, x, y = copy.deepcopy(net).double(), digits[0].double(), digits[1]
    start = ascent.random_in_ball("linf", x, LINF["eps"], 3)
    theirs = torchattacks.PGD(net, eps=LINF["eps"], alpha=LINF["step_size"], steps=LINF["steps"], random_start=False)
    theirs.random_start = True
    with pytest.MonkeyPatch.context() as patch:   # theirs begins at x + empty.uniform_(-eps, eps): at our start
        patch.setattr(torch.Tensor, "uniform_", lambda tensor, low, high: tensor.copy_(start - x))
        expected = theirs(x, y)
    settings = dict(norm="linf", random_start=True, generator=3) | LINF
    assert torch.allclose(pgd(net, x, y, **settings), expected, atol=1e-5)
    assert torch.allclose(he_pgd(net, x, y, lam=0, **settings), expected, atol=1e-5)
    assert not torch.allclose(he_pgd(net, x, y, lam=1.2, **settings), expected, atol=0.01)


def test_on_a_residual_net_too_he_pgd_without_its_energy_term_is_torchattacks_pgd():
    """In float64, as float32 rounds the sign of gradients that are nearly zero."""
    model = build_model("resnet10", width=8, generator=0).eval().double()
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 3, 32, 32, generator=g, dtype=torch.float64), torch.tensor([0, 3, 5, 9])
    settings = dict(eps=8 / 255, steps=10)
    theirs = torchattacks.PGD(model, alpha=1 / 255, random_start=False, **settings)(x, y)
    assert torch.allclose(he_pgd(model, x, y, lam=0.0, step_size=1 / 255, random_start=False, **settings), theirs,
                          atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0, 1.2, 2.5])
def test_he_pgd_climbs_cross_entropy_plus_lam_energy(net, digits, lam):
    """Its first step is the sign of eq. 11's gradient, by finite differences in float64."""
    x, y = digits[0][:2].double(), digits[1][:2]
    model = build_model("mnist_cnn", width=8, hidden=32, generator=0).double()
    model.load_state_dict(net.state_dict())

    def value(x):
        logits = model(x)
        return torch.nn.functional.cross_entropy(logits, y, reduction="none") - lam * logits.logsumexp(1)

    moved = he_pgd(model, x, y, lam=lam, eps=0.1, step_size=0.1, steps=1, random_start=False) - x
    for row, column in ((10, 14), (14, 14), (20, 12)):
        h = torch.zeros_like(x)
        h[:, :, row, column] = 1e-6
        slope = (value(x + h) - value(x - h)) / 2e-6
        expected = (x[:, 0, row, column] + 0.1 * slope.sign()).clamp(0, 1) - x[:, 0, row, column]
        assert (slope.abs() > 1e-9).all() and torch.allclose(moved[:, 0, row, column], expected)


def test_at_lam_one_only_the_logit_of_y_counts(net, digits):
    x, y = digits
    settings = dict(norm="linf", generator=0, random_start=True) | LINF
    lowered = pgd(net, x, y, loss=joint_energy, **settings)
    assert torch.allclose(he_pgd(net, x, y, lam=1.0, **settings), lowered, atol=1e-5)


def test_more_lam_means_more_energy(net, digits):
    energies = [marginal_energy(net(he_pgd(net, *digits, lam=lam, generator=0, **LINF))).mean()
                for lam in (0.0, 0.5, 1.0, 2.0)]
    assert energies == sorted(energies)


@pytest.fixture(scope="module")
def linear():
    """A linear model of 4 classes in float64, and 20 images inside the unit cube, with its logits' weights (4, 36)."""
    g = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4)).double().requires_grad_(False)
    model[1].weight.copy_(torch.randn(4, 36, generator=g, dtype=torch.float64))
    return model, torch.rand(20, 1, 6, 6, generator=g, dtype=torch.float64), torch.arange(20) % 4, model[1].weight


def test_the_energy_attack_is_one_signed_step_up_the_joint_energy(linear):
    """JEAT eq. 18; the energy of a linear model is -(w_y x + b_y), so the sign is that of -w_y."""
    model, x, y, weight = linear
    expected = (x - 0.1 * weight[y].view_as(x).sign()).clamp(0, 1)
    assert torch.equal(energy_attack(model, x, y, eps=0.1), expected)
    many = energy_attack(model, x, y, eps=0.1, step_size=0.03, steps=8, random_start=True, generator=0)
    assert torch.allclose(many, expected) and many.dtype == torch.float64   # the corner of the ball is the highest
    few = [energy_attack(model, x, y, eps=0.1, step_size=0.03, steps=1, random_start=True, generator=seed)
           for seed in (0, 0, 1)]
    assert torch.equal(few[0], few[1]) and not torch.allclose(few[0], few[2])


def test_the_energy_attack_raises_the_joint_energy_more_than_pgd_which_raises_the_loss_more(linear, net, digits):
    for model, x, y in (linear[:3], (net, *digits)):
        settings = dict(eps=0.1, step_size=0.02, steps=8)
        attacked = energy_attack(model, x, y, **settings), pgd(model, x, y, norm="linf", **settings)
        clean, ours, theirs = (model(z) for z in (x, *attacked))
        assert (joint_energy(ours, y) > joint_energy(clean, y)).all()
        assert joint_energy(ours, y).mean() > joint_energy(theirs, y).mean() + 0.01
        assert log_odds(theirs, y).mean() > log_odds(ours, y).mean() + 0.01


@pytest.mark.parametrize("norm, eps, sure", [("linf", 0.2, 6), ("linf", 0.2, 30), ("l2", 1.5, 30)])
def test_a_sure_net_does_not_stop_he_pgd(net, digits, norm, eps, sure):
    """Where logits are large, float32's cross-entropy has no gradient; HE-PGD at lam = 0 must still be PGD."""
    x, y = digits

    def model(x):
        return sure * net(x)

    loss = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    assert (loss == 0).float().mean() > 0.2
    settings = dict(norm=norm, generator=0, random_start=True, eps=eps, step_size=eps / 10, steps=12)
    assert torch.allclose(he_pgd(model, x, y, lam=0.0, **settings), pgd(model, x, y, **settings), atol=1e-4)


def test_the_defaults_are_the_papers():
    import inspect

    defaults = {name: p.default for name, p in inspect.signature(he_pgd).parameters.items()}
    expected = dict(norm="linf", eps=8 / 255, step_size=1 / 255, steps=40, lam=1.2, random_start=True)
    assert defaults.items() >= expected.items()


def test_balancing_lam_balances_and_says_when_it_cannot(net, digits):
    x, y = digits
    settings = dict(eps=0.5, step_size=0.05, steps=20, generator=0)
    natural = marginal_energy(net(x))
    gap = (marginal_energy(net(he_pgd(net, x, y, lam=0.0, **settings))).mean() - natural.mean()) / natural.std()
    assert gap < -0.1   # so far past the boundary PGD lowers the energy of digits, too
    lam, found = balancing_lam(net, x, y, tolerance=0.1, batch=10, **settings)
    attacked = marginal_energy(net(he_pgd(net, x, y, lam=lam, **settings)))
    assert 0 < lam < 2.5 and abs(found) <= 0.1
    assert abs((attacked.mean() - natural.mean()) / natural.std() - found) < 1e-4
    lam, found = balancing_lam(net, x, y, eps=0.1, step_size=0.02, steps=5, generator=0)
    assert lam == 0 and found > 0   # so near the images PGD raises it
    for bad, message in (({"high": 0.0}, "'high' is 0.0"), ({"tolerance": -1.0}, "'tolerance' is -1.0")):
        with pytest.raises(ValueError, match=message):
            balancing_lam(net, x, y, **bad, **settings)
    with pytest.raises(ValueError, match="at least two images"):
        balancing_lam(net, x[:1], y[:1], **settings)
    with pytest.raises(ValueError, match="raise 'high'"):
        balancing_lam(net, x, y, high=0.01, **settings)


def test_fgsm_is_one_signed_step(net, digits):
    x, y = digits
    assert torch.allclose(fgsm(net, x, y, eps=0.1), torchattacks.FGSM(net, eps=0.1)(x, y), atol=1e-6)


def test_a_targeted_attack_makes_the_target_likely(net, digits):
    x, y = digits
    targets = random_targets(y, 10, 0)
    assert (targets != y).all() and targets.min() >= 0 and targets.max() <= 9
    reached = pgd(net, x, targets, loss=targeted, norm="linf", **LINF | {"eps": 0.4, "steps": 40})
    assert (net(reached).argmax(1) == targets).float().mean() > 0.5 > (net(x).argmax(1) == targets).float().mean()
    many = torch.zeros(9000, dtype=torch.int64)
    assert (random_targets(many, 10, 0).bincount(minlength=10)[1:] - 1000).abs().max() < 150


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 2.0)])
def test_random_noise_has_the_attacks_norm(norm, eps):
    x = torch.full((4, 3, 16, 16), 0.5)
    noise = random_noise(x, norm=norm, eps=eps, generator=0) - x
    assert torch.allclose(torch.linalg.vector_norm(noise.flatten(1), {"linf": float("inf"), "l2": 2}[norm], dim=1),
                          torch.tensor(eps))
    assert abs(noise.mean()) < 0.02 and noise[0].ne(noise[1]).any()


def test_a_trajectory_holds_the_logits_of_every_iterate(net, digits):
    x, y = digits
    settings = dict(norm="linf", random_start=True, generator=5, eps=0.2, step_size=0.05)
    reached, logits = batched(logits_along, net, x, y, attack=pgd, batch=10, steps=4, **settings)
    assert logits.shape == (32, 5, 10)
    assert torch.allclose(logits[:, 0], net(ascent.random_in_ball("linf", x, 0.2, 5)), atol=1e-5)
    for steps in range(1, 5):
        images = pgd(net, x, y, steps=steps, **settings)
        assert torch.allclose(logits[:, steps], net(images), atol=1e-4)
    assert torch.allclose(reached, images, atol=1e-5)


def test_the_rival_is_the_largest_other_logit():
    logits = torch.tensor([[[3.0, 1, 2], [0, 5, 4]]])
    true, rival = true_and_rival(logits, torch.tensor([[0, 2]]))
    assert true.tolist() == [[3, 4]] and rival.tolist() == [[2, 5]]


def nan(x):
    return torch.where(torch.arange(len(x))[:, None, None, None] == 1, torch.nan, x)


@pytest.mark.parametrize("change, message", [
    (lambda x, y: (x * 255, y), "reach from 0 to 255. Divide by 255 first"),
    (lambda x, y: (x - 0.5, y), "reach from -0.5 to 0.5. Undo the normalisation"),
    (lambda x, y: (nan(x), y), "NaN or infinite"),
    (lambda x, y: ((x * 255).byte(), y), "Use .float\\(\\) / 255"),
    (lambda x, y: (x[0], y), "shape \\(B, C, H, W\\)"),
    (lambda x, y: (x.repeat(1, 3, 1, 1), y), "does not take images of shape \\(3, 28, 28\\)"),
    (lambda x, y: (x, y + 5), "labels must lie in 0..9"),
    (lambda x, y: (x, y - 1), "labels must lie in 0..9"),
    (lambda x, y: (x, y[:3]), "labels must be int64 of shape \\(32,\\)"),
])
def test_bad_images_and_labels_are_refused_in_a_sentence(net, digits, change, message):
    x, y = change(*digits)
    with pytest.raises(ValueError, match=message):
        pgd(net, x, y, norm="l2", eps=1.0, step_size=0.5, steps=2)


@pytest.mark.parametrize("wrong, message", [
    ({"norm": "l1"}, "'norm' is 'l1': it should be 'linf' or 'l2'"),
    ({"eps": -1.0}, "'eps' is -1.0: it should be greater than 0"),
    ({"epsilon": 1.0}, "parameter 'epsilon' does not exist; did you mean 'eps'"),
    ({"steps": 2.5}, "'steps' is 2.5"),
])
def test_bad_settings_are_refused_in_a_sentence(net, digits, wrong, message):
    settings = dict(norm="l2", eps=1.0, step_size=0.5, steps=2) | wrong
    with pytest.raises(ValueError, match=message):
        pgd(net, *digits, **settings)


@pytest.mark.parametrize("wrong, message", [
    ({"lam": -0.1}, "he_pgd: 'lam' is -0.1: it should be greater than or equal to 0"),
    ({"lam": float("nan")}, "he_pgd: 'lam' is nan: it should be a finite number"),
    ({"lamda": 1.0}, "parameter 'lamda' does not exist; did you mean 'lam'"),
    ({"steps": 0}, "'steps' is 0: it should be greater than or equal to 1"),
])
def test_he_pgd_refuses_bad_settings(net, digits, wrong, message):
    with pytest.raises(ValueError, match=message):
        he_pgd(net, *digits, **wrong)


@pytest.mark.parametrize("last, message", [
    (torch.nn.Softmax(1), "returns probabilities, .* leave out its softmax"),
    (torch.nn.LogSoftmax(1), "returns log-probabilities, .* leave out its log-softmax"),
])
def test_a_model_of_probabilities_is_found_out(net, digits, last, message):
    model = torch.nn.Sequential(net, last)
    with pytest.raises(ValueError, match=message):
        he_pgd(model, *digits)
