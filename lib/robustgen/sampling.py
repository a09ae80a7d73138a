"""Images from a denoiser's density: the steps of a diffusion model, and annealed Langevin dynamics.

Both go down the same noise levels and end with a denoised image. sigma is in 0-255 units, as in `scores`.
"""

import torch

from . import ascent, rng, scores
from .config import Count, Positive, arguments


@arguments
def noise_levels(highest: Positive, lowest: Positive, count: Count):
    """Noise levels (count,) from the highest to the lowest, in equal ratios, in 0-255 units."""
    if lowest > highest:
        raise ValueError(f"the lowest noise level, {lowest:g}, is above the highest, {highest:g}; swap them")
    return torch.logspace(0, 1, count, base=lowest / highest, dtype=torch.float64) * highest


def ancestral(model, y, sigmas, *, c=None, generator=None, progress=False):
    """The reverse steps of a diffusion model (Ho et al. 2020, as Song et al. 2021 write them for growing variance): (B, C, H, W).

    From level s to the next lower one t:  y <- y + (s^2 - t^2) grad log p(y) + t sqrt(1 - t^2 / s^2) e,  e ~ N(0, I).
    The last step gives D(y).

    y        (B, C, H, W), images of noise level sigmas[0]. model   with `denoise(y, sigma)`.
    sigmas   (L,) from the highest, see `noise_levels`.
    c        classes (B,) of a joint model: samples of p(y | c); None: of p(y).

    Results are not kept in [0, 1].
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, len(y), y.device)
    sigmas = [float(sigma) for sigma in sigmas]
    with torch.no_grad():
        for i, (s, t) in enumerate(tqdm(list(zip(sigmas, sigmas[1:])), desc="ancestral sampling", unit="step", disable=not progress)):
            step = 1 - t**2 / s**2   # (s^2 - t^2) grad log p(y) is this share of D(y) - y
            y = y + step * (_denoise(model, y, s, c) - y) + t / 255 * step**0.5 * rng.normal(seeds, y.shape[1:], stream=i).to(y.dtype)
        return _denoise(model, y, sigmas[-1], c)


@arguments
def annealed_langevin(model, y, sigmas, *, steps: Count, step_size: Positive, c=None, generator=None, progress: bool = False):
    """Langevin dynamics at one noise level after the other (Song & Ermon 2019, Algorithm 1), then D(y): (B, C, H, W).

    At level s, `steps` times:  y <- y + a / 2 grad log p(y) + sqrt(a) e,  a = step_size s^2,  e ~ N(0, I).

    model, y, sigmas, c   as in `ancestral`; the model is a joint one, as log p itself is climbed.
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, len(y), y.device)
    for i, s in enumerate(tqdm([float(sigma) for sigma in sigmas], desc="annealed Langevin", unit="level", disable=not progress)):
        a = step_size * (s / 255) ** 2
        y = ascent.ascend(y, lambda y: scores.log_density(model, y, c), step=ascent.scaled(a / 2), project=lambda y: y,
                          steps=steps, noise=a**0.5, generator=rng.fold(seeds, i))
    with torch.no_grad():
        return _denoise(model, y, s, c)


def _denoise(model, y, sigma, c):
    """Without the check of the images' range: a sampler may leave it, and its result is shown whatever it is."""
    return scores.denoise_unchecked(model, y, torch.full((len(y),), sigma, dtype=y.dtype, device=y.device), c)
