"""Langevin chains of a class, where they begin, and the buffers they rest in. Algorithm 1's own line is in
test_objectives."""

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from robustgen.core import dynamics, rng
from robustgen.data.datasets import Images
from robustgen.models.builders import build_model
from robustgen.sampling.chains import langevin
from robustgen.sampling.drift import DIFFUSION
from robustgen.sampling.starts import gaussian_start
from robustgen.training import jem
from robustgen.training.family import _fabric
from robustgen.training.registry import build_objective
from robustgen.training.replay import ReplayBuffer
from robustgen.training.runs import Run
from robustgen.training.trainer import train_net
from robustgen.utils.fields import checked_settings

SHAPE = (1, 6, 6)
JEM = dict(sigma=0.0, sgld_steps=2, sgld_step=0.25, sgld_noise=0.005, buffer=12, reinit=0.3, start="uniform")


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def chains():
    """Where ten chains begin, and their classes."""
    return gaussian_start(10, SHAPE, generator=0).double(), torch.arange(10) % 4


@pytest.fixture(scope="module")
def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.GELU(), nn.Flatten(),
                         nn.Linear(16, 4)).double().requires_grad_(False)


# Chains

def test_a_step_down_a_linear_models_joint_energy_is_its_closed_form(chains):
    """Eq. 10 for f = W x + b: x <- x + step_size W_y + noise e."""
    (x, y), W, seeds = chains, numbers(36, 4), rng.seeds(3, 10)
    found = langevin(lambda z: z.flatten(1) @ W + 2, x, y, steps=2, step_size=0.07, noise=0.02, generator=seeds)
    noise = sum(rng.normal(rng.fold(seeds, DIFFUSION), SHAPE, stream=t) for t in range(2))
    expected = x + 2 * 0.07 * W.T[y].view_as(x) + 0.02 * noise
    assert torch.allclose(found, expected)
    assert found.max() > 1   # chains may leave the range of pixels


@pytest.mark.parametrize("energy, loss",
                         [("cross-entropy", cross_entropy),
                          ("joint", lambda logits, y, reduction: -logits[range(len(y)), y])])
def test_a_step_follows_autograd(smooth, chains, energy, loss):
    x, y = chains
    z = x
    for _ in range(3):
        z = z.detach().requires_grad_()
        gradient, = torch.autograd.grad(loss(smooth(z), y, reduction="none").sum(), z)
        z = z - 0.5 * gradient
    found = langevin(smooth, x, y, energy=energy, steps=3, step_size=0.5, noise=0.0)
    assert torch.allclose(found, z.detach(), rtol=1e-10) and (found - x).abs().max() > 0.01


def test_where_the_net_is_sure_float32_keeps_the_cross_entropys_gradient(chains):
    """p(not y | x) is 1e-13 or so, of which 1 - p(y | x) keeps nothing."""
    (x, y), W = chains, numbers(36, 4) / 10

    def model(z):
        return z.flatten(1) @ W.to(z.dtype) + 30 * torch.nn.functional.one_hot(y[:len(z)], 4)

    settings = dict(energy="cross-entropy", steps=1, step_size=1e12, noise=0.0, batch=10)
    single, double = (langevin(model, x.to(dtype), y, **settings).double() - x
                      for dtype in (torch.float32, torch.float64))
    assert double.abs().mean() > 1e-3 and torch.allclose(single, double, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("energy", ["joint", "cross-entropy"])
def test_energy_falls_along_chains_without_noise(net, digits, energy):
    x, y = digits[0], (digits[1] + 1) % 10   # of other classes than the images'
    values = []
    for steps in (None, 1, 2, 4, 8, 16):
        z = x if steps is None else langevin(net, x, y, energy=energy, steps=steps, step_size=2e-3, noise=0.0)
        logits = net(z)
        values.append(-logits[range(32), y] if energy == "joint" else cross_entropy(logits, y, reduction="none"))
    assert all((later < earlier).all() for earlier, later in zip(values, values[1:]))


def test_chains_do_not_depend_on_batches_order_or_neighbours(smooth, chains):
    x, y = chains
    seeds, settings = torch.arange(10), dict(steps=4, step_size=0.5, noise=0.05)
    whole = langevin(smooth, x, y, generator=seeds, **settings)
    for batch in (1, 3, 7):
        assert torch.allclose(langevin(smooth, x, y, generator=seeds, batch=batch, **settings), whole, rtol=1e-10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(langevin(smooth, x[order], y[order], generator=seeds[order], batch=4, **settings),
                          whole[order], rtol=1e-10)
    one, other = (langevin(smooth, x, y, generator=seed, **settings) for seed in (0, 1))
    assert torch.equal(langevin(smooth, x, y, generator=0, **settings), one) and not torch.allclose(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_weights_rest_meanwhile_and_are_left_as_they_were(chains, training):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.Linear(8, 4)).double().train(training)
    model[3].bias.requires_grad_(False)
    seen = []

    def see(module, inputs, output):
        seen.append((torch.is_grad_enabled(), module.training, any(p.requires_grad for p in module.parameters())))

    model.register_forward_hook(see)
    langevin(model, *chains, steps=2, step_size=0.1, noise=0.0)
    assert [during for during in seen if during[0]] == [(True, False, False)] * 2
    assert model.training == training and all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]


@pytest.mark.parametrize("change, message", [
    ({"steps": 0}, "'steps' is 0"), ({"step_size": 0.0}, "'step_size' is 0"),
    ({"step_size": float("inf")}, "'step_size' is inf"),
    ({"noise": -0.1}, "'noise' is -0.1"),
    ({"batch": 0}, "'batch' is 0"), ({"energy": "marginal"}, "'energy' is 'marginal'"),
    ({"y": torch.full((10,), 4)}, "labels must lie in 0..3"),
    ({"y": torch.zeros(9, dtype=torch.long)}, r"labels must be int64 of shape \(10,\)"),
    ({"x0": 3 * torch.rand(10, *SHAPE).double()}, "images must lie in .0, 1."),
    ({"model": build_model("resnet10", width=4, channels=1, generator=0).double()},
     "batch norms or dropouts in train mode"),
    ({"step_size": 1e300, "steps": 3}, "10 of 10 chains are not finite; take a smaller step_size than 1e.300"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(smooth, chains, change, message):
    given = {"model": smooth, "x0": chains[0], "y": chains[1], "steps": 1, "step_size": 0.1, "noise": 0.0} | change
    if given["steps"] == 3:   # a bowl turned over: each step leads further away
        given["model"] = lambda z: z.flatten(1).square()[:, :4] ** 2 + 1
    with pytest.raises(ValueError, match=message) as error:
        langevin(**given)
    assert len(str(error.value).splitlines()) == 1


# Where they begin

def labelled(*counts, shape=(1, 2, 2), seed=0):
    """Images of as many a class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Images((torch.rand(len(y), *shape, generator=g) * 255).byte(), y, tuple("abcdefgh"[:len(counts)]))


def test_with_labels_draws_have_the_mean_and_covariance_of_their_class():
    images = labelled(20, 5, 2)
    sample, labels = dynamics.class_gaussian_start(images), torch.arange(3).repeat(20000)
    draws = sample(rng.seeds(0, 60000), labels).flatten(1)
    for k in range(3):
        own, flat = draws[labels == k].double(), images.unit[images.y == k].flatten(1).double()
        error = flat.var(0).sqrt() / 20000**0.5
        assert ((own.mean(0) - flat.mean(0)).abs() < 5 * error).all()
        assert torch.allclose(own.T.cov(), flat.T.cov(), atol=0.04 * flat.var(0).max().item())


def test_a_draw_is_the_mean_plus_the_images_deviations_at_random():
    """In float64, with and without labels; without, a chain's class is drawn from its own seed."""
    images, seeds = labelled(9, 4, 6), rng.seeds(1, 40)
    sample = dynamics.class_gaussian_start(images)
    drawn = (3 * rng.uniform(seeds, (), stream=1).double()).floor().long()
    assert set(drawn.tolist()) == {0, 1, 2}
    for labels, found in ((drawn, sample(seeds)), (drawn, sample(seeds, drawn)),
                          (drawn.flip(0), sample(seeds, drawn.flip(0)))):
        for seed, k, image in zip(seeds, labels, found):
            own = images.x[images.y == k].double() / 255
            g = rng.normal(seed[None], (len(own),), stream=2).double().view(-1, 1, 1, 1)
            assert torch.allclose(image.double(),
                                  own.mean(0) + (g * (own - own.mean(0))).sum(0) / (len(own) - 1) ** 0.5, atol=1e-5)
    # a product's float32 rounding may depend on its number of rows
    assert torch.allclose(sample(seeds[7:9], drawn[7:9]), sample(seeds, drawn)[7:9], atol=1e-5)


@pytest.mark.parametrize("counts, name, number", [((3, 1, 4), "b", 1), ((2, 3, 0), "c", 0), ((1,), "a", 1)])
def test_a_class_of_fewer_than_two_images_is_refused_by_name(counts, name, number):
    with pytest.raises(ValueError, match=f"^class '{name}' has {number} training images, and its mean and covariance "
                                         "need 2; take more images"):
        dynamics.class_gaussian_start(labelled(*counts))


def test_an_objective_that_starts_at_class_gaussians_refuses_a_lonely_class():
    objective = build_objective(build_model("mnist_cnn", width=2, hidden=4, generator=0), "JEM",
                                **JEM | {"start": "class_gaussian"})
    with pytest.raises(ValueError, match="class 'b' has 1 training images"):
        objective.prepare(labelled(2, 1, 9), 0, 4, 4, seed=0)


@pytest.mark.parametrize("labels", [torch.tensor([0, 2, 1]), torch.tensor([0, -1, 1]), torch.tensor([0, 1])])
def test_a_label_of_no_class_gets_no_image(labels):
    """Not one of memory as it happens to be."""
    with pytest.raises(ValueError, match="labels must"):
        dynamics.class_gaussian_start(labelled(3, 3))(rng.seeds(0, 3), labels)


# Where they rest

def build(name, model=None, **changes):
    settings = JEM | ({} if name == "JEM" else {"eps": 0.1}) | changes
    if name == "JEAT":
        settings.pop("sigma")
    return build_objective(model or build_model("mnist_cnn", width=2, hidden=4, generator=0), name, **settings)


@pytest.mark.parametrize("name", ["JEM", "JEAT"])
def test_a_buffer_larger_than_memory_is_refused_at_once(name):
    images, began = labelled(3, 3), time.perf_counter()
    message = (r"^a replay buffer of 10{15} chains of shape \(1, 2, 2\) takes 1.49e\+07 GiB, "
               "and there are .* GiB of memory; lower 'buffer'$")
    with pytest.raises(ValueError, match=message):
        build(name, buffer=10**15).prepare(images, 0, 4, 4, seed=0)
    assert time.perf_counter() - began < 5


def test_a_run_with_such_a_buffer_stops_before_its_first_step(tmp_path, monkeypatch):
    run = {"data": "mnist", "images": 100, "flip": False, "crop": 0,
           "model": {"name": "mnist_cnn", "width": 2, "hidden": 4},
           "objective": {"name": "JEM", **JEM, "buffer": 10**15}, "over": {"seed": [0]}, "seed": 0, "epochs": 1,
           "batch": 50, "optimizer": {"name": "SGD", "lr": 0.1}, "schedule": {"name": "constant"}, "bound": 1000.0,
           "test_images": 10, "snapshots": False, "weights": "float32", "precision": "32-true", "compile": False,
           "channels_last": True}
    monkeypatch.setattr(jem.JEM, "forward", lambda *args, **kwargs: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match="replay buffer of 10{15} chains .* GiB of memory; lower 'buffer'"):
        train_net(checked_settings(Run, run, "run"), tmp_path / "net", _fabric("32-true", "ddp"), source="run")
    assert list(tmp_path.iterdir()) == []


def test_each_position_has_an_equal_share_of_the_buffer():
    objective = build("JEM", buffer=14)
    objective.prepare(labelled(3, 3), 0, 4, 4, seed=0)
    assert objective.state().shape == (4, 3, 1, 2, 2)   # 14 // 4 chains a position
    with pytest.raises(ValueError, match="'buffer' is 3: it should hold a chain for each of the 4 images of a batch"):
        build("JEM", buffer=3).prepare(labelled(3, 3), 0, 4, 4, seed=0)


def test_kept_chains_are_gone_on_with_and_others_refused():
    buffer = ReplayBuffer(dynamics.uniform_start(labelled(2)), 0, 3, 2, seed=1)
    kept = torch.rand(3, 2, 1, 2, 2, dtype=torch.float64)
    buffer.replace(kept)
    assert torch.equal(buffer.chains, kept.float())
    x, slot = buffer.draw(rng.seeds(0, 3), 0.0)
    assert torch.equal(x, kept.float()[range(3), slot])
    message = ("the kept replay buffer is of shape .*, and this dataset and these settings need "
               r"\(3, 2, 1, 2, 2\); delete the run's folder")
    for shape in ((3, 2, 1, 4, 4), (3, 5, 1, 2, 2), (2, 2, 1, 2, 2)):
        with pytest.raises(ValueError, match=message):
            buffer.replace(torch.zeros(shape))
    assert torch.equal(buffer.chains, kept.float())


@pytest.mark.parametrize("name", ["JEM", "JEAT"])
@pytest.mark.parametrize("change, message", [
    ({"sgld_steps": 0}, "'sgld_steps' is 0"), ({"sgld_step": 0.0}, "'sgld_step' is 0"),
    ({"sgld_step": -0.1}, "'sgld_step' is -0.1"),
    ({"sgld_noise": -1.0}, "'sgld_noise' is -1.0"), ({"buffer": 0}, "'buffer' is 0"),
    ({"reinit": 1.0}, "'reinit' is 1.0"), ({"start": "perlin"}, "'start' is 'perlin'"),
])
def test_settings_that_would_sample_nothing_are_refused_at_construction(name, change, message):
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        build(name, **change)
