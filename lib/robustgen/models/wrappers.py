"""Nets around nets: a classifier that was trained on normalised images, or one with a temperature."""

from collections.abc import Callable, Sequence

import torch
from torch import nn


class Tempered(nn.Module):
    """A classifier with its logits divided by T: the same answers, and chains that differ by their step alone."""

    def __init__(self, model, T):
        super().__init__()
        self.model, self.T = model, T

    def forward(self, x):
        return self.model(x) / self.T


class Normalized(nn.Module):
    """A net that was trained on (x - mean) / std, as a model of images in [0, 1].

    net   any classifier (B, C, H, W) -> (B, K): torchvision, timm, RobustBench.
    mean, std   one number a channel, in units of [0, 1].
    """

    def __init__(self, net: Callable, mean: Sequence, std: Sequence):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.as_tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std).view(-1, 1, 1))

    def forward(self, x):
        return self.net((x - self.mean) / self.std)
