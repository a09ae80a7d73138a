"""Nets that noise or denoise their images first: what they compute, and what attacks make of it."""

import pytest
import torch

from robustgen.attacks import smoothing
from robustgen.attacks.evaluation import accuracy
from robustgen.attacks.gradient_based import pgd
from robustgen.core import rng
from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.probes import scores
from robustgen.training import denoising


@pytest.fixture(scope="module")
def joint():
    """A GradResNet on digits, trained for a moment, and digits."""
    model = build_model("gradresnet", width=8, blocks=[1, 1], channels=1, generator=0)
    objective = denoising.JointDenoising(model, task="joint", sigma_classification=[0, 20], sigma_denoising=[1, 100],
                                         margin=0, mixed=False, every=2)
    optimizer = torch.optim.AdamW(objective.parameters(), 5e-3)
    images = load_data("mnist", "train", 1500, seed=0)
    for i in range(120):
        part = images[(torch.arange(50) + 50 * i) % 1500]
        loss, _ = objective(part.unit, part.y, rng.seeds(i, 50))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    images = load_data("mnist", "test", 60, seed=0)
    return images.unit, images.y


def test_a_defended_net_sees_noised_or_denoised_images(joint, batch):
    x = batch[0]
    assert torch.equal(smoothing.defended(joint, "noised", 0.0)(x), joint(x))
    seeds = rng.seeds(0, 60)
    noised = smoothing.defended(joint, "noised", 25.0, seeds=seeds)
    first, second = noised(x), noised(x)
    assert torch.equal(first, joint(x + 25 / 255 * rng.normal(seeds, x.shape[1:], stream=0)))
    assert not torch.equal(first, second)
    assert noised(x[:1].expand(60, -1, -1, -1)).std(0).min() > 0   # an image has noise of its own
    several = smoothing.defended(joint, "noised", 25.0, seeds=seeds, draws=3)(x)
    noise = rng.normal(seeds, (3, *x.shape[1:]), stream=0)
    assert torch.allclose(several, sum(joint(x + 25 / 255 * noise[:, i]) for i in range(3)) / 3, atol=1e-4)
    denoised = smoothing.defended(joint, "denoised", 25.0)
    assert torch.allclose(denoised(x), joint(scores.denoise(joint, x, 25)), atol=1e-5)


def test_an_attack_can_look_through_the_denoiser(joint, batch):
    x = batch[0][:4].double()
    net = build_model("gradresnet", width=8, blocks=[1, 1], channels=1).double().eval().requires_grad_(False)
    net.load_state_dict(joint.double().state_dict())
    joint.float()
    classify, z = smoothing.defended(net, "denoised", 25.0), x.clone().requires_grad_()
    gradient, = torch.autograd.grad(classify(z)[:, 3].sum(), z)
    v, h = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)), 1e-6
    difference = (classify(x + h * v) - classify(x - h * v))[:, 3] / (2 * h)
    assert torch.allclose((gradient * v).sum((1, 2, 3)), difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("defence", ["noised", "denoised"])
def test_the_grid_is_what_the_attacks_alone_give(joint, batch, defence):
    x, y = batch
    attack = dict(norm="linf", eps=0.04, step_size=0.02, steps=5)
    settings = dict(defence=defence, sigmas=[0, 25], epsilons=[0, 0.04], norm="linf", steps=5, generator=0)
    blind, aware = smoothing.withstood(joint, x, y, **settings)
    for whole, parts in zip((blind, aware), smoothing.withstood(joint, x, y, batch=7, **settings)):
        assert (whole != parts).sum() <= 2   # of 240: sums differ by rounding
    seeds = rng.seeds(0, 60)
    target, bare = smoothing.defended(joint, defence, 25.0, seeds=rng.fold(seeds, 1)), pgd(joint, x, y, **attack)

    def right(images):   # a judge has one draw of the noise for each attack
        judge = smoothing.defended(joint, defence, 25.0, seeds=rng.fold(seeds, 2))
        return judge(images).argmax(1) == y

    for grid in (blind, aware):
        assert torch.equal(grid[0, 0], joint(x).argmax(1) == y) and torch.equal(grid[0, 1], joint(bare).argmax(1) == y)
        assert torch.equal(grid[1, 0], right(x))
    assert torch.equal(blind[1, 1], right(bare)) and blind[0, 0].float().mean() > 0.5
    assert not (aware & ~blind).any()
    if defence == "denoised":
        assert torch.equal(aware[1, 1], right(bare) & right(pgd(target, x, y, **attack)))


def test_a_net_without_a_denoiser_can_be_noised_but_not_denoised(net, digits):
    x, y = digits
    settings = dict(sigmas=[0, 50], epsilons=[0], norm="l2", steps=2, generator=0)
    clean, noised = smoothing.withstood(net, x, y, defence="noised", **settings)[0][:, 0].float().mean(1)
    assert clean.item() == pytest.approx(accuracy(net, x, y)) and noised > 0.2
    with pytest.raises(ValueError, match="has no denoising head"):
        smoothing.withstood(net, x, y, defence="denoised", **settings)
    with pytest.raises(ValueError, match="has no denoising head"):
        smoothing.defended(net, "denoised", 25.0)
    with pytest.raises(ValueError, match="'defence' is 'blurred'"):
        smoothing.withstood(net, x, y, defence="blurred", **settings)


def test_noise_without_seeds_or_with_too_few_is_refused(net, digits):
    with pytest.raises(ValueError, match="needs 'seeds', one for each image"):
        smoothing.defended(net, "noised", 25.0)
    with pytest.raises(ValueError, match="32 images, and seeds for 3 only"):
        smoothing.defended(net, "noised", 25.0, seeds=rng.seeds(0, 3))(digits[0])
    with pytest.raises(ValueError, match="'sigma' is -25.0|'2' is -25.0"):
        smoothing.defended(net, "denoised", -25.0)
