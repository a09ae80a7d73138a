"""AutoAttack (Croce & Hein 2020): would another attack succeed where PGD fails for its gradient's sake?"""

from collections.abc import Callable
from functools import partial

import torch

from ..core import rng
from ..core.energy import joint_energy
from ..models.inference import logits_of
from ..utils.arguments import Norm, positive, positive_integer, validated
from ..utils.validation import check_classifier
from .auto_pgd import apgd, climb
from .evaluation import batched
from .square import check_tiles, square_attack

TARGETS = 9   # wrong classes that the targeted attack tries, the likeliest first


@validated(eps=positive, steps=positive_integer, queries=positive_integer, batch=positive_integer)
def autoattack(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm = "linf", eps: float, steps: int = 100,
               queries: int = 5000, generator: torch.Generator | int | torch.Tensor | None = None, batch: int = 100,
               progress: bool = False) -> dict:
    """Which images no attack of the ensemble breaks: {"clean", "APGD-CE", "APGD-T", "Square": booleans (N,)}, in this
    order.

    Each attack meets only what those before it left, and its entry tells which images are right after all of these.
    Where gradients are masked, APGD leaves many images that Square breaks, as it uses none.

    x, y        images (N, C, H, W) in [0, 1], labels (N,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    steps       of APGD-CE, and of APGD-T towards each of the 9 likeliest wrong classes.
    queries     of Square; its squares shrink on schedule over as many.
    generator   of all draws; `batch` changes no result.

    Of the paper's four attacks FAB-T is left out: it hardly ever breaks what APGD-T leaves. The numbers are a bound
    from above on robust accuracy, as of any attack.

    Raises ValueError for a model in train mode, or for l2 and images that Square's tiles do not fit.
    """
    x, _ = check_classifier(model, x, y)
    if norm == "l2":
        check_tiles(x)
    seeds = rng.seeds(generator, len(x), x.device)
    right = logits_of(model, x, batch=batch).argmax(1) == y
    survivors = {"clean": right}
    for name, attack, settings in (("APGD-CE", apgd, {"steps": steps}),
                                   ("APGD-T", _targeted, {"steps": steps}),
                                   ("Square", square_attack, {"queries": queries, "shared": seeds[0].item()})):
        left, right = right.nonzero()[:, 0], right.clone()
        if len(left):
            reached = batched(attack, model, x[left], y[left], norm=norm, eps=eps, generator=seeds[left], batch=batch,
                              progress=progress, **settings)
            right[left] = logits_of(model, reached, batch=batch).argmax(1) == y[left]
        survivors[name] = right
    return survivors


def targeted_dlr(logits, y, target):
    """The targeted difference of logits ratio (Croce & Hein 2020, eq. 7): (f_t - f_y) / (f_1st - (f_3rd + f_4th) / 2).

    logits (B, K), labels y and targets t (B,); the result is (B,).
    """
    gain = joint_energy(logits, y) - joint_energy(logits, target)
    if logits.shape[1] < 4:   # there is no fourth logit; a step takes the gradient's direction, so the scale may go
        return gain
    top = logits.topk(4, dim=1).values
    return gain / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _targeted(model, x, y, *, norm, eps, steps, generator):
    """Auto-PGD towards the likeliest wrong classes, one after the other. An image is left alone once it is
    misclassified."""
    ranked = logits_of(model, x).scatter(1, y[:, None], torch.inf).argsort(1, descending=True)   # y comes first
    reached, left = x.clone(), torch.arange(len(x), device=x.device)
    for target in range(1, min(TARGETS + 1, ranked.shape[1])):
        loss = partial(targeted_dlr, target=ranked[left, target])
        end = climb(model, x[left], y[left], loss, norm=norm, eps=eps, steps=steps,
                    seeds=rng.fold(generator[left], target))
        reached[left] = end.fooling
        left = left[~end.fooled]
        if not len(left):
            break
    return reached
