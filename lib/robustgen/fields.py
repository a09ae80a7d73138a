"""Types of settings, how they are checked, and the parts that a notebook's settings are made of."""

import functools
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Family = list | dict[str, dict]
Norm = Literal["linf", "l2"]
settings = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
part = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))   # not strict: strictly, it could not be written as a mapping


def within(settings, whole, *keys):
    """Refuse parts that are larger than the whole."""
    for key in keys:
        if getattr(settings, key) > getattr(settings, whole):
            raise ValueError(f"{key!r} is {getattr(settings, key)}, of {getattr(settings, whole)} {whole!r}; lower it, or raise {whole!r}")


def ordered(settings, *rising, falling=()):
    """Refuse lists of settings that do not rise, or fall, strictly."""
    for key in (*rising, *falling):
        values = getattr(settings, key)
        if values != sorted(set(values), reverse=key in falling):
            raise ValueError(f"{key!r} is {values}: it should {'fall' if key in falling else 'rise'}")


@part
class Strip:
    """A row of Figures 2, 3 or S1: a net, a layer, a start, and how PGDD runs from it (`generate.pgdd`)."""

    net: str                 # a run of the zoo, or a net of the hub
    member: dict             # which net of the run, such as {eps: 1.0}; {} for the hub's
    layer: str | None        # a module's name; null for the logits
    start: Literal["gaussian", "perlin"]
    drift_noise: Positive
    diffusion_noise: NonNegative
    eps: Positive
    step_size: Positive      # l2 length
    steps: Count
    smoothing_sigma: NonNegative   # of sPGDD; 0 for PGDD
    smoothing_draws: Count


@part
class ScoreModel:
    """A net whose score input gradients are compared with."""

    name: str                # in figures and tables
    net: str                 # a run of the zoo, or a net of edm
    member: dict             # which net of the run; {} for edm's
    draws: Index             # noise draws of a net that is not told sigma (scores.smoothed_score); 0 for one that is


@part
class EnergyNet:
    """A net whose energies are studied."""

    name: str                # in figures and tables
    run: str
    member: dict             # which net of the run; without a seed, each that the notebook's seeds name


@part
class EnergyData:
    """A dataset, the net that judges images, and the nets compared on it."""

    name: Literal["mnist", "cifar10", "cifar100"]
    title: str
    eps: Positive            # of the attacks, max norm (paper: 8/255)
    stride: Positive         # l2 length of a Langevin step from a real image, root mean square
    judge: str               # a run of the zoo, which net of it, and the layer of its features; none of those compared
    judge_member: dict
    judge_layer: str
    attacked: EnergyNet      # of Table 1
    nets: Annotated[list[EnergyNet], Field(min_length=1)]
