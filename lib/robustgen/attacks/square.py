"""Square attack (Andriushchenko et al. 2020): random search, which asks a net for logits and never for gradients.

The tiles and windows are those of the authors' code, as AutoAttack has them. As there, a query's images share the place
of the square, in the max norm its sign, and in l2 the orientation of its pattern; other draws are an image's own.
"""

import math
from bisect import bisect_left
from collections.abc import Callable

import torch

from ..core import ascent, images, rng
from ..utils.arguments import Norm, positive, positive_integer, validated
from ..utils.validation import check_classifier
from .evaluation import true_and_rival

SHARE = 0.8   # of an image's pixels that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)   # of that share, in 10 000ths of all queries
TILES = 5     # an l2 attack begins with as many a side


@validated(eps=positive, queries=positive_integer)
def square_attack(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm = "linf", eps: float,
                  queries: int = 5000, shared: int = 0,
                  generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """Lower each image's margin, f_y - max f_j, by random changes of squares, one a query: algorithms 1 to 3.

    x, y        images (B, C, H, W) in [0, 1], labels (B,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    queries     at most; squares shrink on schedule over as many.
    shared      seed of what the images have in common. generator is that of the images' own draws.

    Returns images in [0, 1] within `eps` of `x`: of those tried, the one of the smallest margin. An image is left alone
    once it is misclassified.
    """
    x, _ = check_classifier(model, x, y)
    if norm == "l2":
        check_tiles(x)
    start, propose = {"linf": (_stripes, _square), "l2": (_tiles, _two_windows)}[norm]
    seeds, common = rng.seeds(generator, len(x), x.device), torch.tensor([shared])
    best = start(x, eps, seeds, common)
    margin = _margin(model, best, y)
    for query in range(queries):
        active = (margin > 0).nonzero()[:, 0]
        if not len(active):
            break
        share = SHARE / 2 ** bisect_left(HALVINGS, int(query / queries * 10000))
        tried = propose(x[active], best[active], eps, share, seeds[active], common, query)
        found = _margin(model, tried, y[active])
        better = found < margin[active]
        best[active[better]], margin[active[better]] = tried[better], found[better]
    return best


def check_tiles(x):
    """Refuse images that the l2 attack's tiles do not fit."""
    height, width = x.shape[2:]
    if height != width or height < TILES or height // (height // TILES) != TILES:
        raise ValueError(f"Square in l2 begins with 5 x 5 tiles, which do not fit images of {height} x {width} pixels. "
                         "Resize them, say to 32 x 32.")


@torch.no_grad()
def _margin(model, x, y):
    true, rival = true_and_rival(model(x), y)
    return true - rival


# Draws: each from a stream of its own

def _signs(seeds, x, stream, width=1):
    """1 or -1 for each channel, or each column of one: (seeds, channels, 1, width)."""
    return (2 * rng.uniform(seeds, (x.shape[1], 1, width), stream=stream) - 1).sign().to(x)


def _window(common, x, side, stream):
    """A square of `side` pixels somewhere in all images. As in the authors' code it leaves out the last row and
    column."""
    top, left = (int(rng.uniform(common, (), stream=stream + i) * (x.shape[2 + i] - side)) for i in (0, 1))
    return ..., slice(top, top + side), slice(left, left + side)


# The max norm: algorithm 2

def _stripes(x, eps, seeds, common):
    """Each column of each channel moves by eps, up or down."""
    return ascent.ball("linf", x, eps)(x + eps * _signs(seeds, x, 0, width=x.shape[3]))


def _square(x, best, eps, share, seeds, common, query):
    """Each channel of a square moves to one end of the ball."""
    stream = 1 + 3 * query
    height, width = x.shape[2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    move = torch.zeros_like(x[:1])
    move[_window(common, x, side, stream)] = 2 * eps * _signs(common, x, stream + 2)
    return ascent.ball("linf", x, eps)(best + move)


# l2: algorithm 3

def _tiles(x, eps, seeds, common):
    """A pattern in each of 5 x 5 tiles, of a random sign in each channel."""
    side, edge = x.shape[2] // TILES, x.shape[2] % TILES // 2
    delta = torch.zeros_like(x)
    for tile in range(TILES**2):
        top, left = (edge + side * i for i in divmod(tile, TILES))
        pattern = _pattern(common, side, 2 * tile).to(x) * _signs(seeds, x, 2 * tile + 1)
        delta[:, :, top:top + side, left:left + side] = pattern
    return _at_distance(x, delta, eps)


def _two_windows(x, best, eps, share, seeds, common, query):
    """What one window has of the change goes to another, where a new pattern is added."""
    stream = 2 * TILES**2 + 6 * query
    side = max(round(math.sqrt(share) * x.shape[2]), 3) // 2 * 2 + 1   # odd
    to, source = _window(common, x, side, stream), _window(common, x, side, stream + 2)
    delta, union = best - x, torch.zeros_like(x[:1])
    union[to] = union[source] = 1
    unused = (eps**2 - images.norm(delta)**2).clamp_min(0) / x.shape[1]
    budget = (images.norm(delta * union)**2 + unused).sqrt()
    pattern = _pattern(common, side, stream + 4).to(x) * _signs(seeds, x, stream + 5)
    new = budget * _unit(_unit(delta[to]) + pattern)
    delta[source] = 0
    delta[to] = new.to(delta.dtype)
    return _at_distance(x, delta, eps)


def _unit(v):
    """Each channel at l2 norm 1, or 0."""
    v = images.single(v)
    return v / (torch.linalg.vector_norm(v, dim=(2, 3), keepdim=True) + 1e-12)


def _at_distance(x, delta, eps):
    delta = images.single(delta)
    return images.moved(x, delta / (images.norm(delta) + 1e-12) * eps)


def _pattern(common, side, stream):
    """A positive and a negative bump, one above the other or side by side: (side, side), of l2 norm 1."""
    both = torch.cat([_bump(side // 2, side), -_bump(side - side // 2, side)])
    both = both / torch.linalg.vector_norm(both)
    return both.T if rng.uniform(common, (), stream=stream) > 0.5 else both


def _bump(height, width):
    """At distance d from the middle, in the max norm, the sum of 1 / k^2 for k > d, up to half a side; of l2 norm 1."""
    down, across = ((torch.arange(n) - n // 2).abs() for n in (height, width))
    k = torch.arange(max(height, width) // 2 + 1, 0, -1, dtype=torch.float64)
    bump = (1 / k**2).cumsum(0).flip(0)[torch.maximum(down[:, None], across)]
    return bump / torch.linalg.vector_norm(bump)
