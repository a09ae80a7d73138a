"""Attacks: images near the given ones that a classifier gets wrong, and what controls for them.

Each takes a batch and returns images of its shape; `batched` runs one over many images, `trajectory` keeps the
logits along its way.
"""

from collections.abc import Callable

import torch

from ..core import ascent, rng
from ..core.energy import joint_energy, log_odds, marginal_energy
from ..core.images import moved, single
from ..models.inference import logits_of
from ..utils.arguments import Norm, non_negative, optional, positive, positive_integer, validated
from ..utils.validation import check_classifier, check_images
from .evaluation import batched


@validated(eps=positive, step_size=positive, steps=positive_integer)
def pgd(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm, eps: float, step_size: float, steps: int,
        random_start: bool = False, loss: Callable = log_odds,
        generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """Projected gradient descent (Madry et al. 2018): climb the loss within a ball around each image.

    x, y        images (B, C, H, W) in [0, 1], labels (B,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    step_size   length of a step in that norm.
    random_start   begin uniformly in the ball, drawn from `generator`.
    loss        climbed: called as loss(logits, y) -> (B,). The default leads along the cross-entropy's gradient.

    Returns images in [0, 1] within `eps` of `x`. Raises ValueError for images, labels or models that do not fit, and
    for a model in train mode.
    """
    x, _ = check_classifier(model, x, y)
    return ascent.ascend_in_ball(x, lambda x: loss(model(x), y), norm=norm, eps=eps, step_size=step_size, steps=steps,
                      random_start=random_start, generator=generator)


def targeted(logits, y):
    """The loss of a targeted attack, for `pgd(..., y=targets, loss=targeted)`: the log-odds in favour of y, (B,)."""
    return -log_odds(logits, y)


def random_targets(y, classes, generator=None):
    """Another class for each label, (B,), uniformly from the `classes` - 1 that are wrong."""
    shift = 1 + (rng.uniform(rng.seeds(generator, len(y), y.device), (), stream=1) * (classes - 1)).long()
    return (y + shift) % classes


@validated(eps=positive)
def random_noise(x, *, norm: Norm, eps: float, generator=None):
    """The control of an attack: images at distance `eps` from `x` in a random direction, clamped to [0, 1].

    "linf": every pixel moves by eps, up or down by a coin's throw. "l2": uniform on the sphere.
    """
    x = check_images(x)
    direction = rng.normal(rng.seeds(generator, len(x), x.device), x.shape[1:]).to(single(x).dtype)
    return moved(x, ascent.STEP[norm](eps)(direction))


@validated(eps=positive)
def fgsm(model, x, y, *, eps: float):
    """Fast gradient sign method (Goodfellow et al. 2015; HE-PGD eq. 1): one step as long as the ball is wide."""
    return pgd(model, x, y, norm="linf", eps=eps, step_size=eps, steps=1)


@validated(eps=positive, step_size=optional(positive), steps=positive_integer)
def energy_attack(model, x, y, *, eps: float, step_size: float | None = None, steps: int = 1,
                  random_start: bool = False, generator=None):
    """The energy attack (JEAT eq. 18): climb the joint energy E(x, y) alone, so only lower the logit of y, in the max
    norm.

    The default is eq. 18 as it stands, x + eps sign(grad E(x, y)), clamped to [0, 1]: one step as long as the ball is
    wide. More steps need a smaller `step_size`. The other arguments and the result are those of `pgd`.
    """
    return pgd(model, x, y, norm="linf", eps=eps, step_size=eps if step_size is None else step_size, steps=steps,
               random_start=random_start, loss=joint_energy, generator=generator)


@validated(eps=positive, step_size=positive, steps=positive_integer, lam=non_negative)
def he_pgd(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm = "linf", eps: float = 8 / 255,
           step_size: float = 1 / 255, steps: int = 40, lam: float = 1.2, random_start: bool = True,
           generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """High-energy PGD (Beadini & Masi 2023): cross the decision boundary without the drop in energy that gives PGD
    away.

    Climbs cross-entropy + lam E(x) (eqs. 10, 11); defaults are the paper's. As the cross-entropy is E(x, y) - E(x),
    that is E(x, y) + (lam - 1) E(x): 0 is plain PGD, at 1 the marginal energy drops out and the attack only lowers
    the logit of y, beyond 1 it lowers all logits.

    The other arguments and the result are those of `pgd`. Raises ValueError for a negative or NaN `lam`.
    """
    def loss(logits, y):
        # The cross-entropy's gradient is w times that of the log-odds. Where the net is sure, w vanishes in float32:
        # so the sum is divided by w + lam, image by image, which changes no direction.
        odds = log_odds(logits, y)
        w = odds.detach().sigmoid()
        share = w / (w + lam) if lam else 1.0
        return share * odds + (1 - share) * marginal_energy(logits)
    return pgd(model, x, y, norm=norm, eps=eps, step_size=step_size, steps=steps, random_start=random_start, loss=loss,
               generator=generator)


@validated(high=positive, tolerance=positive, batch=positive_integer)
def balancing_lam(model, x, y, *, high: float = 2.5, tolerance: float = 0.05, batch: int = 100, generator=None,
                  progress: bool = False, **settings):
    """The lam at which HE-PGD's mean energy is that of the natural images, by bisection on [0, high].

    Returns (lam, gap): the gap is mean E(attacked) - mean E(natural), in standard deviations of E(natural), and at
    most `tolerance` in size. It is larger only at lam = 0, where plain PGD does not lower the energy at all.

    settings   of `he_pgd`. All evaluations begin at the same random starts, so the gap is a function of lam.

    Raises ValueError if even `high` leaves the attacked images lower, or if there are fewer than two images.
    """
    if len(x) < 2:
        raise ValueError(f"balancing needs the spread of at least two images' energies, got {len(x)}. Make the split "
                         "larger.")
    seeds = rng.seeds(generator, len(x), x.device)
    natural = marginal_energy(logits_of(model, x))

    def gap(lam):
        attacked = batched(he_pgd, model, x, y, lam=lam, generator=seeds, batch=batch, progress=progress, **settings)
        return ((marginal_energy(logits_of(model, attacked)).mean() - natural.mean()) / natural.std()).item()

    low, bound = 0.0, high
    found = gap(low)
    if found >= -tolerance:
        return low, found
    while high - low > 1e-3 * bound:
        lam = (low + high) / 2
        found = gap(lam)
        if abs(found) <= tolerance:
            return lam, found
        low, high = (lam, high) if found < 0 else (low, lam)
    if high == bound:
        raise ValueError(f"at lam = {low:.4g} the attacked images' energy is still {-found:.2f} standard deviations "
                         "below the natural ones'; raise 'high'")
    raise ValueError(f"the energy jumps past the natural images' at lam = {high:.4g}; use more images, or raise "
                     "'tolerance'")
