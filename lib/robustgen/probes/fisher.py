"""Fisher scores of a classifier's energies, and how much of an image's noise their gradients explain (JEAT paper,
section 4.3).

Score matching (Hyvarinen 2005) compares grad log p = -grad E with the data's without the normalising constant: up to a
constant of the data the Fisher divergence (eq. 21) is F = E[1/2 |grad E|^2 - tr grad^2 E] (eqs. 23 and 24), the lower
the better.

What F says of a classifier is less than it seems, and can be measured here, too:
- A net of ReLUs is piecewise linear: wherever grad^2 E(x, y) is defined it is zero, and grad^2 E(x) has no positive
  eigenvalue. So both scores are at least 0, which a constant net reaches. Curvature that sits in the kinks is seen with
  sigma > 0, where the data are blurred by Gaussian noise: denoising score matching (Vincent 2011).
- Dividing the logits by T divides grad E by T. `FisherScore.scale` is the factor at which F is least, `explained` what
  is left: a number that no such factor changes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core import rng
from ..core.energy import joint_energy, marginal_energy
from ..core.images import single
from ..utils.arguments import non_negative, positive_integer, validated
from ..utils.validation import check_classifier


@dataclass(frozen=True)
class FisherScore:
    """F of each image: `square` 1/2 |grad E|^2 and `trace` tr grad^2 E, both (N,), means over draws.

    error   (N,) standard error of the trace, NaN for a single draw.
    sigma   of the noise; dimension, the number of pixel values.
    """

    square: torch.Tensor
    trace: torch.Tensor
    error: torch.Tensor
    sigma: float
    dimension: int

    @property
    def values(self):
        """F of each image, (N,)."""
        return self.square - self.trace

    @property
    def mean(self):
        return self.values.mean().item()

    @property
    def standard_error(self):
        """Of the mean: images are a sample, and traces are estimates."""
        return (self.values.std() / math.sqrt(len(self.values))).item()

    @property
    def trace_error(self):
        """Standard error of the mean trace at these very images: Hutchinson's part of `standard_error`."""
        return (self.error.square().sum().sqrt() / len(self.error)).item()

    @property
    def length(self):
        """Root mean square of |grad E| over the images: Langevin steps over it move nets of every scale of logits
        alike."""
        return (2 * self.square.mean()).sqrt().item()

    @property
    def scale(self):
        """The factor a >= 0 for which F of a E is least: mean trace / 2 mean square, or 0."""
        return max(0.0, (self.trace.mean() / (2 * self.square.mean())).item())

    @property
    def explained(self):
        """Share of the noise that grad E explains, in [-1, 1]: the signed square of its correlation with e; NaN without
        noise.

        A denoiser x + sigma e - a sigma^2 grad E that may choose a removes this share of |sigma e|^2 (Vincent 2011), if
        positive.
        """
        if not self.sigma:
            return math.nan
        slope, square = self.trace.mean().item(), 2 * self.square.mean().item()
        return math.copysign((self.sigma * slope) ** 2 / max(square * self.dimension, 1e-300), slope)


@validated(sigma=non_negative, draws=positive_integer, batch=positive_integer)
def joint_fisher_score(model: Callable, x: torch.Tensor, y: torch.Tensor, *, sigma: float = 0.0, draws: int = 8,
                       generator: torch.Generator | int | torch.Tensor | None = None, batch: int = 100,
                       progress: bool = False) -> FisherScore:
    """JFS, F of E(x, y) (JEAT eq. 23): a FisherScore.

    x, y     images (N, C, H, W) in [0, 1], labels (N,).
    sigma    0 for the score at the images. Else they are blurred by noise of that standard deviation in units of [0,
             1]: means over x + sigma e, with e ~ N(0, I) in pairs of opposite sign.
    draws    of Hutchinson's estimate v' grad^2 E v, each v_i +1 or -1 by a coin's throw; or of pairs, whose
             e' (grad E(x + sigma e) - grad E(x - sigma e)) / 2 sigma has the trace as its mean (Stein's lemma).

    Raises ValueError for images, labels or models that do not fit, and for energies that are not finite.
    """
    x, _ = check_classifier(model, x, y)
    return _score(lambda x, rows: joint_energy(model(x), y[rows]), x, sigma, draws, generator, batch, progress,
                  "joint Fisher score")


@validated(sigma=non_negative, draws=positive_integer, batch=positive_integer)
def marginal_fisher_score(model, x, *, sigma: float = 0.0, draws: int = 8, generator=None, batch: int = 100,
                          progress: bool = False):
    """MFS, F of E(x) (JEAT eq. 24): arguments, result and errors are those of `joint_fisher_score`."""
    x, _ = check_classifier(model, x)
    return _score(lambda x, rows: marginal_energy(model(x)), x, sigma, draws, generator, batch, progress,
                  "marginal Fisher score")


def exact_trace(energy, x):
    """tr grad^2 E of each image, (B,), by a product with every pixel's unit vector: for small images, and to judge
    estimates.

    energy   images -> (B,) values; an image's must not depend on its neighbours.
    """
    gradient, z = _gradient(energy, x)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for i in range(x[0].numel()):
        unit = torch.zeros_like(x).flatten(1)
        unit[:, i] = 1
        total += _curvature(gradient, z, unit.view_as(x))
    return total


def _score(energy, x, sigma, draws, generator, batch, progress, name):
    from tqdm import tqdm

    seeds, parts = rng.seeds(generator, len(x), x.device), []
    index = torch.arange(len(x), device=x.device).split(batch)
    for rows in tqdm(index, desc=name, unit="batch", disable=not progress):
        part = _smooth if sigma else _pointwise
        parts.append(part(lambda x, rows=rows: energy(x, rows), x[rows], sigma, draws, seeds[rows]))
    square, traces = (torch.cat(found) for found in zip(*parts))
    if not (torch.isfinite(square).all() and torch.isfinite(traces).all()):
        raise ValueError(f"the {name} is not finite; look for inf in the model's logits or gradients")
    error = traces.std(1) / math.sqrt(draws) if draws > 1 else torch.full_like(square, torch.nan)
    return FisherScore(square, traces.mean(1), error, sigma, x[0].numel())


def _pointwise(energy, x, sigma, draws, seeds):
    """1/2 |grad E|^2 (B,) and Hutchinson's estimates of the trace (B, draws)."""
    gradient, z = _gradient(energy, x)
    signs = (2.0 * (rng.uniform(seeds, x.shape[1:], stream=draw) < 0.5) - 1 for draw in range(draws))
    traces = [_curvature(gradient, z, v.to(x.dtype)) for v in signs]
    return single(gradient.detach()).flatten(1).square().sum(1) / 2, torch.stack(traces, 1)


def _smooth(energy, x, sigma, draws, seeds):
    """The same over noisy images."""
    square, traces = torch.zeros(len(x), dtype=single(x).dtype, device=x.device), []
    for draw in range(draws):
        e = rng.normal(seeds, x.shape[1:], stream=draw).to(x.dtype)
        up, down = (single(_gradient(energy, x + side * sigma * e)[0].detach()) for side in (1, -1))
        square += (up.flatten(1).square().sum(1) + down.flatten(1).square().sum(1)) / 4
        # what the two have in common, and its noise, drops out
        traces.append((e * (up - down)).flatten(1).sum(1) / (2 * sigma))
    return square / draws, torch.stack(traces, 1)


def _gradient(energy, x):
    """grad E at x, with the graph that a second derivative needs, and the images it is taken at."""
    z = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(energy(z).sum(), z, create_graph=True)[0], z


def _curvature(gradient, z, v):
    """v' grad^2 E v of each image, (B,). Zero where the gradient does not depend on the image."""
    nothing = torch.zeros(len(v), dtype=single(v).dtype, device=v.device)
    if not gradient.requires_grad:
        return nothing
    with torch.enable_grad():
        product, = torch.autograd.grad((gradient * v).sum(), z, retain_graph=True, allow_unused=True)
    return nothing if product is None else (single(product) * v).flatten(1).sum(1)
