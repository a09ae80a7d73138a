"""Images from a denoiser's density: a blind denoiser's own sampler, the steps of a diffusion model, annealed Langevin
dynamics.

The latter two follow a schedule of noise levels and suppose that the score at level s is that of s. A GradResNet is
not told s: its score is that of the noise it finds in y, so nothing corrects a drift from the schedule. `blind`
needs no schedule. All end with a denoised image; sigma is in 0-255 units, as in `scores`.
"""

import torch

from ..core import ascent, rng
from ..probes import scores
from ..utils.arguments import fraction, positive, positive_integer, validated
from ..utils.validation import check_noisy_images


@validated(highest=positive, lowest=positive, count=positive_integer)
def noise_levels(highest: float, lowest: float, count: int):
    """Noise levels (count,) from the highest to the lowest, in equal ratios, in 0-255 units."""
    if lowest > highest:
        raise ValueError(f"the lowest noise level, {lowest:g}, is above the highest, {highest:g}; swap them")
    return torch.logspace(0, 1, count, base=lowest / highest, dtype=torch.float64) * highest


@validated(step=fraction, beta=fraction, lowest=positive, steps=positive_integer)
def blind(model, y, *, step: float, beta: float, lowest: float, steps: int, c=None, generator=None,
          progress: bool = False):
    """Stochastic ascent by the noise level that the score itself implies (Kadkhodaie & Simoncelli 2021, Algorithm 1):
    (B, C, H, W).

    y <- y + h s^2 grad log p(y) + sqrt((1 - beta h)^2 - (1 - h)^2) s e,  s = sqrt(d) / ||grad log p(y)||,  e ~ N(0, I),
    image by image, until s <= `lowest` or for `steps` steps; then D(y).

    y      (B, C, H, W), noisy images. model   a joint one.
    step   h; beta   0 keeps the noise level by as much noise as is removed, towards 1 less noise is put back.
    c      classes (B,): samples of p(y | c); None: of p(y).
    """
    from tqdm import tqdm

    check_noisy_images(y, torch.inf)
    seeds = rng.seeds(generator, len(y), y.device)
    gamma = ((1 - beta * step) ** 2 - (1 - step) ** 2) ** 0.5
    unit = torch.full((len(y),), 255.0, dtype=y.dtype, device=y.device)   # D(y) - y at sigma 255 is the score
    with torch.no_grad():
        for t in tqdm(range(steps), desc="blind sampling", unit="step", disable=not progress):
            score = scores.denoise_unchecked(model, y, unit, c) - y
            s = (scores.implied_sigma(score) / 255).view(-1, 1, 1, 1)
            going = 255 * s > lowest
            if not going.any():
                break
            moved = y + step * s**2 * score + gamma * s * rng.normal(seeds, y.shape[1:], stream=t).to(y.dtype)
            y = torch.where(going, moved, y)
        score = scores.denoise_unchecked(model, y, unit, c) - y
        return y + (scores.implied_sigma(score) / 255).view(-1, 1, 1, 1) ** 2 * score


def ancestral(model, y, sigmas, *, c=None, generator=None, progress=False):
    """The reverse steps of a diffusion model (Ho et al. 2020, as Song et al. 2021 write them for growing variance): (B,
    C, H, W).

    From level s to the next lower one t:  y <- y + (s^2 - t^2) grad log p(y) + t sqrt(1 - t^2 / s^2) e,  e ~ N(0, I).
    The last step gives D(y).

    y        (B, C, H, W), images of noise level sigmas[0]. model   with `denoise(y, sigma)`.
    sigmas   (L,) from the highest, see `noise_levels`.
    c        classes (B,) of a joint model: samples of p(y | c); None: of p(y).

    Results are not kept in [0, 1].
    """
    from tqdm import tqdm

    check_noisy_images(y, torch.inf)
    seeds = rng.seeds(generator, len(y), y.device)
    sigmas = _falling(model, sigmas)
    with torch.no_grad():
        for i, (s, t) in enumerate(tqdm(list(zip(sigmas, sigmas[1:])), desc="ancestral sampling", unit="step",
                                        disable=not progress)):
            step = 1 - t**2 / s**2   # (s^2 - t^2) grad log p(y) is this share of D(y) - y
            noise = rng.normal(seeds, y.shape[1:], stream=i).to(y.dtype)
            y = y + step * (_denoise(model, y, s, c) - y) + t / 255 * step**0.5 * noise
        return _denoise(model, y, sigmas[-1], c)


@validated(steps=positive_integer, step_size=positive)
def annealed_langevin(model, y, sigmas, *, steps: int, step_size: float, c=None, generator=None,
                      progress: bool = False):
    """Langevin dynamics at one noise level after the other (Song & Ermon 2019, Algorithm 1), then D(y): (B, C, H, W).

    At level s, `steps` times:  y <- y + a / 2 grad log p(y) + sqrt(a) e,  a = step_size s^2,  e ~ N(0, I).

    model, y, sigmas, c   as in `ancestral`; the model is a joint one, as log p itself is climbed.
    """
    from tqdm import tqdm

    check_noisy_images(y, torch.inf)
    seeds = rng.seeds(generator, len(y), y.device)
    for i, s in enumerate(tqdm(_falling(model, sigmas), desc="annealed Langevin", unit="level", disable=not progress)):
        a = step_size * (s / 255) ** 2
        y = ascent.ascend(y, ascent.gradient_of(lambda y: scores.log_density_unchecked(model, y, c)),
                          step=ascent.scaled(a / 2), project=lambda y: y, steps=steps, noise=a**0.5,
                          generator=rng.fold(seeds, i))
    with torch.no_grad():
        return _denoise(model, y, s, c)


def _falling(model, sigmas):
    """The noise levels as numbers, if they are positive and fall, and the model denoises."""
    sigmas = [float(sigma) for sigma in sigmas]
    if not sigmas or sigmas[-1] <= 0 or sigmas != sorted(sigmas, reverse=True):
        raise ValueError("noise levels must be positive and fall, in 0-255 units; take noise_levels(highest, lowest, "
                         "count)")
    scores.check_denoiser(model)
    return sigmas


def _denoise(model, y, sigma, c):
    """Without the check of the images' range: a sampler may leave it, and its result is shown whatever it is."""
    return scores.denoise_unchecked(model, y, torch.full((len(y),), sigma, dtype=y.dtype, device=y.device), c)
