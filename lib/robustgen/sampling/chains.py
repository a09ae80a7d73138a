"""Class-conditional images by Langevin dynamics on a classifier's energies (JEAT eqs. 16, 17)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn.functional import softplus

from ..core import dynamics, rng
from ..core.energy import joint_energy, log_odds
from ..models.inference import evaluating
from ..utils.arguments import non_negative, positive, positive_integer, validated
from ..utils.validation import check_classifier
from .drift import DIFFUSION

# Langevin chains of a class

# What a chain descends. The cross-entropy is E(x, y) - E(x); through the log-odds float32 keeps it where the net is
# sure.
ENERGIES = {"joint": joint_energy, "cross-entropy": lambda logits, y: softplus(log_odds(logits, y))}


@validated(steps=positive_integer, step_size=positive, noise=non_negative, batch=positive_integer)
def langevin(model: Callable, x0: torch.Tensor, y: torch.Tensor, *, energy: Literal["joint", "cross-entropy"] = "joint",
             steps: int, step_size: float, noise: float, batch: int = 100,
             generator: torch.Generator | int | torch.Tensor | None = None,
             progress: bool = False) -> torch.Tensor:
    """Images of the classes y by Langevin dynamics on E(x, y) (JEAT eqs. 10 and 17), or on the cross-entropy E(x, y) -
    E(x) (eq. 16).

    x0       (B, C, H, W) in [0, 1], where the chains begin, such as dynamics.class_gaussian_start(images)(seeds, y).
    y        (B,) classes.
    step_size, noise   as in dynamics.sgld: eta / 2 and sqrt(eta) in the paper's equations; JEM sets them apart.
    batch    chains moved at once; changes no result. Few fit into the processor's cache, and are faster than all.
    generator   a torch.Generator, an int, or one seed a chain; the beginnings may have been drawn with the same.

    Returns where the chains end, not kept in [0, 1]. The weights are frozen meanwhile. Raises ValueError for images,
    labels or models that do not fit, and for chains that are not finite.
    """
    from tqdm import tqdm

    x0, _ = check_classifier(model, x0, y)
    seeds, descended, ends = rng.seeds(generator, len(x0), x0.device), ENERGIES[energy], []
    parts = list(zip(x0.split(batch), y.split(batch), seeds.split(batch)))
    with evaluating(model):
        for x, label, seed in tqdm(parts, desc="langevin", unit="batch", disable=not progress):
            ends.append(dynamics.sgld(x, lambda x, label=label: descended(model(x), label), steps=steps,
                                      step_size=step_size, noise=noise, generator=rng.fold(seed, DIFFUSION)))
    x = torch.cat(ends)
    if not torch.isfinite(x).all():
        raise ValueError(f"{int((~torch.isfinite(x.flatten(1)).all(1)).sum())} of {len(x)} chains are not finite; take "
                         f"a smaller step_size than {step_size:g}")
    return x
