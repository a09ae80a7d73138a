"""Objectives that train a denoiser, a classifier and denoiser in one, or an autoencoder.

A denoiser is a model with `denoise(y, sigma)`; sigma is in 0-255 units in every public place, images in [0, 1].
"""

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..core import rng
from ..core.images import psnr
from ..data import augment
from ..utils.arguments import list_of, non_negative, non_negative_integer, positive_integer, validated
from .base import Objective, noise_like


def squared_uniform(sigma, seeds):
    """Noise levels (B,), the square of a uniform variable, between the two of `sigma` (classification-denoising paper,
    3.3)."""
    low, high = (value ** 0.5 for value in sigma)
    return (low + (high - low) * rng.uniform(seeds, ())) ** 2


def levels_from(lowest):
    """The check of a range of noise levels: [low, high] in 0-255 units, from `lowest` up."""
    def check(name, value):
        list_of(non_negative)(name, value)
        if len(value) != 2 or not lowest <= value[0] <= value[1]:
            raise ValueError(f"{name!r} is {value}: it should be the lowest and the highest noise level, in 0-255 "
                             f"units, from {lowest} up")
    return check


class Denoising(Objective):
    """Plain denoising: E (1/d) ||x - D(y)||^2 for y = x + sigma e, e ~ N(0, I), d pixels (classification-denoising
    paper, eq. 8).

    sigma   (lowest, highest) in 0-255 units; drawn as the square of a uniform variable.
    """

    second_order = True
    unused_head = "classify"
    tested = 25.0   # noise level of the PSNR that is logged

    @validated(sigma=levels_from(0.01))
    def __init__(self, model: nn.Module, *, sigma: list):
        super().__init__(model)
        self.sigma = sigma
        if not hasattr(model, "denoise"):
            raise ValueError("the model cannot denoise; choose one of gradresnet, dncnn, drunet")

    def forward(self, x, y, generator=None):
        seeds = rng.seeds(generator, len(x), x.device)
        sigma = squared_uniform(self.sigma, rng.fold(seeds, 1)).to(x.dtype)
        loss = self._loss(x, sigma, noise_like(x, rng.fold(seeds, 2)))
        return loss, {"denoising": loss.detach()}

    def _loss(self, x, sigma, e):
        return self._error(x, sigma, e).square().mean()

    def _error(self, x, sigma, e):
        """D(y) - x."""
        return self.model.denoise(x + sigma.view(-1, 1, 1, 1) / 255 * e, sigma).to(x.dtype) - x

    def compile(self):
        # the denoiser may be a gradient: the loss then holds a second derivative
        self._loss = torch.compile(self._loss)

    @torch.no_grad()
    def test(self, x, y):
        e = noise_like(x, torch.arange(len(x), device=x.device))
        sigma = torch.full((len(x),), self.tested, device=x.device)
        estimate = self.model.denoise(x + self.tested / 255 * e, sigma)
        return {"test_psnr_25": psnr(x, estimate).sum()}


class JointDenoising(Denoising):
    """Joint denoising, eq. 13: E [-log p(c | y) + (1/d) ||sigma grad log p(y) + e||^2], each half on its own images.

    The second half is the score matching loss; divided by the number of pixels d it is the "mean-squared denoising
    objective" of the paper's appendix A. As D(y) = y + sigma^2 grad log p(y), it is ||(D(y) - x) / sigma||^2 / d.
    task     "joint", or one half alone: "classification" (of any classifier), "denoising". The other half's weights
             are then frozen.
    sigma_classification, sigma_denoising   (lowest, highest) in 0-255 units; sigma is the square of a uniform variable.
    margin, mixed   classification only: padded crops by so many pixels; MixUp or CutMix. Flips are the trainer's.
    every    the denoising loss of the joint task takes one image of so many (paper: 64 of 128).
    """

    @validated(sigma_classification=levels_from(0), sigma_denoising=levels_from(0), margin=non_negative_integer,
               every=positive_integer)
    def __init__(self, model: nn.Module, *, task: Literal["joint", "classification", "denoising"],
                 sigma_classification: list, sigma_denoising: list, margin: int, mixed: bool, every: int):
        self.unused_head = {"joint": None, "classification": "density", "denoising": "classify"}[task]
        self.second_order = task != "classification"
        if task == "classification":
            Objective.__init__(self, model)   # nothing is denoised
        else:
            super().__init__(model, sigma=sigma_denoising)
        self.task, self.margin, self.mixed, self.every = task, margin, mixed, every
        self.sigma_classification = sigma_classification

    def prepare(self, images, first, count, whole, seed):
        if self.task == "joint" and count % self.every:
            raise ValueError(f"'every' is {self.every}, but a process has {count} images of a batch; choose a batch "
                             "that is a multiple on each process")

    def forward(self, x, y, generator=None):
        seeds = rng.seeds(generator, len(x), x.device)
        loss, log = 0, {}
        if self.task != "classification":
            part = slice(None, None, self.every if self.task == "joint" else 1)
            loss, log = super().forward(x[part], y[part], rng.fold(seeds[part], 1))
        if self.task != "denoising":
            loss_c, log_c = self._classification(x, y, rng.fold(seeds, 2))
            loss, log = loss + loss_c, log | log_c
        return loss, log

    def _loss(self, x, sigma, e):
        return (self._error(x, sigma, e) / (sigma.view(-1, 1, 1, 1) / 255)).square().mean()

    def _classification(self, x, y, seeds):
        if self.margin:
            x = augment.crop(x, rng.fold(seeds, 1), self.margin)
        own = partners = None
        if self.mixed:
            x, own, partners = augment.mix(x, rng.fold(seeds, 2))
        sigma = squared_uniform(self.sigma_classification, rng.fold(seeds, 3)).to(x.dtype).view(-1, 1, 1, 1)
        logits = self.output(x + sigma / 255 * noise_like(x, rng.fold(seeds, 4)))
        loss = cross_entropy(logits, y, reduction="none")
        if self.mixed:
            loss = own * loss + (1 - own) * cross_entropy(logits, y[partners], reduction="none")
        loss = loss.mean()
        return loss, {"classification": loss.detach(), "accuracy": (logits.argmax(1) == y).float().mean()}

    def compile(self):
        Denoising.compile(self)
        Objective.compile(self)

    def test(self, x, y):
        parts = {"classification": [Objective], "denoising": [Denoising], "joint": [Objective, Denoising]}[self.task]
        return {key: value for part in parts for key, value in part.test(self, x, y).items()}


class Autoencoding(Objective):
    """Mean squared error of an image and its reconstruction, a pixel: E (1/d) ||g(f(x)) - x||^2."""

    @validated()
    def __init__(self, model: nn.Module):
        super().__init__(model)

    def forward(self, x, y, generator=None):
        return (self.output(x) - x).square().mean(), {}

    @torch.no_grad()
    def test(self, x, y):
        return {"test_psnr": psnr(x, self.output(x)).sum()}
