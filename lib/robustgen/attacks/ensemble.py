"""AutoAttack (Croce & Hein 2020): would another attack succeed where PGD fails for its gradient's sake?"""

import torch
import torchattacks

from ..core import rng
from ..core.energy import joint_energy
from ..models.inference import logits_of
from ..utils.arguments import Norm, arguments, positive, positive_integer
from ..utils.validation import check_classifier, check_eval_mode
from . import external
from .evaluation import batched

TARGETS = 9   # wrong classes that the targeted attack tries, the likeliest first


@arguments(eps=positive, steps=positive_integer, queries=positive_integer, batch=positive_integer)
def autoattack(model, x, y, *, norm: Norm = "linf", eps: float, steps: int = 100, queries: int = 5000,
               generator=None, batch: int = 100, progress: bool = False):
    """Which images no attack of the ensemble breaks: {"clean", "APGD-CE", "APGD-T", "Square": booleans (N,)}, in this
    order.

    Each attack meets only what those before it left, and its entry tells which images are right after all of these.
    Where gradients are masked, APGD leaves many images that Square breaks, as it uses none.

    x, y        images (N, C, H, W) in [0, 1], labels (N,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    steps       of APGD-CE, and of APGD-T towards each of the 9 likeliest wrong classes.
    queries     of Square; its squares shrink on schedule over as many.
    generator   of all draws; `batch` changes no result.

    Of the paper's four attacks FAB-T is left out: it hardly ever breaks what APGD-T leaves, and torchattacks' leaks
    gradients into the weights. The numbers are a bound from above on robust accuracy, as of any attack.

    Raises ValueError for a model in train mode, or for l2 and images that Square's tiles do not fit.
    """
    check_classifier(model, x, y)
    check_eval_mode(model)
    height, width = x.shape[2:]
    if norm == "l2" and (height != width or height < 5 or height // (height // 5) != 5):
        raise ValueError(f"Square in l2 begins with 5 x 5 tiles, which do not fit images of {height} x {width} pixels. "
                         "Resize them, say to 32 x 32.")
    seeds = rng.seeds(generator, len(x), x.device)
    right = logits_of(model, x, batch=batch).argmax(1) == y
    survivors = {"clean": right}
    for name, attack, settings in (("APGD-CE", external.apgd, {"steps": steps}),
                                   ("APGD-T", _targeted, {"steps": steps}),
                                   ("Square", _square, {"queries": queries, "shared": seeds[0].item()})):
        left, right = right.nonzero()[:, 0], right.clone()
        if len(left):
            reached = batched(attack, model, x[left], y[left], norm=norm, eps=eps, generator=seeds[left], batch=batch,
                              progress=progress, **settings)
            right[left] = logits_of(model, reached, batch=batch).argmax(1) == y[left]
        survivors[name] = right
    return survivors


class _APGDT(torchattacks.APGD):
    """Auto-PGD on the targeted DLR loss, (f_t - f_y) / (f_1st - (f_3rd + f_4th) / 2), with the targets t (B,) in
    `towards`.

    torchattacks' own APGDT takes the step size of the first image for all of an l2 batch.
    """

    def dlr_loss(self, logits, y):
        gain = joint_energy(logits, y) - joint_energy(logits, self.towards)
        if logits.shape[1] < 4:   # there is no fourth logit; a step takes the gradient's direction, so the scale may go
            return gain
        top = logits.topk(4, dim=1).values
        return gain / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _targeted(model, x, y, *, norm, eps, steps, generator):
    attack = _APGDT(model, norm=external.TORCHATTACKS[norm], eps=eps, steps=steps, loss="dlr")
    ranked = logits_of(model, x).scatter(1, y[:, None], torch.inf).argsort(1, descending=True)   # y comes first
    reached, left = x.clone(), torch.arange(len(x), device=x.device)
    for target in range(1, min(TARGETS + 1, ranked.shape[1])):
        attack.towards = ranked[left, target]
        with external.Draws(rng.fold(generator[left], target)):
            _, right, _, fooling = attack.attack_single_run(x[left], y[left])
        reached[left[~right]] = fooling[~right].detach()
        left = left[right]
        if not len(left):
            break
    return reached


class _Square(torchattacks.Square):
    """The square attack, which tells its draws which images go on to the next query: those with a margin."""

    def margin_and_loss(self, x, y):
        margin, loss = super().margin_and_loss(x, y)
        self.draws.seeds = self.draws.seeds[margin > 0]
        return margin, loss


def _square(model, x, y, *, norm, eps, queries, shared, generator):
    """All images share the places of the squares, and in the max norm their signs: `shared` is the seed of those."""
    attack = _Square(model, norm=external.TORCHATTACKS[norm], eps=eps, n_queries=queries)
    attack.init_hyperparam(x)
    with external.Draws(generator, shared) as attack.draws:
        return attack.attack_single_run(x, y)[1]
