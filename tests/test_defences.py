"""Nets that noise or denoise their images first: what they compute, and what attacks make of it."""

import pytest
import torch
from robustgen import attacks, data, defences, models, objectives, rng, scores


@pytest.fixture(scope="module")
def joint():
    """A GradResNet on digits, trained for a moment, and digits."""
    model = models.build("gradresnet", width=8, blocks=[1, 1], channels=1, generator=0)
    objective = objectives.JointDenoising(model, task="joint", sigma_classification=[0, 20], sigma_denoising=[1, 100], margin=0, mixed=False, every=2)
    optimizer = torch.optim.AdamW(objective.parameters(), 5e-3)
    images = data.load("mnist", "train", 1500, seed=0)
    for i in range(120):
        part = images[(torch.arange(50) + 50 * i) % 1500]
        loss, _ = objective(part.unit, part.y, rng.seeds(i, 50))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    images = data.load("mnist", "test", 60, seed=0)
    return images.unit, images.y


def test_a_defended_net_sees_noised_or_denoised_images(joint, batch):
    x = batch[0]
    assert torch.equal(defences.defended(joint, "noised", 0)(x), joint(x))
    seeds = rng.seeds(0, 60)
    noised = defences.defended(joint, "noised", 25.0, generator=seeds, n=60)
    first, second = noised(x), noised(x)
    assert torch.equal(first, joint(x + 25 / 255 * rng.normal(seeds, x.shape[1:], stream=0))) and not torch.equal(first, second)
    denoised = defences.defended(joint, "denoised", 25.0)
    assert torch.allclose(denoised(x), joint(scores.denoise(joint, x, 25)), atol=1e-5)


def test_an_attack_can_look_through_the_denoiser(joint, batch):
    x = batch[0][:4].double()
    net = models.build("gradresnet", width=8, blocks=[1, 1], channels=1).double().eval().requires_grad_(False)
    net.load_state_dict(joint.double().state_dict())
    joint.float()
    classify, z = defences.defended(net, "denoised", 25.0), x.clone().requires_grad_()
    gradient, = torch.autograd.grad(classify(z)[:, 3].sum(), z)
    v, h = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)), 1e-6
    difference = (classify(x + h * v) - classify(x - h * v))[:, 3] / (2 * h)
    assert torch.allclose((gradient * v).sum((1, 2, 3)), difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("defence", ["noised", "denoised"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_the_grid_is_what_the_attacks_alone_give(joint, batch, defence, adaptive):
    x, y = batch
    settings = dict(defence=defence, sigmas=[0, 25], epsilons=[0, 0.04], norm="linf", steps=5, adaptive=adaptive, generator=0)
    grid = defences.defended_accuracy(joint, x, y, **settings)
    assert torch.allclose(grid, defences.defended_accuracy(joint, x, y, batch=7, **settings), atol=0.04)   # noise is the image's own; sums differ by rounding
    assert grid[0, 0].item() == pytest.approx(attacks.accuracy(joint, x, y))
    attacked = attacks.pgd(joint, x, y, norm="linf", eps=0.04, step_size=0.02, steps=5)
    assert grid[0, 1].item() == pytest.approx(attacks.accuracy(joint, attacked, y), abs=0.02)
    assert grid[0, 0] > 0.5 and (grid[:, 1] <= grid[:, 0] + 0.02).all()
    if adaptive:
        blind = defences.defended_accuracy(joint, x, y, **settings | {"adaptive": False})
        assert grid[1, 1] <= blind[1, 1] + 0.05   # knowing the defence does not hurt the attack


def test_a_net_without_a_denoiser_can_be_noised_but_not_denoised(net, digits):
    x, y = digits
    settings = dict(sigmas=[0, 50], epsilons=[0], norm="l2", steps=2, adaptive=True, generator=0)
    clean, noised = defences.defended_accuracy(net, x, y, defence="noised", **settings)[:, 0]
    assert clean.item() == pytest.approx(attacks.accuracy(net, x, y)) and noised > 0.2
    with pytest.raises(ValueError, match="has no denoising head"):
        defences.defended_accuracy(net, x, y, defence="denoised", **settings)
    with pytest.raises(ValueError, match="'defence' is 'blurred'"):
        defences.defended_accuracy(net, x, y, defence="blurred", **settings)
