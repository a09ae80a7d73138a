"""Augmentation of whole batches where they lie: flips, crops, MixUp and CutMix.

Every draw is a function of one seed an image (`rng`), so an image is augmented alike at any batch size, on
any rank and device. Images may be uint8 or floats.
"""

import math

import torch
from torch.nn.functional import grid_sample, pad

from ..core import rng


def flip(x, seeds):
    """Mirror each image (B, C, H, W) left to right with probability 1/2."""
    turned = rng.uniform(seeds, (1, 1, 1)) < 0.5
    return torch.where(turned, x.flip(3), x)


def crop(x, seeds, margin):
    """Pad each image with `margin` black pixels a side and cut a window of its old size at random."""
    return window(pad(x, [margin] * 4), seeds, *x.shape[2:])


def window(x, seeds, height, width):
    """Cut a window of `height` x `width` pixels out of each image at random."""
    draw = rng.uniform(seeds, (2,))
    rows, columns = ((draw[:, i, None] * (x.shape[2 + i] - size + 1)).long() + torch.arange(size, device=x.device)
                     for i, size in enumerate((height, width)))
    images = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    last = x.permute(0, 2, 3, 1)   # whole pixels are picked: channels last
    return last[images, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def resized_crop(x, seeds, side, scale=(0.08, 1), ratio=(3 / 4, 4 / 3), tries=10):
    """Cut a box out of each square image at random and resize it to `side` x `side` pixels (Szegedy et al. 2015).

    x             (B, C, S, S) floats.
    scale, ratio  ranges of the box's area, as a share of the image's, and of its width by its height; torchvision's
                  defaults.

    The first box of `tries` that fits is taken, else the whole image, as in torchvision. Resampling is bilinear without
    a filter: meant for images not much larger than `side`.
    """
    draw = rng.uniform(seeds, (tries, 4)).to(x.dtype)
    area, stretch = scale[0] + (scale[1] - scale[0]) * draw[..., 0], (math.log(ratio[0]) + math.log(ratio[1] / ratio[0])
                                                                      * draw[..., 1]).exp()
    size = torch.stack([(area * stretch).sqrt(), (area / stretch).sqrt()], 2)   # width, height as shares: (B, tries, 2)
    fits = (size <= 1).all(2)
    first = fits.to(torch.int8).argmax(1)
    images = torch.arange(len(x), device=x.device)
    size = torch.where(fits.any(1)[:, None], size[images, first], 1.0)
    centre = (2 * draw[images, first, 2:] - 1) * (1 - size)   # of the box, from -1 to 1
    at = (2 * torch.arange(side, device=x.device, dtype=x.dtype) + 1) / side - 1
    columns, rows = (centre[:, i, None] + size[:, i, None] * at for i in (0, 1))
    grid = torch.stack([columns[:, None].expand(-1, side, -1), rows[:, :, None].expand(-1, -1, side)], 3)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def mix(x, seeds):
    """MixUp or CutMix, each with probability 1/2 (Zhang et al. 2018; Yun et al. 2019; alpha 1).

    x   (B, C, H, W) floats, B even: an image's partner is its neighbour in the pair (0, 1), (2, 3), ...

    Returns the mixed images, the share (B,) of each that is its own, and the partners' positions (B,). The loss
    is share * l(y) + (1 - share) * l(y[partners]). torchvision draws the method and the share once a batch;
    here each image has its own.
    """
    n, _, height, width = x.shape
    if n % 2:
        raise ValueError(f"mixing pairs up images, and {n} is odd; choose a batch that is a multiple of 2 on each "
                         "process")
    share, cut, row, column = rng.uniform(seeds, (4,)).to(x.dtype).T
    partners = torch.arange(n, device=x.device) ^ 1
    half = 0.5 * (1 - share).sqrt()   # CutMix: a box of area 1 - share around (row, column), cut off at the border

    def inside(size, centre):
        at = torch.arange(size, device=x.device)
        middle, reach = (centre * size).floor()[:, None], (half * size).floor()[:, None]
        return (at >= middle - reach) & (at < middle + reach)

    box = (inside(height, row)[:, :, None] & inside(width, column)[:, None]).to(x.dtype)
    own = torch.where((cut < 0.5)[:, None, None], 1 - box, share[:, None, None])
    weight = own[:, None]
    return weight * x + (1 - weight) * x[partners], own.mean((1, 2)), partners
