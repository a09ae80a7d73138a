"""Joint denoising of large photographs, whose denoised windows grow as training goes on."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from ..core import rng
from ..data import augment
from ..utils.arguments import positive_integer, validated
from ..utils.fields import Count, checked_settings
from .denoising import Denoising, JointDenoising, levels_from

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Stage:
    """Up to a share `until` of the training, a share `images` of each batch is denoised, in windows of `side`
    pixels."""

    until: Share
    images: Share
    side: Count


class ProgressiveJointDenoising(JointDenoising):
    """Joint denoising (eq. 13) as the classification-denoising paper trains it on ImageNet (appendix A).

    Images come as squares larger than `side`. Classification sees random resized crops of `side` pixels; denoising sees
    random windows, small and many at first, large and few at last (Zamir et al. 2022). Held-out images are cut at their
    centre.

    stages   of the denoised windows, a list of {until, images, side}: see Stage. The last one's `until` is 1.
    task, sigma_classification, sigma_denoising, mixed   as in JointDenoising.

    Raises ValueError if the stages are out of order, or their shares of a process's images are not whole numbers.
    """

    @validated(sigma_classification=levels_from(0), sigma_denoising=levels_from(0), side=positive_integer)
    def __init__(self, model: nn.Module, *, task: Literal["joint", "classification", "denoising"],
                 sigma_classification: list, sigma_denoising: list, mixed: bool, side: int, stages: list[dict]):
        super().__init__(model, task=task, sigma_classification=sigma_classification, sigma_denoising=sigma_denoising,
                         margin=0, mixed=mixed, every=1)
        self.side, self.stages = side, [checked_settings(Stage, stage, "stages") for stage in stages]
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)) or not ends or ends[-1] != 1:
            raise ValueError(f"'stages' end at {ends}: they should go up, each to a share of the training, the last to "
                             "1")
        self.on_epoch_start(0)

    def on_epoch_start(self, progress):
        self.stage = next(stage for stage in self.stages if progress < stage.until)

    def prepare(self, images, first, count, whole, seed):
        for stage in self.stages:
            if self.task != "classification" and abs(stage.images * count - round(stage.images * count)) > 1e-6:
                raise ValueError(f"a stage denoises {stage.images} of a batch, and a process has {count} images of it; "
                                 "choose a batch whose share is a whole number")
        smallest, largest = min(images.x.shape[2:]), max(self.side, *(stage.side for stage in self.stages))
        if smallest < largest:
            raise ValueError(f"crops of {largest} pixels do not fit into images of {tuple(images.x.shape[2:])}; choose "
                             "smaller ones")

    def forward(self, x, y, generator=None):
        seeds = rng.seeds(generator, len(x), x.device)
        loss, log = 0, {}
        if self.task != "classification":
            part = slice(round(self.stage.images * len(x)))
            small = augment.window(x[part], rng.fold(seeds[part], 3), self.stage.side, self.stage.side)
            loss, log = Denoising.forward(self, small, y[part], rng.fold(seeds[part], 1))
        if self.task != "denoising":
            loss_c, log_c = self._classification(augment.resized_crop(x, rng.fold(seeds, 4), self.side), y,
                                                 rng.fold(seeds, 2))
            loss, log = loss + loss_c, log | log_c
        return loss, log

    def test(self, x, y):
        top, left = ((size - self.side) // 2 for size in x.shape[2:])
        return super().test(x[..., top:top + self.side, left:left + self.side], y)
