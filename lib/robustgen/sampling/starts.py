"""Where generation begins: Gaussian and Perlin noise."""

import torch

from ..core import rng
from ..utils.arguments import non_negative, positive, positive_integer, validated

# Where trajectories begin

@validated(n=positive_integer, mean=non_negative, sigma=positive)
def gaussian_start(n: int, shape, *, mean: float = 0.5, sigma: float = 0.1, generator=None):
    """Images of independent Gaussian pixels, clamped to [0, 1]: (n, *shape)."""
    return (mean + sigma * rng.normal(rng.seeds(generator, n), tuple(shape))).clamp(0, 1)


@validated(n=positive_integer, cells=positive_integer, octaves=positive_integer, amplitude=positive)
def perlin_start(n: int, shape, *, cells: int = 4, octaves: int = 3, amplitude: float = 0.1, generator=None):
    """Perlin noise (Perlin 2002) around 0.5, at most `amplitude` away from it: (n, *shape), each channel for itself.

    cells     of the coarsest lattice, along each side. Each further octave has twice as many and half the height.
    """
    seeds, (channels, height, width) = rng.seeds(generator, n), shape
    total = torch.zeros(n, channels, height, width)
    for octave in range(octaves):
        k = cells * 2**octave
        angle = 2 * torch.pi * rng.uniform(seeds, (channels, k + 1, k + 1), stream=octave)
        slopes = torch.stack([angle.sin(), angle.cos()])   # a unit vector (down, right) at each lattice point
        y, x = (k * (torch.arange(side) + 0.5) / side for side in (height, width))   # at the pixels' centres
        i, j = y.long(), x.long()
        v, u = (y - i)[:, None], (x - j)[None]

        def corner(down, right):   # the slope's product with the way from the corner
            rows = slopes[:, :, :, i + down][..., j + right]
            return rows[0] * (v - down) + rows[1] * (u - right)

        top, bottom = (torch.lerp(corner(down, 0), corner(down, 1), _fade(u)) for down in (0, 1))
        total += torch.lerp(top, bottom, _fade(v)) / 2**octave
    # one octave reaches at most the root of a half
    return 0.5 + amplitude * total / (0.5**0.5 * (2 - 2.0 ** (1 - octaves)))


def _fade(t):
    return t**3 * (t * (6 * t - 15) + 10)
