"""Shapes: a dataset whose truth is known. A differentiable renderer of ten lit shapes over textured backgrounds.

An image is a smooth function of its class and of twelve latent factors, uniform in [0, 1]. The first ones place and
light the shape, the signal; the others paint the background and a coloured blob, the distractor. So the tangent space
of the class's manifold is known at every image. Every draw of the factors is rendered in all ten classes: nothing but
the silhouette tells the class.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch

from ..core import rng

SIDE = 32
SIGNAL = ("x", "y", "size", "rotation", "hue", "light")
DISTRACTOR = ("background", "phase", "direction", "blob x", "blob y", "blob hue")
FACTORS = SIGNAL + DISTRACTOR
COUNTS = {"train": 10000, "test": 2000}
CLASSES = 10   # by their silhouettes, below
EDGE = 0.7   # pixels over which an edge is smoothed


def draw_factors(split, index):
    """Factors (N, 12) in [0, 1], float64, and classes (N,) of the images at positions `index` (N,) of a split, "train"
    or "test"."""
    return rng.uniform(rng.fold(index // CLASSES, 7, list(COUNTS).index(split)),
                       (len(FACTORS),)).double(), index % CLASSES


@dataclass(frozen=True)
class _Renders:
    """A split's images as uint8 (N, 3, 32, 32), rendered when they are asked for: `renders[positions]`."""

    split: str

    def __len__(self):
        return COUNTS[self.split]

    def __getitem__(self, index):
        return _rendered(self.split, np.asarray(index, np.int64).tobytes()).copy()   # what is kept must not be changed


@functools.lru_cache(4)   # a family's nets ask for the same images, one after the other
def _rendered(split, positions):
    parts = torch.frombuffer(bytearray(positions), dtype=torch.int64).split(500)
    return torch.cat([(255 * render_shapes(*draw_factors(split, part))).round().byte() for part in parts]).numpy()


def read_shapes(split):
    """The images of a split, as `data` reads them, and their classes (N,)."""
    return _Renders(split), np.arange(COUNTS[split]) % CLASSES


def render_shapes(z, y):
    """Images (B, 3, 32, 32) in [0, 1], in the type of z, of factors z (B, 12) and classes y (B,). Smooth in z."""
    image, shade, coverage = _layers(z, y)
    return image + coverage * (shade - image)


def shape_coverage(z, y):
    """How far each pixel belongs to the shape, the signal's mask, (B, 1, 32, 32) in [0, 1]."""
    return _layers(z, y)[2]


def shape_tangents(z, y):
    """The images' derivatives by each factor, by forward mode: (B, 12, 3, 32, 32). They span the tangent space.

    It has 12 dimensions, and 11 for discs and rings, which look alike at every rotation.
    """
    one = torch.func.vmap(torch.func.jacfwd(lambda z, y: render_shapes(z[None], y[None])[0]))
    return one(z, y).movedim(-1, 1)


def _layers(z, y):
    """Background with the blob, lit colour of the shape, both (B, 3, 32, 32), and the shape's coverage (B, 1, 32,
    32)."""
    factors = (z[:, i, None, None] for i in range(len(FACTORS)))
    x0, y0, size, rotation, hue, light, background, phase, direction, bx, by, blob = factors
    grid = torch.arange(SIDE, dtype=z.dtype, device=z.device) - (SIDE - 1) / 2
    down, across = torch.meshgrid(grid, grid, indexing="ij")

    wave = torch.sin(across / 2.5 * torch.cos(direction * math.pi / 2) + down / 2.5 * torch.sin(direction * math.pi / 2)
                     + 2 * math.pi * phase)
    image = (0.1 + 0.25 * _colour(background)) * (1 + 0.3 * wave)[:, None]
    spot = torch.exp(-((across - 22 * (bx - 0.5)) ** 2 + (down - 22 * (by - 0.5)) ** 2) / 12)[:, None]
    image = image + spot * (0.7 * _colour(blob) - image)

    radius = 6 + 4 * size   # in pixels
    u, v = (across - 8 * (x0 - 0.5)) / radius, (down - 8 * (y0 - 0.5)) / radius
    angle = 2 * math.pi / 3 * (rotation - 0.5)
    u, v = u * torch.cos(angle) + v * torch.sin(angle), v * torch.cos(angle) - u * torch.sin(angle)
    outside = torch.stack(_silhouettes(u, v), 1).gather(1, y[:, None, None, None].expand(-1, 1, SIDE, SIDE))
    covered = torch.sigmoid(-outside * radius[:, None] / EDGE)
    turn = 2 * math.pi * light - angle   # the light does not turn with the shape
    # Lambert's law on a dome of normals (u, v, 1)
    lit = (0.6 * (u * torch.cos(turn) + v * torch.sin(turn)) + 0.8) / (1 + u**2 + v**2).sqrt()
    return image, (0.3 + 0.7 * _colour(hue)) * (0.45 + 0.55 * torch.sigmoid(4 * (lit - 0.5)))[:, None], covered


def _colour(hue):
    """Red, green and blue (B, 3, 1, 1) of a hue (B, 1, 1) on the circle [0, 1]."""
    third = torch.arange(3, dtype=hue.dtype, device=hue.device).view(3, 1, 1) / 3
    return 0.5 + 0.45 * torch.cos(2 * math.pi * (hue[:, None] + third))


# Silhouettes in the shape's own coordinates, about 1 in radius: (B, 32, 32) each, positive outside, near the distance
# to the edge.

def _silhouettes(u, v):
    r = _length(u, v)
    cos5 = u**5 - 10 * u**3 * v**2 + 5 * u * v**4   # r^5 cos(5 phi)
    return (
        r - 0.9,
        _length(r - 0.72) - 0.26,
        _box(u, v, 1.15, 0.35),
        _box(u, v, 0.8, 0.8),
        _most(*(u * math.sin(a) - v * math.cos(a) - 0.55 for a in (0, 2 * math.pi / 3, 4 * math.pi / 3))),
        -_most(-_box(u, v, 1.05, 0.3), -_box(u, v, 0.3, 1.05)),
        r - 0.75 - 0.35 * cos5 / (r**5 + 0.02),
        _most(r - 1, 0.75 - _length(u - 0.5, v)),
        -_most(0.48 - _length(u - 0.62, v), 0.48 - _length(u + 0.62, v)),
        -_most(-_box(u, v + 0.6, 0.95, 0.28), -_box(u, v - 0.2, 0.28, 0.85)),
    )


def _length(a, b=0.0):
    return (a**2 + b**2 + 1e-3).sqrt()   # smooth at zero


def _most(*values):
    """A smooth maximum."""
    return torch.logsumexp(torch.stack(values, -1) * 20, -1) / 20


def _box(u, v, a, b):
    return _most(_length(u) - a, _length(v) - b)
