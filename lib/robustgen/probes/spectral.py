"""Spectra of the Gram operator J'J of a classifier, J = d logits / d x (K x P) at an image; Krylov spaces of any
symmetric operator.

J'J has at most K eigenvalues that are not zero. They are those of the K x K matrix JJ', so K backward
passes give them exactly; subspace iteration and Lanczos need products J'Jv only and serve nets with many
outputs. Everything is per image: an image's spectrum does not depend on its batch.
"""

from collections.abc import Callable
from typing import Literal

import torch

from ..core import rng
from ..core.images import double, norm
from ..models.layers import features, require_gradient
from ..utils.arguments import list_of, optional, positive, positive_integer, validated
from ..utils.validation import check_classifier, check_images
from .jacobian import BLOCK, gram_matvec, krylov, unchecked_jacobian


@validated(radii=list_of(positive))
def linearisation(model, x, *, layer=None, radii, generator=None):
    """Relative distance of PGDD's gradient at x (eq. 7) from -2 J'Je (eq. 8), for e of each length: (B, len(radii)).

    radii   l2 norms of e; its direction is uniform, the same for all, drawn from `generator`.
    """
    x, _ = check_classifier(model, x)
    net = require_gradient(features(model, layer), x, layer)
    direction = rng.normal(rng.seeds(generator, len(x), x.device), x.shape[1:]).to(x.dtype)
    direction = direction / norm(direction)
    expected = -2 * gram_matvec(lambda x: net(x)[0], x, direction)   # for |e| = 1: eq. 8 is linear in e
    found = []
    for radius in radii:
        with torch.no_grad():
            reference = net(x + radius * direction)[0]
        z = x.detach().requires_grad_()
        gradient, = torch.autograd.grad((net(z)[0] - reference).square().sum(), z)
        found.append((norm(gradient - radius * expected) / norm(radius * expected)).flatten())
    return torch.stack(found, 1)


@validated(k=optional(positive_integer), iterations=optional(positive_integer), tolerance=positive)
def spectrum(model: Callable, x: torch.Tensor, k: int | None = None, *,
             method: Literal["exact", "subspace", "lanczos"] = "exact",
             iterations: int | None = None, tolerance: float = 1e-5,
             generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """Leading eigenvalues of J'J at each image, largest first: (B, k) in float64, on the CPU where the device has none.

    method      "exact": K backward passes, then the K x K problem; k=None gives all K.
                "subspace": the paper's iteration with re-orthogonalisation (appendix C) and Rayleigh quotients.
                "lanczos": a Krylov space of min(K + 10, 2k + 20) products, fully re-orthogonalised.
    iterations  at most this many rounds of the subspace iteration (default 1000) or products of Lanczos.
    tolerance   the subspace iteration ends once no Rayleigh quotient moves by more than this, relative to
                itself. It converges linearly, as fast as neighbouring eigenvalues differ.
    generator   of the random start of the iterative methods.
    """
    x, classes = check_classifier(model, x)
    if k is None:
        k = classes
    if not 1 <= k <= classes:
        raise ValueError(f"the model has {classes} logits, so J'J has at most {classes} nonzero eigenvalues; k = {k} "
                         f"must lie in 1..{classes}")
    if method == "exact":
        j = double(unchecked_jacobian(model, x))
        return torch.linalg.eigvalsh(j @ j.mT).flip(1)[:, :k].clamp_min(0)
    seeds = rng.seeds(generator, len(x), x.device)
    if method == "subspace":
        return _subspace(model, x, k, iterations or 1000, tolerance, seeds)
    return _lanczos(model, x, k, iterations or min(classes + 10, 2 * k + 20), seeds)


def _subspace(model, x, k, iterations, tolerance, seeds):
    copies = x.repeat_interleave(k, 0)
    v = torch.linalg.qr(rng.normal(seeds, (x[0].numel(), k)))[0].to(x.dtype)   # (B, P, k)
    old = torch.inf
    for _ in range(iterations):
        av = gram_matvec(model, copies, v.mT.reshape(copies.shape)).view(len(x), k, -1).mT
        eigenvalues = (double(v) * double(av)).sum(1)   # Rayleigh quotients <v_i, J'J v_i>
        if ((eigenvalues - old).abs() <= tolerance * eigenvalues.abs()).all():
            break
        old, v = eigenvalues, torch.linalg.qr(av)[0]
    return eigenvalues.sort(1, descending=True).values


def _lanczos(model, x, k, steps, seeds):
    v = rng.normal(seeds, x.shape[1:]).to(x.dtype)
    v = gram_matvec(model, x, v)   # into the range of J'J: the start has no part in its large null space
    _, t = krylov(lambda v: gram_matvec(model, x, v), v, steps)
    return torch.linalg.eigvalsh(t[:, :-1]).flip(1)[:, :k].clamp_min(0)


@validated(n_draws=positive_integer, sigma=positive)
def noise_response(model, x, n_draws, sigma, generator=None):
    """Noise e ~ N(0, sigma^2 I) and J'Je for each image: two tensors (B, n_draws, C, H, W)."""
    x, classes = check_classifier(model, x)
    noise = sigma * rng.normal(rng.seeds(generator, len(x), x.device), (n_draws, *x.shape[1:])).to(x.dtype)
    if classes <= 2 * n_draws:   # K backward passes, or a forward and a backward one for each draw
        j = unchecked_jacobian(model, x)
        return noise, (noise.flatten(2) @ j.mT @ j).view_as(noise)
    copies = x.repeat_interleave(n_draws, 0)
    parts = zip(copies.split(BLOCK), noise.flatten(0, 1).split(BLOCK))
    return noise, torch.cat([gram_matvec(model, *part) for part in parts]).view_as(noise)


@validated(n_draws=positive_integer, sigma=positive)
def energy_ratio(model: Callable, x: torch.Tensor, *, n_draws: int = 128, sigma: float = 0.25,
                 generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """Mean over noise draws of ||J'J e|| / ||e||, e ~ N(0, sigma^2 I), at each image: (B,) (appendix C).

    The operator is linear, so sigma cancels; it is here because the paper names it.
    """
    noise, response = noise_response(model, x, n_draws, sigma, generator)
    return (response.flatten(2).norm(dim=2) / noise.flatten(2).norm(dim=2)).mean(1)


def tail(eigenvalues, k=8):
    """tail@k: the k-th largest eigenvalue, (...) from (..., n) sorted from the largest."""
    return eigenvalues[..., k - 1]


def power_law(eigenvalues):
    """Least-squares fit of log(lambda_i) against log(i): (exponent, R2), each (...) from (..., n).

    The exponent is positive for a decay: lambda_i ~ i^-exponent.
    """
    if eigenvalues.shape[-1] < 3 or (eigenvalues <= 0).any():
        raise ValueError("a power law needs at least three positive eigenvalues; leave out those that are zero")
    log_l = double(eigenvalues).log()
    log_i = torch.arange(1, eigenvalues.shape[-1] + 1).to(log_l).log()
    di, dl = log_i - log_i.mean(), log_l - log_l.mean(-1, keepdim=True)
    slope = (di * dl).sum(-1) / (di * di).sum()
    return -slope, slope**2 * (di * di).sum() / (dl * dl).sum(-1)


def participation_ratio(eigenvalues):
    """Number of directions that carry a spectrum: (sum lambda)^2 / sum lambda^2, (...) from (..., n); 1 to n."""
    return eigenvalues.sum(-1)**2 / eigenvalues.square().sum(-1)


def full_range(images):
    """Scale each image (..., C, H, W) so that its least value becomes 0 and its largest 1."""
    low = images.amin((-3, -2, -1), keepdim=True)
    return bright(images - low)


def bright(images):
    """Keep the positive part of each image (..., C, H, W), scaled so that its largest value becomes 1."""
    return images.clamp_min(0) / images.amax((-3, -2, -1), keepdim=True).clamp_min(torch.finfo(images.dtype).tiny)


@validated()
@torch.no_grad()
def class_agreement(model, x, images):
    """How often a model sees the same class in `images` as in `x`.

    x  (B, C, H, W); images  (B, n, C, H, W), n for each x. Both in [0, 1]. Returns shares of n, (B,).
    """
    x, _ = check_classifier(model, x)
    flat = check_images(images.flatten(0, 1))
    seen = torch.cat([model(part).argmax(1) for part in flat.split(BLOCK)])
    return double(seen.view(images.shape[:2]) == model(x).argmax(1)[:, None]).mean(1)
