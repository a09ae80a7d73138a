"""Samplers: on a Gaussian, whose denoiser and density are known, and step by step against their formulas."""

import pytest
import torch
from torch import nn

from robustgen.core import rng
from robustgen.models.builders import build_model
from robustgen.probes import scores
from robustgen.sampling import diffusion

MEAN, SPREAD = 0.4, 60.0   # of the pixels, the spread in 0-255 units


class Gaussian(nn.Module):
    """The exact joint model of pixels N(MEAN, SPREAD^2) at noise level `sigma`, which a GradResNet's density would have
    to be told."""

    sigma = 1.0

    def denoise(self, y, sigma):
        share = SPREAD**2 / (SPREAD**2 + sigma.view(-1, 1, 1, 1) ** 2)
        return MEAN + share * (y - MEAN)

    def features(self, y):
        return (y - MEAN).flatten(1) * (255**2 / (SPREAD**2 + self.sigma**2)) ** 0.5

    def density(self, features):
        return features.norm(dim=1, keepdim=True)


def start(sigma, n=400):
    noise = rng.normal(rng.seeds(3, n), (3, 4, 4)).double()
    return MEAN + (SPREAD**2 + sigma**2) ** 0.5 / 255 * noise


@pytest.mark.parametrize("levels", [60, 200])
def test_ancestral_steps_sample_the_gaussian(levels):
    sigmas = diffusion.noise_levels(100, 1, levels)
    x = diffusion.ancestral(Gaussian(), start(100), sigmas, generator=0)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() * 255 == pytest.approx(SPREAD, rel=0.05)


def test_annealed_langevin_samples_the_gaussian():
    model = Gaussian()
    model.sigma = 20.0
    y = start(200)
    x = diffusion.annealed_langevin(model, y, [20.0], steps=400, step_size=0.3, generator=0)
    assert y.std().item() * 255 > 3 * SPREAD and x.mean().item() == pytest.approx(MEAN, abs=0.01)
    shrunk = SPREAD**2 / (SPREAD**2 + 20**2)   # by the denoising at the end
    assert x.std().item() * 255 == pytest.approx((SPREAD**2 + 20**2) ** 0.5 * shrunk, rel=0.05)


class Blind(nn.Module):
    """A joint model that is not told the noise, of images that are all MEAN: log p is such that it finds its level in y
    itself."""

    def denoise(self, y, sigma):
        away = y - MEAN
        found = away.square().mean((1, 2, 3), keepdim=True)   # the noise's variance
        return y - (sigma.view(-1, 1, 1, 1) / 255) ** 2 * away / found


def test_only_the_blind_sampler_takes_all_noise_from_a_net_that_is_not_told_its_level():
    y = MEAN + 100 / 255 * rng.normal(rng.seeds(1, 50), (3, 8, 8)).double()
    off = y * 1.02 - 0.02 * MEAN   # two per cent more noise than the schedule supposes
    x = diffusion.blind(Blind(), off, step=0.2, beta=0.5, lowest=1.0, steps=100, generator=0)
    assert (x - MEAN).abs().max() < 1e-6
    left = diffusion.ancestral(Blind(), off, diffusion.noise_levels(100, 2, 60), generator=0)
    assert 255 * (left - MEAN).square().mean().sqrt() > 2   # the drift from the schedule has grown instead


def test_blind_sampling_is_its_formula_and_stops_image_by_image():
    model, seeds = joint(), rng.seeds(5, 2)
    y = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = scores.score(model, y, 50)
    s = (score[0].numel() ** 0.5 / score.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    assert torch.allclose(scores.implied_sigma(score), 255 * s.flatten())
    h, beta = 0.2, 0.3
    gamma = ((1 - beta * h) ** 2 - (1 - h) ** 2) ** 0.5
    moved = y + h * s**2 * score + gamma * s * rng.normal(seeds, (3, 8, 8), stream=0).double()
    last = scores.denoise_unchecked(model, moved, torch.full((2,), 255.0, dtype=torch.float64)) - moved
    expected = moved + last * (scores.implied_sigma(last) / 255).view(-1, 1, 1, 1) ** 2
    assert torch.allclose(diffusion.blind(model, y, step=h, beta=beta, lowest=1e-3, steps=1, generator=seeds), expected,
                          atol=1e-6)
    lowest = 255 * s.mean().item()   # one image is above it, one below
    few = diffusion.blind(model, y, step=h, beta=beta, lowest=lowest, steps=1, generator=seeds)
    assert torch.equal((few - expected).abs().amax((1, 2, 3)) < 1e-6, 255 * s.flatten() > lowest)


@pytest.mark.parametrize("call, message", [
    (lambda y: diffusion.ancestral(joint(), y, [1, 2]), "noise levels must be positive and fall"),
    (lambda y: diffusion.annealed_langevin(joint(), y, [], steps=1, step_size=0.1),
     "noise levels must be positive and fall"),
    (lambda y: diffusion.ancestral(nn.Flatten(), y, [2, 1]), "a Flatten, has no denoising head"),
    (lambda y: diffusion.blind(joint(), y, step=1.5, beta=0.5, lowest=1.0, steps=1), "'step' is 1.5"),
])
def test_bad_schedules_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 3, 8, 8, dtype=torch.float64))


def joint():
    return build_model("gradresnet", width=8, blocks=[1, 1], generator=0).double().eval().requires_grad_(False)


@pytest.mark.parametrize("c", [None, torch.tensor([1, 7])])
def test_a_step_of_each_is_its_formula(c):
    model, seeds = joint(), rng.seeds(5, 2)
    y = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s, t = 50 / 255, 20 / 255
    score = scores.score(model, y, 50, c)
    noise = rng.normal(seeds, (3, 8, 8), stream=0).double()
    stepped = y + (s**2 - t**2) * score + t * (1 - t**2 / s**2) ** 0.5 * noise
    assert torch.allclose(diffusion.ancestral(model, y, [50, 20], c=c, generator=seeds),
                          scores.denoise(model, stepped, 20, c), atol=1e-9)
    a = 0.1 * s**2
    stepped = y + a / 2 * score + a**0.5 * rng.normal(rng.fold(seeds, 0), (3, 8, 8), stream=0).double()
    found = diffusion.annealed_langevin(model, y, [50], steps=1, step_size=0.1, c=c, generator=seeds)
    assert torch.allclose(found, scores.denoise(model, stepped, 50, c), atol=1e-9)


def test_a_sample_is_the_same_in_any_batch():
    model, seeds = joint(), rng.seeds(5, 4)
    y = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def annealed_langevin(*args, **settings):
        return diffusion.annealed_langevin(*args, steps=2, step_size=0.1, **settings)

    def blind(model, y, _, generator):
        return diffusion.blind(model, y, step=0.2, beta=0.5, lowest=1.0, steps=3, generator=generator)

    for sample in (diffusion.ancestral, annealed_langevin, blind):
        whole = sample(model, y, [50, 20], generator=seeds)
        assert torch.allclose(whole[1:3], sample(model, y[1:3], [50, 20], generator=seeds[1:3]), atol=1e-9)


def test_noise_levels_fall_in_equal_ratios():
    levels = diffusion.noise_levels(100, 1, 5)
    assert levels[0] == 100 and levels[-1].item() == pytest.approx(1)
    assert torch.allclose(levels[1:] / levels[:-1], torch.tensor(10**-0.5).double())
    with pytest.raises(ValueError, match="the lowest noise level, 5, is above the highest, 1"):
        diffusion.noise_levels(1, 5, 3)
