"""Attacks: images near the given ones that a classifier gets wrong."""


import torch

from . import ascent, checks
from .config import Count, Norm, Positive, arguments
from .energy import log_odds


@arguments
def pgd(model, x, y, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count, random_start: bool = False,
        loss=log_odds, generator=None):
    """Projected gradient descent (Madry et al. 2018): climb the loss within a ball around each image.

    x, y        images (B, C, H, W) in [0, 1], labels (B,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    step_size   length of a step in that norm.
    random_start   begin uniformly in the ball, drawn from `generator`.
    loss        climbed: called as loss(logits, y) -> (B,). The default leads along the cross-entropy's gradient.

    Returns images in [0, 1] within `eps` of `x`. The model's mode (train, eval) is left as it is.
    """
    checks.classifier(model, x, y)
    return ascent.pgd(x, lambda x: loss(model(x), y), norm=norm, eps=eps, step_size=step_size, steps=steps,
                      random_start=random_start, generator=generator)


@torch.no_grad()
def accuracy(model, x, y, *, batch=500):
    """Share of images classified right."""
    checks.classifier(model, x, y)
    return sum(int((model(bx).argmax(1) == by).sum()) for bx, by in zip(x.split(batch), y.split(batch))) / len(x)


@arguments
def robust_accuracy(model, x, y, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count,
                    random_start: bool = False, generator=None, batch: Count = 100, progress: bool = False):
    """Share of images that are classified right at every iterate of PGD, the clean image included.

    The arguments are those of `pgd`. An image leaves the batch at its first wrong answer, and waiting ones
    take its place: the forward pass of each step tells, so the check is free.
    """
    from tqdm import tqdm

    checks.classifier(model, x, y)
    start = ascent.random_in_ball(norm, x, eps, generator) if random_start else x
    step = ascent.STEP[norm](step_size)
    waiting = torch.arange(len(x), device=x.device)
    active, taken, robust = waiting[:0], waiting[:0], 0   # images under attack, and the steps each has taken
    z = start[:0]
    logits = None

    def objective(z):
        nonlocal logits
        logits = model(z)
        return log_odds(logits, y[active])

    with tqdm(total=len(x), desc="robust accuracy", unit="image", disable=not progress) as bar:
        while len(waiting) or len(active):
            new, waiting = waiting.split([min(batch - len(active), len(waiting)), max(0, len(waiting) + len(active) - batch)])
            active, taken, z = torch.cat([active, new]), torch.cat([taken, torch.zeros_like(new)]), torch.cat([z, start[new]])
            z = ascent.ascend(z, objective, step=step, project=ascent.ball(norm, x[active], eps), steps=1)
            right, last = logits.argmax(1) == y[active], taken == steps   # logits of the images before this step
            robust += int((right & last).sum())
            stay = right & ~last
            bar.update(int((~stay).sum()))
            active, taken, z = active[stay], taken[stay] + 1, z[stay]
    return robust / len(x)
