"""The energy around an image, in a plane of two random directions, and what a picture of it says in numbers (JEAT
paper, Figure 2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core import rng
from ..core.energy import joint_energy
from ..core.images import double, single, wide
from ..utils.arguments import positive, positive_integer, validated
from ..utils.validation import check_classifier


@dataclass(frozen=True)
class Landscape:
    """E(x + u a + v b, y) - E(x, y) over a grid, (N, P, P), for `offsets` u and v (P,): l2 distances in units of [0,
    1].

    centre   (N,) E(x, y).
    gap      (N,) mean of E(x, y') over the other classes, less E(x, y): what a change of energy can be compared with.
    """

    rise: torch.Tensor
    offsets: torch.Tensor
    centre: torch.Tensor
    gap: torch.Tensor

    @property
    def depth(self):
        """(N,) how far the lowest point of the plane lies below the image: 0 where the image is the lowest."""
        return self.rise.flatten(1).amin(1).abs()

    @property
    def distance(self):
        """(N,) l2 distance of the lowest point from the image; of several, the nearest."""
        lowest = self.rise.flatten(1) == self.rise.flatten(1).amin(1, keepdim=True)
        return (self.offsets[:, None] ** 2 + self.offsets**2).sqrt().flatten().where(lowest, torch.inf).amin(1)

    @property
    def curvature(self):
        """(N,) mean second derivative over the plane's directions: c of the least-squares fit a + g u + h v + c (u^2 +
        v^2) / 2."""
        u, v = (w.flatten() for w in torch.meshgrid(self.offsets, self.offsets, indexing="ij"))
        design = torch.stack([torch.ones_like(u), u, v, (u**2 + v**2) / 2], 1)
        return torch.linalg.lstsq(double(design), double(self.rise.flatten(1).T)).solution[3].to(self.rise)

    @property
    def spread(self):
        """(N,) standard deviation of the energy over the plane: 0 where it is flat."""
        return self.rise.flatten(1).std(1)


@validated(radius=positive, points=positive_integer, batch=positive_integer)
def energy_landscape(model: Callable, x: torch.Tensor, y: torch.Tensor, *, radius: float, points: int = 21,
                     generator: torch.Generator | int | torch.Tensor | None = None, batch: int = 500,
                     progress: bool = False) -> Landscape:
    """E(x, y) around each image in a plane of two random directions a and b, orthogonal and of length 1: a Landscape.

    x, y     images (N, C, H, W) in [0, 1], labels (N,).
    radius   the grid reaches so far from the image along a and b, l2 in units of [0, 1]. Pixels may leave [0, 1].
    points   of the grid along a side, odd: the middle one is the image.
    batch    images of one forward pass, grid points included; changes no result.
    """
    from tqdm import tqdm

    x, _ = check_classifier(model, x, y)
    if x[0].numel() < 2:
        raise ValueError("images of a single number have no plane of directions; give larger ones")
    if points % 2 == 0 or points < 3:
        raise ValueError(f"'points' is {points}: it should be odd and at least 3, so that the image is in the middle")
    a, b = _plane(x, rng.seeds(generator, len(x), x.device))
    offsets = torch.linspace(-radius, radius, points, dtype=x.dtype, device=x.device)
    offsets[points // 2] = 0   # linspace may miss it by rounding
    u, v = (w.flatten() for w in torch.meshgrid(offsets, offsets, indexing="ij"))
    images, cells = torch.arange(len(x) * len(u), device=x.device).split(batch), []
    with torch.no_grad():
        for index in tqdm(images, desc="energy landscape", unit="batch", disable=not progress):
            i, j = index // len(u), index % len(u)
            logits = model(x[i] + wide(u[j]) * a[i] + wide(v[j]) * b[i])
            cells.append(joint_energy(logits, y[i]))
        logits = torch.cat([model(part) for part in x.split(batch)])
    energies = torch.cat(cells).view(len(x), points, points)
    centre = joint_energy(logits, y)
    others = (-logits.sum(1) - centre) / (logits.shape[1] - 1)
    return Landscape(energies - energies[:, points // 2, points // 2, None, None], offsets, centre, others - centre)


def _plane(x, seeds):
    """Two random orthonormal directions an image, each (N, C, H, W)."""
    a, b = (rng.normal(seeds, x.shape[1:], stream=stream).to(single(x).dtype).flatten(1) for stream in (0, 1))
    a = a / a.norm(dim=1, keepdim=True)
    b = b - (a * b).sum(1, keepdim=True) * a
    return tuple(v.view(x.shape).to(x.dtype) for v in (a, b / b.norm(dim=1, keepdim=True)))
