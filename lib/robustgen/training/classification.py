"""Objectives that train a classifier: cross-entropy and its robust relatives.

An objective is a module that holds a model. `forward(x, y, generator)` takes images (B, C, H, W) in [0, 1] and
labels (B,) to the mean loss of the batch and a dict of numbers to log; `generator` (a torch.Generator, or one
seed an image) feeds every random draw. `test(x, y)` gives a dict of the numbers that a held-out set is judged by.

Attacks and sampling inside a step run with the model in eval mode, so that an image's path does not depend on
its neighbours through batch norm. They ask for the gradient of the images alone: nothing reaches the weights'
`.grad` but the outer loss, which is taken in train mode.
"""


import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..core import ascent, rng
from ..core.autodiff import gradient_and_values
from ..core.energy import joint_energy, log_odds
from ..models.inference import evaluating
from ..utils.arguments import Norm, fraction, list_of, non_negative, optional, positive, positive_integer, validated
from .base import Objective, noise_like


class CrossEntropy(Objective):
    """Mean of -log p(y | x).

    label_smoothing   the share of the target that is spread over all classes evenly (Szegedy et al. 2016).
    """

    @validated(label_smoothing=fraction)
    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0):
        super().__init__(model)
        self.label_smoothing = label_smoothing

    def forward(self, x, y, generator=None):
        logits = self.output(x)
        loss = cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": (logits.argmax(1) == y).float().mean()}


class NoisyCE(CrossEntropy):
    """Randomised smoothing: E l(f(x + e), y), e ~ N(0, sigma^2 I) (off-manifold paper, B.1.3; Cohen et al. 2019).

    sigma   in units of [0, 1]. One draw an image and step; noisy images are not clamped.
    label_smoothing   as in CrossEntropy.
    """

    @validated(sigma=positive, label_smoothing=fraction)
    def __init__(self, model: nn.Module, *, sigma: float, label_smoothing: float = 0.0):
        super().__init__(model, label_smoothing=label_smoothing)
        self.sigma = sigma

    def forward(self, x, y, generator=None):
        return super().forward(x + self.sigma * noise_like(x, generator), y)


class GradNorm(Objective):
    """Gradient norm regularisation: l(f(x), y) + lam ||grad_x l(f(x), y)||^2 (off-manifold paper, B.1.1).

    The paper writes the gradient of f, which has many outputs; it is the loss's here, as in its code. The norm is
    each image's own, in units of [0, 1]. One pass in train mode gives both terms.
    """

    second_order = True

    @validated(lam=non_negative)
    def __init__(self, model: nn.Module, *, lam: float):
        super().__init__(model)
        self.lam = lam

    def forward(self, x, y, generator=None):
        return self._loss(x, y)

    def _loss(self, x, y):
        def loss(model, x):
            logits = model(x).to(x.dtype)
            return cross_entropy(logits, y, reduction="none"), logits

        gradient, values, logits = gradient_and_values(self.model, loss, x)
        penalty = gradient.square().sum((1, 2, 3)).mean()
        return values.mean() + self.lam * penalty, {"accuracy": (logits.argmax(1) == y).float().mean(),
                                                    "penalty": penalty.detach()}

    def compile(self):
        self._loss = torch.compile(self._loss)   # a compiled model alone cannot be differentiated twice


class Smoothness(Objective):
    """Smoothness penalty: l(f(x), y) + lam E ||f(x + e) - f(x)||^2, e ~ N(0, sigma^2 I) (off-manifold paper, B.1.2).

    f are the logits; one draw an image and step. x and x + e pass as one batch.
    """

    @validated(lam=non_negative, sigma=positive)
    def __init__(self, model: nn.Module, *, lam: float, sigma: float):
        super().__init__(model)
        self.lam, self.sigma = lam, sigma

    def forward(self, x, y, generator=None):
        logits, noisy = self.output(torch.cat([x, x + self.sigma * noise_like(x, generator)])).chunk(2)
        penalty = (noisy - logits).square().sum(1).mean()
        return cross_entropy(logits, y) + self.lam * penalty, {"accuracy": (logits.argmax(1) == y).float().mean(),
                                                               "penalty": penalty.detach()}


def radius_or_radii(name, value):
    """A radius, or a list of them."""
    (list_of(positive) if isinstance(value, list) else positive)(name, value)


def attack_step(eps, steps, step_size, step):
    """The length of an attack's steps: `step_size`, or `step` times eps / steps; of a list of eps, for the largest."""
    if (step_size is None) == (step is None):
        raise ValueError("an attack needs either 'step_size', a length, or 'step', in units of eps / steps; give one "
                         "of them")
    return step_size if step is None else step * (max(eps) if isinstance(eps, list) else eps) / steps


class AdversarialCE(CrossEntropy):
    """Mean of max over ||d|| <= eps of -log p(y | x + d), the inner maximum by PGD (Madry et al. 2018).

    norm, eps   the ball, in units of [0, 1]; a list of eps gives each image one of them at random.
    step_size   in units of that norm; where eps is a list, that of its largest, the others' in proportion.
    step        instead of step_size, in units of eps / steps: 2.5 lets an image cross the ball at every radius.
    steps       1 with a random start is the fast training of Wong et al. (2020).
    label_smoothing   as in CrossEntropy.

    Accuracy is that on the attacked images.
    """

    climbed = staticmethod(log_odds)

    @validated(eps=radius_or_radii, step_size=optional(positive), step=optional(positive), steps=positive_integer,
               label_smoothing=fraction)
    def __init__(self, model: nn.Module, *, norm: Norm, eps: float | list, steps: int, random_start: bool,
                 step_size: float | None = None, step: float | None = None, label_smoothing: float = 0.0):
        super().__init__(model, label_smoothing=label_smoothing)
        self.attack = dict(norm=norm, eps=eps, step_size=attack_step(eps, steps, step_size, step), steps=steps,
                           random_start=random_start)

    def forward(self, x, y, generator=None):
        attack = dict(self.attack)
        seeds = rng.seeds(generator, len(x), x.device)
        if isinstance(attack["eps"], list):
            radii = torch.tensor(attack["eps"], device=x.device, dtype=x.dtype)
            drawn = (rng.uniform(rng.fold(seeds, 1), ()) * len(radii)).long()
            attack["eps"] = radii[drawn].view(-1, 1, 1, 1)
            attack["step_size"] = attack["step_size"] * attack["eps"] / radii.max()
        with evaluating(self.model):
            worst = ascent.ascend_in_ball(x, lambda x: self.climbed(self.output(x), y), **attack, generator=seeds)
        return super().forward(worst, y)


class PreJEAT(AdversarialCE):
    """Cross-entropy on images that raise the joint energy E(x, y) = -f_y(x) (JEAT paper, eq. 18 and section 3.3).

    Eq. 18 is one step of size eta: eps = step_size = eta, steps = 1, no random start.
    """

    climbed = staticmethod(joint_energy)

    @validated(eps=positive, step_size=optional(positive), step=optional(positive), steps=positive_integer)
    def __init__(self, model: nn.Module, *, eps: float, steps: int, random_start: bool,
                 step_size: float | None = None, step: float | None = None):
        super().__init__(model, norm="linf", eps=eps, step_size=step_size, step=step, steps=steps,
                         random_start=random_start)
