"""A classifier that first noises or denoises its images, under attacks that know it or do not (classification-denoising paper, section 5.1).

sigma is in 0-255 units, as in `scores`; images and eps are in units of [0, 1].
"""

import itertools
from typing import Annotated, Literal

import torch
from pydantic import Field

from . import attacks, checks, rng, scores
from .config import Count, NonNegative, Norm, arguments

Defence = Literal["noised", "denoised"]
Levels = Annotated[list[NonNegative], Field(min_length=1)]


@arguments
def defended(model, defence: Defence, sigma: NonNegative, *, seeds=None, draws: Count = 1):
    """The classifier x -> logits of images that are first noised or denoised; sigma 0 is the model itself.

    noised     x + sigma e, with fresh noise at each call: an attack through it sees other noise at every step.
    denoised   D(x), the model's own denoiser at that noise level, through which an attack can differentiate.
    seeds      of the noise, (n,), one for each image of a call, or of the first of them.
    draws      of the noise in a call; logits are their mean (Athalye et al. 2018: expectation over transformation).
    """
    if sigma == 0:
        return model
    if defence == "denoised":
        scores.denoiser(model)
        return lambda x: model(scores.denoise_unchecked(model, x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)))
    if seeds is None:
        raise ValueError("a noised classifier needs 'seeds', one for each image, such as rng.seeds(0, len(x))")
    call = itertools.count()

    def noised(x):
        if len(x) > len(seeds):
            raise ValueError(f"{len(x)} images, and seeds for {len(seeds)} only; give one for each")
        noise = rng.normal(seeds[:len(x)].to(x.device), (draws, *x.shape[1:]), stream=next(call)).to(x.dtype)
        return model((x[:, None] + sigma / 255 * noise).flatten(0, 1)).unflatten(0, (len(x), draws)).mean(1)
    return noised


@arguments
def defended_accuracy(model, x, y, *, defence: Defence, sigmas: Levels, epsilons: Levels, norm: Norm, steps: Count, adaptive: bool,
                      draws: Count = 1, generator=None, batch: Count = 100, progress: bool = False, each: bool = False):
    """Accuracy over noise level x attack strength: (len(sigmas), len(epsilons)).

    Attacks are PGD with steps of 2.5 eps / `steps`, of which the last iterate counts; noised images are judged by one draw.
    adaptive   False: the attack is made for the bare model, as in the paper's Figure 4. True: a second one goes through the
               defence, and an image counts as right only if it is so after either.
    draws      of the noise at each step of an attack through it.
    each       return which images are right, booleans (len(sigmas), len(epsilons), N), instead.

    Raises ValueError for a model without a denoiser that is to denoise.
    """
    from tqdm import tqdm

    checks.classifier(model, x, y)
    if defence == "denoised":
        scores.denoiser(model)
    seeds = rng.seeds(generator, len(x), x.device)
    right = torch.zeros(len(sigmas), len(epsilons), len(x), dtype=torch.bool)

    def attacked(target, part, eps):
        return attacks.pgd(target, x[part], y[part], norm=norm, eps=eps, step_size=2.5 * eps / steps, steps=steps)

    for part, (e, eps) in tqdm(list(itertools.product(torch.arange(len(x)).split(batch), enumerate(epsilons))), desc=f"{norm}, {defence}", unit="strength",
                               disable=not progress):
        blind = attacked(model, part, eps) if eps else x[part]
        for s, sigma in enumerate(sigmas):
            tried = [blind]
            if adaptive and eps and sigma:
                tried.append(attacked(defended(model, defence, sigma, seeds=rng.fold(seeds[part], 1), draws=draws), part, eps))
            judge = defended(model, defence, sigma, seeds=rng.fold(seeds[part], 2))
            with torch.no_grad():
                right[s, e, part] = torch.stack([judge(images).argmax(1) == y[part] for images in tried]).all(0).cpu()
    return right if each else right.float().mean(2)
