"""Densities, scores and denoisers of a joint model log p(y, c) of noisy images and classes (classification-denoising
paper, section 2.2).

sigma is in 0-255 units, a number or one an image, (B,). Images are in [0, 1] plus noise, scores in units of [0, 1].
A joint model is a GradResNet; `denoise` and `score` without a class take any net with `denoise(y, sigma)`, with one
also a conditional net: `denoise(y, sigma, c)` and its number of `classes` (edm).
"""

from collections.abc import Callable

import torch
from torch.nn.functional import log_softmax

from ..core import rng
from ..core.energy import log_odds
from ..core.images import psnr
from ..utils.arguments import positive, positive_integer, validated
from ..utils.validation import check_eval_mode, check_images, check_labels, check_noisy_images, taking
from . import jacobian

# noisy pixels leave [0, 1] by so many standard deviations at most, and by so much where denoised before
REACH, MARGIN = 8, 0.1


def log_density(model, y, c=None):
    """log p(y) up to a constant (eq. 11), or log p(y, c) with classes c (B,) (eq. 12), which is log p(y | c) up to
    another: (B,)."""
    _joint(model)
    check_noisy_images(y, REACH + MARGIN)   # any noise up to sigma 255
    _classes(model, y, c)
    with _graph(y), taking(y):
        return log_density_unchecked(model, y, c)


def log_density_unchecked(model, y, c=None):
    """`log_density` without its checks: for loops."""
    features = model.features(y)
    value = -0.5 * model.density(features)[:, 0] ** 2
    return value if c is None else value + log_softmax(model.classify(features), 1).gather(1, c[:, None])[:, 0]


def denoise(model: Callable, y: torch.Tensor, sigma: float | torch.Tensor,
            c: torch.Tensor | None = None) -> torch.Tensor:
    """The denoiser D_u(y), or with classes c (B,) D_c(y, c), D = y + sigma^2 grad log p (eq. 7): (B, C, H, W).

    It can be differentiated with respect to y.

    Raises ValueError for images in 0-255 units, a sigma that is not positive, a net that cannot denoise, a size that it
    does not take.
    """
    sigma = check_noise_levels(model, y, sigma)
    if c is not None:
        if _told(model):
            check_labels(c, len(y), model.classes, y.device)
        else:
            _joint(model)
            _classes(model, y, c)
    with _graph(y), taking(y):
        return denoise_unchecked(model, y, sigma, c)


def denoise_unchecked(model, y, sigma, c=None):
    """`denoise` of noise levels (B,) in the images' type, without its checks: for loops."""
    if c is None:
        return model.denoise(y, sigma).to(y.dtype)
    if _told(model):
        return model.denoise(y, sigma, c).to(y.dtype)
    score = torch.func.grad(lambda y: log_density_unchecked(model, y, c).sum())(y)
    return y + (sigma / 255).view(-1, 1, 1, 1) ** 2 * score


def score(model: Callable, y: torch.Tensor, sigma: float | torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
    """grad log p(y), or grad log p(y | c): (D(y) - y) / sigma^2 (eq. 6), (B, C, H, W). Arguments and errors are those
    of `denoise`.

    A GradResNet's score does not depend on sigma.
    """
    return (denoise(model, y, sigma, c) - y) / (check_noise_levels(model, y, sigma) / 255).view(-1, 1, 1, 1) ** 2


@validated(sigma=positive, draws=positive_integer)
def smoothed_score(model, x, sigma: float, c=None, *, draws: int = 16, generator=None):
    """The score at noise level sigma of images without noise, for a net that is not told sigma: mean of (D(x + sigma e)
    - x) / sigma^2 over draws of e.

    x   (B, C, H, W) in [0, 1]. At x itself a blind net sees hardly any noise, and gives the score of that; a net that
        is told sigma needs no draws: `score(model, x, sigma)`. Other arguments and errors are those of `denoise`.
    """
    x = check_images(x)
    seeds = rng.seeds(generator, len(x), x.device)
    total = sum(denoise(model, noisy_images(x, sigma=sigma, generator=rng.fold(seeds, draw)), sigma, c) - x
                for draw in range(draws))
    return total / draws / (sigma / 255) ** 2


def class_score(model, y, c):
    """The adversarial gradient grad log p(c | y) of any classifier (eq. 9, left), classes c (B,): (B, C, H, W)."""
    check_noisy_images(y, REACH + MARGIN)
    _classes(model, y, c)
    return torch.func.grad(lambda y: log_softmax(model(y), 1).gather(1, c[:, None]).sum())(y.detach()).detach()


def implied_sigma(score):
    """The noise level at which a score would be that of pure noise: sqrt(d) / ||score||, in 0-255 units, (B,) from (B,
    C, H, W).

    What a blind denoiser takes the noise to be (Kadkhodaie & Simoncelli 2021): ||D(y) - y||^2 = d sigma^2 gives it.
    """
    return 255 * score[0].numel() ** 0.5 / score.flatten(1).norm(dim=1).clamp_min(1e-12)


@validated(sigma=positive, batch=positive_integer)
def denoising_psnr(model, x, *, sigma: float, c=None, generator=None, batch: int = 100, progress: bool = False):
    """PSNR of D(x + sigma e) for each image of x (N, C, H, W), in dB: (N,). An image's noise does not depend on
    `batch`.

    c   classes (N,): that of the class-conditional denoiser.
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, len(x), x.device)
    parts = []
    with torch.no_grad():
        for part in tqdm(torch.arange(len(x), device=x.device).split(batch), desc=f"denoising, sigma {sigma:g}",
                         unit="batch", disable=not progress):
            y = noisy_images(x[part], sigma=sigma, generator=seeds[part])
            parts.append(psnr(x[part], denoise(model, y, sigma, None if c is None else c[part])))
    return torch.cat(parts)


def log_odds_score(model, y, c):
    """Gradient of the log-odds log p(c | y) / (1 - p(c | y)) of any classifier, (B, C, H, W): it does not vanish where
    the net is sure."""
    check_noisy_images(y, REACH + MARGIN)
    _classes(model, y, c)
    return torch.func.grad(lambda y: -log_odds(model(y), c).sum())(y.detach()).detach()


@validated(sigma=positive)
def noisy_images(x, *, sigma: float, generator=None):
    """Noisy images y = x + sigma e, e ~ N(0, I) (eq. 5). Nothing is clamped."""
    x = check_images(x)
    return x + sigma / 255 * rng.normal(rng.seeds(generator, len(x), x.device), x.shape[1:]).to(x.dtype)


@torch.no_grad()   # no graph to the weights; derivatives by images are taken by torch.func
def denoiser_matvec(model, y, sigma, v, *, transposed=False):
    """J(y) v of the unconditional denoiser, or J(y)' v, without a matrix (eq. 14): v and the result (B, C, H, W).

    Only reverse mode is used: J'v is a backward pass, and J v the derivative of the linear map u -> J'u. Where D is a
    gradient the two are equal.
    """
    sigma = check_noise_levels(model, y, sigma)
    _, pull = torch.func.vjp(lambda y: denoise_unchecked(model, y, sigma), y)
    if transposed:
        return pull(v)[0]
    return torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(v))[1](v)[0]


@validated(largest=positive_integer, smallest=positive_integer, steps=positive_integer)
@torch.no_grad()
def denoiser_eigenvectors(model, y, sigma, *, largest: int = 3, smallest: int = 2, steps: int = 150,
                          generator=None, progress: bool = False):
    """Directions that a gradient denoiser amplifies most and least: those of its symmetric Jacobian J(y), without a
    matrix (Figure 3).

    largest    so many eigenvectors, from the largest |eigenvalue|; they converge within few steps.
    smallest   so many orthogonal directions v, from the one of least ||J v||. In the middle of a dense spectrum no
               single eigenvector can be reached so, but directions that J nearly annihilates can.
    steps      products J v, from a start drawn from `generator`; at most the number of pixels.

    Raises ValueError for a denoiser that is no gradient, such as DnCNN: its Jacobian has no symmetry to rely on.

    Returns values v'J v (B, largest + smallest), gains ||J v|| of the same shape, and the unit vectors v (B, ., C, H,
    W).
    """
    _joint(model)
    sigma = check_noise_levels(model, y, sigma)
    steps = min(steps, y[0].numel())
    if largest + smallest > steps:
        raise ValueError(f"{steps} steps cannot give {largest + smallest} directions; raise 'steps' or ask for fewer")
    # one forward pass for all products: J' = J
    _, pull = torch.func.vjp(lambda y: denoise_unchecked(model, y, sigma), y)
    start = rng.normal(rng.seeds(generator, len(y), y.device), y.shape[1:]).to(y.dtype)
    basis, t = jacobian.krylov(lambda v: pull(v)[0], start, steps, progress=progress)
    values, ritz = torch.linalg.eigh(t[:, :-1])
    order = values.abs().argsort(1, descending=True)[:, :largest]
    least = torch.linalg.svd(t, full_matrices=False).Vh[:, -smallest:].flip(1)   # ||J Q'w|| = ||T w||
    # (B, ., steps), in the basis
    chosen = torch.cat([ritz.gather(2, order[:, None].expand(-1, steps, -1)).mT, least], 1)
    image = chosen @ t.mT                                                                     # T w
    return (chosen * image[..., :-1]).sum(2), image.norm(dim=2), (chosen @ basis).to(y.dtype).unflatten(2, y.shape[1:])


def check_noise_levels(model, y, sigma):
    """Refuse a model, noisy images and noise levels that do not fit together; return sigma as a tensor (B,)."""
    check_denoiser(model)
    try:
        sigma = torch.as_tensor(sigma)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sigma must be a number or a tensor, in 0-255 units such as 25; got {sigma!r}.") from None
    if not (sigma > 0).all() or not torch.isfinite(sigma).all():
        raise ValueError(f"sigma must be positive, in 0-255 units such as 25; got {sigma.min():.4g}.")
    check_noisy_images(y, REACH * float(sigma.max()) / 255 + MARGIN)
    if sigma.ndim and sigma.shape != (len(y),):
        raise ValueError(f"sigma must be a number or one for each of {len(y)} images, got shape {tuple(sigma.shape)}.")
    return sigma.to(y).expand(len(y))


def check_denoiser(model):
    """Refuse a model without a denoising head."""
    if not hasattr(model, "denoise"):
        raise ValueError(f"the model, a {type(model).__name__}, has no denoising head; choose one of gradresnet, "
                         "dncnn, drunet")
    check_eval_mode(model)


def _graph(y):
    """A graph for noisy images that ask for one, and for nothing else."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and y.requires_grad)


def _classes(model, y, c):
    """Refuse classes that are not one for each image, and a model in train mode."""
    check_eval_mode(model)
    if c is not None:
        with torch.no_grad(), taking(y):
            classes = model(y[:1]).shape[1]
        check_labels(c, len(y), classes, y.device)


def _told(model):
    """Whether a denoiser can be told the class."""
    return getattr(model, "classes", 0) > 0


def _joint(model):
    if not (hasattr(model, "features") and hasattr(model, "density")):
        raise ValueError(f"the model, a {type(model).__name__}, has no density log p(y, c); choose a gradresnet, or to "
                         "denoise a conditional edm")
