"""Adversarial training that also learns to tell real images from those that climb its own density: Dual-AT in small."""

from typing import Literal

from torch import nn
from torch.nn.functional import softplus

from ..core import ascent, dynamics, rng
from ..core.energy import marginal_energy
from ..models.inference import evaluating
from ..utils.arguments import Norm, fraction, non_negative_integer, optional, positive, positive_integer, validated
from .classification import AdversarialCE, radius_or_radii


class DualAT(AdversarialCE):
    """Adversarial cross-entropy + weight (softplus(E(x)) + softplus(-E(x~))), E(x) = -logsumexp f(x) (Dual-AT).

    The second term is the binary cross-entropy of a discriminator with the logit -E, real images x against contrast
    images x~. Those climb -E in [0, 1] by normalised l2 steps, whose number grows evenly over the training: a small
    version of arXiv 2510.13872.

    weight          of the second term.
    start           where contrast images begin: "uniform" or "class_gaussian", clamped to [0, 1].
    contrast_steps  at the end of the training; at its beginning there are none.
    contrast_step   length of a step, in units of [0, 1].
    The other settings are those of AdversarialCE. Attack and ascent are in eval mode.
    """

    @validated(weight=positive, contrast_steps=non_negative_integer, contrast_step=positive, eps=radius_or_radii,
               step_size=optional(positive), step=optional(positive), steps=positive_integer, label_smoothing=fraction)
    def __init__(self, model: nn.Module, *, weight: float, start: Literal["uniform", "class_gaussian"],
                 contrast_steps: int, contrast_step: float, norm: Norm, eps: float | list, steps: int,
                 random_start: bool, step_size: float | None = None, step: float | None = None,
                 label_smoothing: float = 0.0):
        super().__init__(model, norm=norm, eps=eps, steps=steps, random_start=random_start, step_size=step_size,
                         step=step, label_smoothing=label_smoothing)
        self.weight, self.contrast_steps, self.contrast_step = weight, contrast_steps, contrast_step
        self.start, self.begin = start, None

    def prepare(self, images, first, count, whole, seed):
        self.begin = dynamics.STARTS[self.start](images)

    def contrast(self, seeds, dtype):
        """The images x~, (B, C, H, W) in [0, 1]."""
        if self.begin is None:
            raise ValueError("there are no images to start from; call prepare(images, 0, batch, batch, seed) first")
        with evaluating(self.model):
            return ascent.ascend(self.begin(seeds).to(dtype).clamp(0, 1),
                                 ascent.gradient_of(lambda x: -marginal_energy(self.output(x))),
                                 step=ascent.normalised(self.contrast_step), project=lambda x: x.clamp(0, 1),
                                 steps=round(self.progress * self.contrast_steps))

    def forward(self, x, y, generator=None):
        seeds = rng.seeds(generator, len(x), x.device)
        loss, log = super().forward(x, y, rng.fold(seeds, 1))
        contrast = self.contrast(rng.fold(seeds, 2), x.dtype)
        energy, energy_sampled = marginal_energy(self.output(x)), marginal_energy(self.output(contrast))
        loss = loss + self.weight * (softplus(energy) + softplus(-energy_sampled)).mean()
        return loss, log | {"energy": energy.detach().mean(), "energy_sampled": energy_sampled.detach().mean()}
