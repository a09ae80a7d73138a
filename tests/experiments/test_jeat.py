"""The judge, the sampler and the scores that nets are compared by."""

import copy

import pytest
import torch

from robustgen.attacks.evaluation import robust_accuracy
from robustgen.data.datasets import load_data
from robustgen.experiments import jeat
from robustgen.experiments.jeat import EnergyData, EnergyNet, Judge, Sampler, Study, fisher_scores
from robustgen.metrics.frechet import frechet_distance, inception_score
from robustgen.models.builders import build_model
from robustgen.models.wrappers import Tempered
from robustgen.probes import fisher
from robustgen.sampling.chains import langevin
from robustgen.sampling.starts import gaussian_start


@pytest.fixture(scope="module")
def real():
    return load_data("mnist", "train", 400, seed=9).unit


@pytest.fixture(scope="module")
def judge(net, real):
    return Judge(net, "9", real)   # the hidden layer


@pytest.fixture(scope="module")
def double(net):
    return copy.deepcopy(net).double()


@pytest.fixture(scope="module")
def many():
    images = load_data("mnist", "test", 200, seed=3)
    return images.unit, images.y


# The judge

def test_real_images_are_nearer_to_real_ones_than_noise_is(judge, many):
    x, y = many
    images, right = judge.grade(x, y)
    noise, _ = judge.grade(gaussian_start(200, (1, 28, 28), sigma=0.3, generator=0), y)
    assert images["FD"] < 0.2 * noise["FD"] and images["IS"] > 2 * noise["IS"]
    assert images["named"] == pytest.approx(right.double().mean().item())
    assert images["named"] > 0.8 > 0.4 > noise["named"]


def test_grades_are_those_of_the_nets_features_and_answers(judge, net, real, many):
    x, y = many
    grade, right = judge.grade(x, y)
    logits = net(x)
    assert grade["FD"] == pytest.approx(frechet_distance(logits, net(real)), rel=1e-4)
    assert torch.allclose(judge(x)[0], net[:10](x), atol=1e-4)
    assert grade["IS"] == pytest.approx(inception_score(logits), rel=1e-5) and torch.equal(right, logits.argmax(1) == y)
    assert Judge(net, "9", x).grade(x, y)[0]["FD"] == pytest.approx(0, abs=1e-3 * logits.var(0).sum().item())


def test_a_judge_sees_images_clamped_and_in_batches_of_any_size(judge, net, real, many):
    x, y = many
    wild = 3 * x - 1
    assert torch.equal(judge(wild)[1], judge(wild.clamp(0, 1))[1])
    assert not torch.allclose(judge(wild)[1], net(wild), atol=1e-2)
    few = Judge(net, "9", real, batch=7)
    assert torch.allclose(few.reference, judge.reference, atol=1e-4)
    assert torch.allclose(few(x)[0], judge(x)[0], atol=1e-4)
    assert few.grade(x, y)[0]["FD"] == pytest.approx(judge.grade(x, y)[0]["FD"], rel=1e-3)


def test_features_of_any_shape_are_flattened(net, real):
    found, logits = Judge(net, "0", real)(real[:3])
    assert found.shape == (3, 8 * 28 * 28) and logits.shape == (3, 10) and not found.requires_grad


@pytest.mark.parametrize("make, message", [
    (lambda net, x: Judge(net, "99", x), "layer '99' does not exist"),
    (lambda net, x: Judge(build_model("resnet10", width=4, channels=1, generator=0), "layer4", x),
     "batch norms or dropouts in train mode"),
    (lambda net, x: Judge(net, "9", x).grade(x[:1], torch.tensor([0])), "a Gaussian is fitted to at least 2 images"),
])
def test_what_does_not_fit_is_refused(net, digits, make, message):
    with pytest.raises(ValueError, match=message):
        make(net, digits[0])


# The sampler

def sampler(x0, y, **changes):
    return Sampler(**{"x0": x0, "y": y, "seeds": torch.arange(len(x0)), "stride": 0.5, "steps": 6, "noise": 0.02}
                   | changes)


def length(model, x, y):
    return fisher.joint_fisher_score(model, x, y, draws=1, generator=0).length


def test_a_net_whose_logits_are_ten_times_as_large_makes_the_same_images(double, many):
    x, y = many[0][:20].double(), many[1][:20]
    draw = sampler(gaussian_start(20, (1, 28, 28), generator=1).double(), y)
    assert torch.allclose(Tempered(double, 0.1)(x), 10 * double(x))
    one, ten = (draw(model, length(model, x, y)) for model in (double, Tempered(double, 0.1)))
    assert torch.allclose(one, ten, atol=1e-6) and one.min() >= 0 and one.max() <= 1
    # the step alone would not do
    assert not torch.allclose(one, draw(Tempered(double, 0.1), length(double, x, y)), atol=0.05)


def test_the_stride_is_the_root_mean_square_length_of_a_step_from_a_real_image(double, many):
    x, y = 0.3 + 0.4 * many[0][:20].double(), many[1][:20]   # away from black and white
    moved = sampler(x, y, stride=0.05, steps=1, noise=0.0)(double, length(double, x, y)) - x
    assert moved.flatten(1).square().sum(1).mean().sqrt().item() == pytest.approx(0.05)


def test_samples_are_langevin_chains_of_either_energy(double, many):
    x0, y = gaussian_start(8, (1, 28, 28), generator=2).double(), many[1][:8]
    for energy in ("joint", "cross-entropy"):
        chains = langevin(double, x0, y, energy=energy, steps=6, step_size=0.5 / 4, noise=0.02,
                          generator=torch.arange(8))
        assert torch.equal(sampler(x0, y)(double, 4.0, energy), chains.clamp(0, 1))
    assert torch.equal(sampler(x0, y)(double, 4.0), sampler(x0, y)(double, 4.0, "joint"))
    lower = [-double(z)[range(8), y].mean() for z in (x0, sampler(x0, y, noise=0.0)(double, 4.0))]
    assert lower[1] < lower[0]


# The scores

def test_scores_are_the_fisher_scores_at_real_images(double, many):
    x, y = many[0][:20].double(), many[1][:20]
    row = fisher_scores(double, x, y, draws=4, sigma=0.3, generator=5)
    joint, noisy = (fisher.joint_fisher_score(double, x, y, sigma=sigma, draws=4, generator=5) for sigma in (0.0, 0.3))
    marginal = fisher.marginal_fisher_score(double, x, draws=4, generator=5)
    assert row == {"JFS": joint.mean, "JFS error": joint.standard_error, "JFS trace": 0, "JFS trace error": 0,
                   "MFS": marginal.mean, "MFS error": marginal.standard_error,
                   "MFS trace": marginal.trace.mean().item(), "MFS trace error": marginal.trace_error,
                   "explained": noisy.explained, "length": joint.length}
    assert all(type(value) is float for value in row.values()) and marginal.trace_error > 0


@pytest.mark.parametrize("change, message",
                         [({"draws": 0}, "scores: 'draws' is 0"), ({"sigma": 0.0}, "scores: 'sigma' is 0")])
def test_scores_without_draws_or_noise_are_refused(net, digits, change, message):
    with pytest.raises(ValueError, match=message):
        fisher_scores(net, *digits, **{"draws": 2, "sigma": 0.1} | change)


# A dataset and its nets

DIGITS = EnergyData(name="mnist", title="MNIST", eps=0.1, stride=0.1, judge="judges", judge_member={"eps": 0.1},
                    judge_layer="9", attacked={"name": "a", "run": "r", "member": {}},
                    nets=[{"name": "a", "run": "r", "member": {}}])


@pytest.fixture
def study(net, monkeypatch):
    """A study of `net`, whatever is asked of the zoo; what was asked for is kept in `asked`."""
    asked = []
    monkeypatch.setattr(jeat, "load_net", lambda run, profile, **member: asked.append((run, profile, member)) or net)
    axes = {"repeated": {"training": ["a", "b"], "seed": [0, 1, 2]}, "alone": {"training": ["a", "b"]}}
    monkeypatch.setattr(jeat, "family_axes", lambda run, profile: axes[run])
    found = Study(DIGITS, "test", images=30, real=50, start_images=200, per_class=20, steps=3, noise=0.01, seeds=[0, 2],
                  seed=4, device="cpu")
    found.asked = asked
    return found


def test_a_studys_images_do_not_overlap_and_its_chains_begin_in_their_classes(study, net):
    assert study.asked == [("judges", "test", {"device": "cpu", "eps": 0.1})]
    assert len(study.test) == 30 and len(study.real) == 50
    assert len(torch.unique(torch.cat([study.test.x, study.real.x]).flatten(1), dim=0)) == 80
    assert torch.allclose(study.judge.reference, net(study.real.unit), atol=1e-4)
    x0, y = study.sampler.x0, study.sampler.y
    assert x0.shape == (200, 1, 28, 28) and x0.min() >= 0 and x0.max() <= 1 and torch.equal(y, torch.arange(200) // 20)
    means = torch.stack([study.train.unit[study.train.y == k].mean(0) for k in range(10)])
    starts = torch.stack([x0[y == k].mean(0) for k in range(10)])
    assert torch.equal(torch.cdist(starts.flatten(1), means.flatten(1)).argmin(1), torch.arange(10))
    assert study.sampler.stride == 0.1 and study.sampler.steps == 3 and study.sampler.noise == 0.01


def test_the_noise_of_a_chain_is_not_what_its_beginning_was_drawn_with(study):
    """Each chain's beginning as weights of its class's images, against the noise of its steps, pixel by pixel."""
    x0, y = study.sampler.x0, study.sampler.y
    grey = torch.full_like(x0, 0.5)

    def flat(z):
        return 0 * z.flatten(1)[:, :10] + torch.arange(10.0)

    moved = langevin(flat, grey, y, steps=3, step_size=1.0, noise=1.0, generator=study.sampler.seeds)
    products = []
    for k in range(10):
        own = study.train.unit[study.train.y == k].flatten(1)
        weights = torch.linalg.lstsq((own - own.mean(0)).T, (x0[y == k].flatten(1) - own.mean(0)).T,
                                     driver="gelsd").solution.T
        half = len(own) // 2
        product = weights / weights.std() * (moved - grey)[y == k].flatten(1)[:, :len(own)] / 3**0.5
        products.append(product[:, :half].flatten())
    products = torch.cat(products)
    assert abs(products.mean()) < 4 / len(products) ** 0.5


def test_members_are_a_nets_repeats(study):
    def named(**net):
        return study.members(EnergyNet(name="a", **net))
    repeats = {0: {"training": "a", "seed": 0}, 2: {"training": "a", "seed": 2}}
    assert named(run="repeated", member={"training": "a"}) == repeats
    assert named(run="repeated", member={"training": "a", "seed": 1}) == {1: {"training": "a", "seed": 1}}
    assert named(run="alone", member={"training": "b"}) == {0: {"training": "b"}}


def test_epochs_are_those_with_snapshots_but_the_last(study, monkeypatch):
    for snapshots, expected in ((True, [1, 2, 3]), (False, [])):
        record = {"settings": {"epochs": 4, "snapshots": snapshots}}
        monkeypatch.setattr(jeat, "training_record", lambda run, profile, **member: record)
        assert [*study.epochs(DIGITS.attacked, {})] == expected


def test_robust_images_withstand_pgd_at_the_datasets_radius(study, net):
    x, y = study.test.unit[:20], study.test.y[:20]
    found = study.robust(net, 20, 5, generator=1)
    assert torch.equal(found, robust_accuracy(net, x, y, norm="linf", eps=0.1, step_size=0.05, steps=5,
                                              random_start=True, generator=1, each=True))
    assert 0 < found.float().mean() < 1
