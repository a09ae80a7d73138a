"""A classifier that first noises or denoises its images, under attacks that know it or do not (classification-denoising
paper, section 5.1).

sigma is in 0-255 units, as in `scores`; images and eps are in units of [0, 1].
"""

import itertools
from typing import Literal

import torch

from ..core import rng
from ..probes import scores
from ..utils.arguments import Norm, list_of, non_negative, positive_integer, validated
from ..utils.validation import check_classifier, check_eval_mode
from .gradient_based import pgd

Defence = Literal["noised", "denoised"]


@validated(sigma=non_negative, draws=positive_integer)
def defended(model, defence: Defence, sigma: float, *, seeds=None, draws: int = 1):
    """The classifier x -> logits of images that are first noised or denoised; sigma 0 is the model itself.

    noised     x + sigma e, with fresh noise at each call: an attack through it sees other noise at every step.
    denoised   D(x), the model's own denoiser at that noise level, through which an attack can differentiate.
    seeds      of the noise, (n,), one for each image of a call, or of the first of them.
    draws      of the noise in a call; logits are their mean (Athalye et al. 2018: expectation over transformation).
    """
    check_eval_mode(model)
    if sigma == 0:
        return model
    if defence == "denoised":
        scores.check_denoiser(model)
        return lambda x: model(scores.denoise_unchecked(model, x,
                                                        torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)))
    if seeds is None:
        raise ValueError("a noised classifier needs 'seeds', one for each image, such as rng.seeds(0, len(x))")
    call = itertools.count()

    def noised(x):
        if len(x) > len(seeds):
            raise ValueError(f"{len(x)} images, and seeds for {len(seeds)} only; give one for each")
        noise = rng.normal(seeds[:len(x)].to(x.device), (draws, *x.shape[1:]), stream=next(call)).to(x.dtype)
        return model((x[:, None] + sigma / 255 * noise).flatten(0, 1)).unflatten(0, (len(x), draws)).mean(1)
    return noised


@validated(sigmas=list_of(non_negative), epsilons=list_of(non_negative), steps=positive_integer, draws=positive_integer,
           batch=positive_integer)
def withstood(model, x, y, *, defence: Defence, sigmas: list, epsilons: list, norm: Norm, steps: int,
              draws: int = 1, generator=None, batch: int = 100, progress: bool = False):
    """Which images are classified right, over noise level x attack strength: booleans (len(sigmas), len(epsilons), N),
    twice.

    The first is under attacks made for the bare model, as in the paper's Figure 4. The second is under attacks that
    know of the defence: they go through it, and may also be the former, so an image counts only if it is right after
    either. Attacks are PGD with steps of 2.5 eps / `steps`, of which the last iterate counts; noised images are judged
    by one draw.
    draws   of the noise at each step of an attack through it.

    Raises ValueError for a model without a denoiser that is to denoise.
    """
    from tqdm import tqdm

    x, _ = check_classifier(model, x, y)
    if defence == "denoised":
        scores.check_denoiser(model)
    seeds = rng.seeds(generator, len(x), x.device)
    blind, aware = (torch.zeros(len(sigmas), len(epsilons), len(x), dtype=torch.bool) for _ in range(2))

    def attacked(target, part, eps):
        return pgd(target, x[part], y[part], norm=norm, eps=eps, step_size=2.5 * eps / steps, steps=steps)

    cells = list(itertools.product(torch.arange(len(x)).split(batch), range(len(epsilons)), range(len(sigmas))))
    for part, e, s in tqdm(cells, desc=f"{norm}, {defence}", unit="cell", disable=not progress):
        eps, sigma = epsilons[e], sigmas[s]
        if s == 0:   # made for the bare model, it serves all noise levels
            images = attacked(model, part, eps) if eps else x[part]
        judge = defended(model, defence, sigma, seeds=rng.fold(seeds[part], 2))
        with torch.no_grad():
            blind[s, e, part] = aware[s, e, part] = (judge(images).argmax(1) == y[part]).cpu()
        if eps and sigma:
            through = attacked(defended(model, defence, sigma, seeds=rng.fold(seeds[part], 1), draws=draws), part, eps)
            with torch.no_grad():
                aware[s, e, part] &= (judge(through).argmax(1) == y[part]).cpu()
    return blind, aware
