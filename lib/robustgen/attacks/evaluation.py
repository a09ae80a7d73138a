"""Attacks over many images: accuracy, robust accuracy, and the logits that an attack meets on its way."""

from collections.abc import Callable

import torch

from ..core import ascent, rng
from ..core.energy import log_odds
from ..models.inference import logits_of
from ..utils.arguments import Norm, positive, positive_integer, validated
from ..utils.validation import check_classifier


@validated()
def logits_along(model, x, y, *, attack, **settings):
    """Run an attack and keep the logits it meets: (images (B, C, H, W), logits (B, steps + 1, K)).

    attack   `pgd`, `he_pgd`, or another that makes one forward pass a step: those passes are the attack's own.
    """
    x, _ = check_classifier(model, x, y)
    seen = []

    def watched(x):
        logits = model(x)
        seen.append(logits.detach())
        return logits

    reached = attack(watched, x, y, **settings)
    with torch.no_grad():
        watched(reached)
    return reached, torch.stack(seen[1:], 1)   # the first is the check at the door


def true_and_rival(logits, y):
    """The logit of the true class and the largest of the others, both (...): from logits (..., K) and labels (...)."""
    index = y[..., None]
    return logits.gather(-1, index)[..., 0], logits.scatter(-1, index, -torch.inf).amax(-1)


@validated(batch=positive_integer)
def batched(function, model, x, y, *, batch: int = 100, generator=None, progress: bool = False, **settings):
    """`function(model, x, y, **settings)` over batches, its results put together: for more images than fit at once.

    function    an attack or `trajectory`. generator is shared out image by image, so `batch` changes no result.
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, len(x), x.device) if generator is not None else None
    name, parts = getattr(settings.get("attack", function), "__name__", "attack"), []
    for index in tqdm(torch.arange(len(x)).split(batch), desc=name, unit="batch", disable=not progress):
        own = {} if seeds is None else {"generator": seeds[index]}
        parts.append(function(model, x[index], y[index], **settings, **own))
    return tuple(map(torch.cat, zip(*parts))) if isinstance(parts[0], tuple) else torch.cat(parts)


@validated(batch=positive_integer)
def accuracy(model: Callable, x: torch.Tensor, y: torch.Tensor, *, batch: int = 500) -> float:
    """Share of images classified right."""
    x, _ = check_classifier(model, x, y)
    return int((logits_of(model, x, batch=batch).argmax(1) == y).sum()) / len(x)


@validated(eps=positive, step_size=positive, steps=positive_integer, batch=positive_integer)
def robust_accuracy(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm, eps: float, step_size: float,
                    steps: int, random_start: bool = False,
                    generator: torch.Generator | int | torch.Tensor | None = None,
                    batch: int = 100, progress: bool = False, each: bool = False) -> float | torch.Tensor:
    """Share of images that are classified right at every iterate of PGD, the clean image included.

    each   return which images are, booleans (N,), instead.

    The arguments are those of `pgd`. An image leaves its batch at its first wrong answer, which the forward pass of
    each step tells, so the check is free.
    """
    from tqdm import tqdm

    x, _ = check_classifier(model, x, y)
    start = ascent.random_in_ball(norm, x, eps, generator) if random_start else x
    step = ascent.STEP[norm](step_size)
    robust = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with tqdm(total=len(x), desc="robust accuracy", unit="image", disable=not progress) as bar:
        for active in torch.arange(len(x), device=x.device).split(batch):
            taken, z = len(active), start[active]
            for t in range(steps + 1):
                z = z.detach().requires_grad_()
                logits = model(z)
                right = logits.argmax(1) == y[active]
                if t == steps or not right.any():
                    robust[active[right]] = True
                    break
                gradient, = torch.autograd.grad(log_odds(logits, y[active]).sum(), z)
                active, moved = active[right], (z.detach() + step(gradient))[right]
                z = ascent.ball(norm, x[active], eps)(moved)
            bar.update(taken)
    return robust if each else int(robust.sum()) / len(x)
