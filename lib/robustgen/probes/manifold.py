"""On- and off-manifold robustness (off-manifold paper, sections 3.1 and 4.1).

A tangent space is a batch of orthonormal bases, (B, k, C, H, W), one an image. Where a space has fewer than k
dimensions its last directions are zero. It comes from a decoder (`tangent_basis`) or from exact tangents
(`orthonormal`).
"""

import warnings
from collections.abc import Callable

import torch

from ..core import rng
from ..core.images import double, psnr
from ..utils.arguments import fraction, list_of, positive, positive_integer, validated
from ..utils.validation import check_classifier, check_images


@validated(rtol=fraction, batch=positive_integer)
@torch.no_grad()
def tangent_basis(decoder: Callable, z: torch.Tensor, *, rtol: float = 1e-3, batch: int = 16) -> torch.Tensor:
    """Basis of the tangent space of a decoder's images at latents z (B, k): (B, k, C, H, W).

    The Jacobian's k columns come by forward mode, all in one pass beside the images themselves; reverse mode would take
    a pass for each pixel.
    Further arguments, warnings and errors are those of `orthonormal`.
    """
    def columns(z):   # (B, k, C, H, W)
        along = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        return torch.func.vmap(lambda v: torch.func.jvp(decoder, (z,), (v.expand_as(z),))[1])(along).movedim(0, 1)
    return orthonormal(torch.cat([columns(part) for part in z.split(batch)]), rtol=rtol)


@validated(rtol=fraction)
@torch.no_grad()
def orthonormal(tangents, *, rtol: float = 1e-3):
    """Orthonormal basis of the span of tangents (B, k, C, H, W), largest directions first: the same shape.

    rtol   directions whose singular value is below this share of the image's largest are left out, and zero in the
           basis.

    Warns, with the number of images, where that happens. Raises ValueError where no direction is left.
    """
    if tangents.shape[1] > tangents[0, 0].numel():
        raise ValueError(f"{tangents.shape[1]} tangents cannot be independent in {tangents[0, 0].numel()} pixels; give "
                         "fewer")
    finite = tangents.isfinite().flatten(1).all(1).view(-1, 1, 1, 1, 1)
    q, r = torch.linalg.qr(tangents.where(finite, 0).flatten(2).mT)   # (B, P, k), (B, k, k)
    u, values, _ = torch.linalg.svd(r)
    held = values > rtol * values[:, :1]
    if not held.any(1).all():
        raise ValueError(f"{int((~held.any(1)).sum())} of {len(held)} tangent spaces have no direction: the images do "
                         "not depend on z there, or are not finite")
    if not held.all():
        ranks = held.sum(1)
        warnings.warn(f"{int((ranks < held.shape[1]).sum())} of {len(held)} tangent spaces have fewer than "
                      f"{held.shape[1]} dimensions, at least "
                      f"{int(ranks.min())}; their bases are that much smaller", stacklevel=2)
    return ((q @ u) * held[:, None]).mT.reshape(tangents.shape)


@validated(lowest=positive)
@torch.no_grad()
def encoded_basis(autoencoder, x, *, lowest: float = 15.0, **settings):
    """Tangent spaces at an autoencoder's latents of images x (B, C, H, W), and how well it reaches them: a basis, and
    PSNR in dB (B,).

    lowest     reconstructions below this PSNR are warned of, with their number: there the tangent space is of another
               image.
    settings   of `tangent_basis`.
    """
    x = check_images(x)
    z = autoencoder.encode(x)
    reach = psnr(x, autoencoder.decode(z))
    if (reach < lowest).any():
        warnings.warn(f"{int((reach < lowest).sum())} of {len(x)} images are outside the autoencoder's reach, at worst "
                      f"{float(reach.min()):.1f} dB "
                      f"of {lowest:g}; their tangent spaces mean little", stacklevel=2)
    return tangent_basis(autoencoder.decode, z, **settings), reach


def basis_rank(basis):
    """Dimension of each tangent space, (B,)."""
    return basis.flatten(2).any(2).sum(1)


def split_tangent(v, basis):
    """Parts of directions v (B, C, H, W) along the tangent space and orthogonal to it, P v and v - P v: both as v."""
    q = basis.flatten(2)
    on = (q.mT @ (q @ v.flatten(1)[..., None]))[..., 0].view_as(v)
    return on, v - on


def principal_angles(a, b):
    """Angles between two batches of tangent spaces, in degrees, smallest first: (B, k) of the smaller k; NaN beyond the
    smaller rank."""
    cosines = torch.linalg.svdvals(double(a.flatten(2)) @ double(b.flatten(2)).mT)
    ranks = torch.minimum(basis_rank(a), basis_rank(b))[:, None].to(cosines.device)
    held = torch.arange(cosines.shape[1], device=cosines.device) < ranks
    return torch.rad2deg(torch.acos(cosines.clamp(max=1))).where(held, torch.nan)


@validated(draws=positive_integer)
@torch.no_grad()
def directions(basis, *, draws: int = 1, generator=None):
    """Random unit directions on and off the manifold, both (B, draws, C, H, W): the two parts of one Gaussian draw,
    each of l2 norm 1."""
    seeds = rng.seeds(generator, len(basis), basis.device)
    noise = rng.normal(seeds, (draws, *basis.shape[2:])).to(basis.dtype)
    q = basis.flatten(2)
    on = (noise.flatten(2) @ q.mT @ q).view_as(noise)
    return tuple(part / part.flatten(2).norm(dim=2).clamp_min(1e-30).view(*part.shape[:2], 1, 1, 1)
                 for part in (on, noise - on))


@validated(radii=list_of(positive), draws=positive_integer, batch=positive_integer)
@torch.no_grad()
def sensitivity(model, x, basis, *, radii: list, draws: int = 1, generator=None, batch: int = 500,
                progress: bool = False):
    """How far a perturbation on and off the manifold moves the class probabilities (Figures 3 and 9): two (B,
    len(radii)).

    The mean over `draws` of ||f(x + r u) - f(x)||_2, f after its softmax, u as in `directions`. Perturbed images are
    not clamped.
    """
    from tqdm import tqdm

    x, _ = check_classifier(model, x)
    _belongs(basis, x)
    moves = torch.stack(directions(basis, draws=draws, generator=generator), 1)   # (B, 2, draws, C, H, W)
    radii = torch.tensor(radii, dtype=x.dtype, device=x.device)
    found = []
    for part in tqdm(torch.arange(len(x), device=x.device).split(max(1, batch // (2 * draws * len(radii)))),
                     desc="sensitivity", unit="batch", disable=not progress):
        # (b, 2, radii, draws, C, H, W)
        noisy = x[part, None, None, None] + radii.view(-1, 1, 1, 1, 1) * moves[part, :, None]
        change = (model(noisy.flatten(0, 3)).softmax(1).unflatten(0, noisy.shape[:4])
                  - model(x[part]).softmax(1)[:, None, None, None])
        found.append(change.norm(dim=-1).mean(3))
    on, off = torch.cat(found).unbind(1)
    return on, off


@validated(sigma=positive, draws=positive_integer, batch=positive_integer)
@torch.no_grad()
def masked_sensitivity(model, x, mask, *, sigma: float, draws: int = 8, generator=None, batch: int = 500):
    """Mean of ||f(x + sigma m e) - f(x)||_2 over draws of e ~ N(0, I), f after its softmax, m a mask that broadcasts
    with x: (B,) (section 4.3).

    Of a mask of the signal and one of the distractor, the ratio of the two is the relative noise robustness (Figure 5).
    """
    x, _ = check_classifier(model, x)
    try:
        mask = mask.expand_as(x)
    except RuntimeError:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not fit images of shape {tuple(x.shape)}; give it "
                         "as (B or 1, C or 1, H, W)") from None
    seeds = rng.seeds(generator, len(x), x.device)
    found = []
    for part in torch.arange(len(x), device=x.device).split(max(1, batch // draws)):
        noise = rng.normal(seeds[part], (draws, *x.shape[1:])).to(x.dtype)
        noisy = x[part, None] + sigma * mask[part, None] * noise
        change = model(noisy.flatten(0, 1)).softmax(1).unflatten(0,
                                                                 noisy.shape[:2]) - model(x[part]).softmax(1)[:, None]
        found.append(change.norm(dim=2).mean(1))
    return torch.cat(found)


@validated(sigma=positive, draws=positive_integer, batch=positive_integer)
@torch.no_grad()
def rho_off(f, x, basis, *, sigma: float, draws: int = 256, generator=None, batch: int = 500):
    """Relative off-manifold robustness rho_1 (Definition 1): E (f(x + u_off) - f(x))^2 / E (f(x + u) - f(x))^2, (B,).

    f   (B, C, H, W) -> (B,), such as one logit; u ~ N(0, sigma^2 I) in units of [0, 1], u_off its part off the
        manifold.

    Both means are over the same draws of u_off, and the latter over both signs of its part on the manifold, so that
    their product cancels. NaN where f does not move. float32 rounds differences of small sigma: use float64.
    """
    _belongs(basis, x)
    seeds = rng.seeds(generator, len(x), x.device)
    found = []
    for i, part in enumerate(x.split(1)):
        on, off = split_tangent(sigma * rng.normal(seeds[i:i + 1], (draws, *x.shape[1:]))[0].to(x.dtype),
                                basis[i:i + 1].expand(draws, *basis.shape[1:]))
        rest = f(part)
        top, *bottom = (torch.cat([f(part + v) - rest for v in noise.split(batch)]).square().mean()
                        for noise in (off, off + on, off - on))
        found.append(torch.where(sum(bottom) > 0, 2 * top / sum(bottom), torch.nan))
    return torch.stack(found)


def rho_on(gradient, basis):
    """On-manifold gradient alignment rho_2 (Definition 2): ||g - P g||^2 / ||g||^2, (B,) in [0, 1]; NaN where the
    gradient is zero."""
    _belongs(basis, gradient)
    # its square does not vanish in float32
    g = gradient / gradient.flatten(1).abs().amax(1).clamp_min(1e-30).view(-1, 1, 1, 1)
    off = split_tangent(g, basis)[1]
    return off.flatten(1).square().sum(1) / g.flatten(1).square().sum(1)


def _belongs(basis, x):
    if len(basis) != len(x) or basis.shape[2:] != x.shape[1:]:
        raise ValueError(f"the basis is of {len(basis)} images of shape {tuple(basis.shape[2:])}, and there are "
                         f"{len(x)} of {tuple(x.shape[1:])}; "
                         "take that of these images")


REGIMES = ("weak", "Bayes-aligned", "excessive")


def regimes(on, off):
    """The regime of each net of a family, in order of its strength: a list of REGIMES (section 5, made a rule).

    on, off   sensitivities (n,) of the nets, from the weakest.

    excessive       past the family's largest on-manifold sensitivity, and below half of it
    weak            else, if the net is at least as sensitive off the manifold as on it
    Bayes-aligned   else
    """
    peak = max(range(len(on)), key=on.__getitem__)
    return [REGIMES[2] if i > peak and a < on[peak] / 2 else REGIMES[0] if b >= a else REGIMES[1]
            for i, (a, b) in enumerate(zip(on, off))]
