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
    mean, std   one number a channel, in units of [0, 1]; a list, an array or a tensor.

    Raises ValueError for a mean or std in units of 0 to 255, and images of another number of channels.
    """

    def __init__(self, net: Callable, mean: Sequence, std: Sequence):
        super().__init__()
        self.net = net
        try:
            mean, std = (torch.as_tensor(v, dtype=torch.float32).flatten() for v in (mean, std))
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"mean is {mean!r} and std {std!r}: they should be one number a channel, such as "
                             "(0.5, 0.5, 0.5)") from None
        if len(mean) != len(std):
            raise ValueError(f"there are {len(mean)} means and {len(std)} standard deviations; give one of each a "
                             "channel")
        if not ((mean >= 0) & (mean <= 1)).all() or not ((std > 0) & (std <= 1)).all():
            raise ValueError(f"mean {mean.tolist()} and std {std.tolist()} should lie in [0, 1], std above 0; divide "
                             "those of images of 0-255 by 255")
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, x):
        if x.shape[1] != len(self.mean):   # it would be broadcast
            raise ValueError(f"the net takes images of {len(self.mean)} channels, got {x.shape[1]}; repeat a single "
                             "one: x.expand(-1, 3, -1, -1)")
        return self.net(((x - self.mean) / self.std).to(x.dtype))
