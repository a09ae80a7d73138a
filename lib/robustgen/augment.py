"""Augmentation of whole batches where they lie: flips, padded crops, MixUp and CutMix.

Every draw is a function of one seed an image (`rng`), so an image is augmented alike at any batch size, on
any rank and device. Images may be uint8 or floats.
"""

import torch
from torch.nn.functional import pad

from . import rng


def flip(x, seeds):
    """Mirror each image (B, C, H, W) left to right with probability 1/2."""
    turned = rng.uniform(seeds, (1, 1, 1)) < 0.5
    return torch.where(turned, x.flip(3), x)


def crop(x, seeds, margin):
    """Pad each image with `margin` black pixels a side and cut a window of its old size at random."""
    n, _, height, width = x.shape
    corner = (rng.uniform(seeds, (2,)) * (2 * margin + 1)).long()
    rows = corner[:, :1] + torch.arange(height, device=x.device)
    columns = corner[:, 1:] + torch.arange(width, device=x.device)
    images = torch.arange(n, device=x.device).view(-1, 1, 1)
    last = pad(x, [margin] * 4).permute(0, 2, 3, 1)   # whole pixels are picked: channels last
    return last[images, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def mix(x, seeds):
    """MixUp or CutMix, each with probability 1/2 (Zhang et al. 2018; Yun et al. 2019; alpha 1).

    x   (B, C, H, W) floats, B even: an image's partner is its neighbour in the pair (0, 1), (2, 3), ...

    Returns the mixed images, the share (B,) of each that is its own, and the partners' positions (B,). The loss
    is share * l(y) + (1 - share) * l(y[partners]). torchvision draws the method and the share once a batch;
    here each image has its own.
    """
    n, _, height, width = x.shape
    if n % 2:
        raise ValueError(f"mixing pairs up images, and {n} is odd; choose a batch that is a multiple of 2 on each process")
    share, cut, row, column = rng.uniform(seeds, (4,)).to(x.dtype).T
    partners = torch.arange(n, device=x.device) ^ 1
    half = 0.5 * (1 - share).sqrt()   # CutMix: a box of area 1 - share around (row, column), cut off at the border

    def inside(size, centre):
        at, middle, reach = torch.arange(size, device=x.device), (centre * size).floor()[:, None], (half * size).floor()[:, None]
        return (at >= middle - reach) & (at < middle + reach)

    box = (inside(height, row)[:, :, None] & inside(width, column)[:, None]).to(x.dtype)
    own = torch.where((cut < 0.5)[:, None, None], 1 - box, share[:, None, None])
    weight = own[:, None]
    return weight * x + (1 - weight) * x[partners], own.mean((1, 2)), partners
