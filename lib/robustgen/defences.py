"""A classifier that first noises or denoises its images, under attacks that know it or do not (classification-denoising paper, section 5.1).

sigma is in 0-255 units, as in `scores`; images and eps are in units of [0, 1].
"""

import itertools
from typing import Literal

import torch

from . import attacks, checks, rng, scores
from .config import Count, Norm, arguments

Defence = Literal["noised", "denoised"]


@arguments
def defended(model, defence: Defence, sigma, *, generator=None, n: Count = 1):
    """The classifier x -> logits of images that are first noised or denoised; sigma 0 is the model itself.

    noised     x + sigma e, with fresh noise at each call: an attack through it sees other noise at every step.
    denoised   D(x), the model's own denoiser at that noise level, through which an attack can differentiate.
    n          images of a call, at most; each has noise of its own, drawn from `generator`.
    """
    if sigma == 0:
        return model
    if defence == "denoised":
        return lambda x: model(scores.denoise_unchecked(model, x, torch.full((len(x),), float(sigma), dtype=x.dtype, device=x.device)))
    seeds, call = rng.seeds(generator, n), itertools.count()
    return lambda x: model(x + sigma / 255 * rng.normal(seeds[:len(x)].to(x.device), x.shape[1:], stream=next(call)).to(x.dtype))


@arguments
def defended_accuracy(model, x, y, *, defence: Defence, sigmas: list, epsilons: list, norm: Norm, steps: Count, adaptive: bool,
                      generator=None, batch: Count = 100, progress: bool = False):
    """Accuracy over noise level x attack strength: (len(sigmas), len(epsilons)).

    Attacks are PGD with steps of 2.5 eps / `steps`, of which the last iterate counts.
    adaptive   whether the attack goes through the defence; else it is made for the model alone, as in the paper's Figure 4.

    Raises ValueError for a model without a denoiser that is to denoise.
    """
    from tqdm import tqdm

    checks.classifier(model, x, y)
    if defence == "denoised":
        scores.levels(model, x, 1.0)
    seeds = rng.seeds(generator, len(x), x.device)
    right = torch.zeros(len(sigmas), len(epsilons))
    cells = list(itertools.product(torch.arange(len(x)).split(batch), range(len(epsilons)), range(len(sigmas))))
    for part, e, s in tqdm(cells, desc=f"{norm}, {defence}", unit="cell", disable=not progress):
        own, images, labels = seeds[part], x[part], y[part]
        if epsilons[e] and (adaptive or s == 0):   # one that is made for the model alone serves all noise levels
            target = defended(model, defence, sigmas[s], generator=rng.fold(own, 1), n=len(part)) if adaptive else model
            attacked = attacks.pgd(target, images, labels, norm=norm, eps=epsilons[e], step_size=2.5 * epsilons[e] / steps, steps=steps)
        elif s == 0 or not epsilons[e]:
            attacked = images
        judge = defended(model, defence, sigmas[s], generator=rng.fold(own, 2), n=len(part))
        with torch.no_grad():
            right[s, e] += (judge(attacked).argmax(1) == labels).sum().cpu()
    return right / len(x)
