"""Generation from classifiers: Prior-Guided Drift Diffusion (PGDD), its smoothed form for standard nets, an adaptive
one.

Sources: Implicit denoiser structure in robust classifiers explains generative capabilities, sections 3, 5 and C.1: an
image drifts away, in the features of a layer, from a noisy version of where it began.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Literal

import torch

from ..core import ascent, rng
from ..core.images import norm, wide
from ..models.layers import features, require_gradient
from ..utils.arguments import fraction, non_negative, positive, positive_integer, validated
from ..utils.validation import check_classifier
from . import spectrum_edits
from .trajectories import Trace, Trajectories, join_trajectories

DRIFT, DIFFUSION, SMOOTHING = range(3)   # what an image's seed is folded with


class _Drift:
    """The objective of eq. 6 for a batch: L(x) = ||r(x) - sg[r(x0 + e)]||^2, with what is seen on the way."""

    def __init__(self, model, x0, seeds, layer, drift_noise, smoothing_sigma=0.0, smoothing_draws=1,
                 smoothing="gradients", edit=None, batch=50):
        self.net, self.seeds = require_gradient(features(model, layer), x0, layer), rng.fold(seeds, SMOOTHING)
        self.sigma, self.draws, self.kind = smoothing_sigma, smoothing_draws, smoothing
        self.edit, self.batch = edit, batch
        self.noisy = x0 + drift_noise * rng.normal(rng.fold(seeds, DRIFT), x0.shape[1:]).to(x0.dtype)
        with torch.no_grad():
            self.reference = self.net(self.noisy)[0]

    def gradient(self, x, t, rows=slice(None)):
        """PGDD's gradient, (B, C, H, W), sPGDD's or that of an edited Gram operator, at iteration t; L at each image,
        (B,), and the logits."""
        reference = self.reference[rows]
        x = x.detach().requires_grad_(not self.sigma)
        with torch.set_grad_enabled(not self.sigma):
            h, logits = self.net(x)
        loss = _squared(h - reference)
        if self.sigma:
            gradient = self._smoothed(x, reference, self.seeds[rows], t)
        elif self.edit:
            gradient = spectrum_edits.edited_gradient(h, x, self.noisy[rows], reference, self.edit)
        else:
            gradient, = torch.autograd.grad(loss.sum(), x)
        return gradient, loss.detach(), logits.detach()

    def _smoothed(self, x, reference, seeds, t):
        """Mean over draws n of the gradient of L at x + n (section 3.1), or the gradient of L with the mean of r(x + n)
        for r(x)."""
        chunk = max(1, self.batch // len(x))
        draws = [range(i, min(i + chunk, self.draws)) for i in range(0, self.draws, chunk)]

        def copies(draws):
            noise = [rng.normal(seeds, x.shape[1:], stream=t * self.draws + i).to(x.dtype) for i in draws]
            return torch.cat([x + self.sigma * n for n in noise])

        if self.kind == "features":
            with torch.no_grad():
                mean = sum(self.net(copies(part))[0].unflatten(0, (len(part), len(x))).sum(0)
                           for part in draws) / self.draws
        gradient = torch.zeros_like(x)
        for part in draws:
            z = copies(part).requires_grad_()
            with torch.enable_grad():
                h = self.net(z)[0].unflatten(0, (len(part), len(x)))
                slope = 2 * ((mean if self.kind == "features" else h.detach()) - reference)
                gradient += torch.autograd.grad((h * slope).sum(), z)[0].unflatten(0, (len(part), len(x))).sum(0)
        return gradient / self.draws

    @torch.no_grad()
    def ends(self, x):
        """Logits of the last images."""
        return self.net(x)[1]

    @staticmethod
    def norms(gradient, t):
        """Norms (B,) of a gradient; refuses one that is not finite."""
        norms = norm(gradient).flatten()
        if not torch.isfinite(norms).all():
            raise ValueError(f"the gradient is not finite at iteration {t}; take a smaller step, another layer, "
                             "or look for inf in the model")
        return norms


def _squared(h):
    return h.flatten(1).square().sum(1)


@validated(drift_noise=positive, diffusion_noise=non_negative, eps=positive, step_size=positive, steps=positive_integer,
           smoothing_sigma=non_negative, smoothing_draws=positive_integer, batch=positive_integer)
def pgdd(model: Callable, x0: torch.Tensor, *, layer: str | None = None, drift_noise: float, diffusion_noise: float,
         eps: float, step_size: float, steps: int, smoothing_sigma: float = 0.0, smoothing_draws: int = 1,
         smoothing: Literal["gradients", "features"] = "gradients",
         edit: Callable | None = None, record: Iterable = (), callback: Callable | None = None, batch: int = 50,
         generator: torch.Generator | int | torch.Tensor | None = None, progress: bool = False) -> Trajectories:
    """Prior-Guided Drift Diffusion (Algorithm 1): climb ||r(x) - r(x0 + e)||^2, e ~ N(0, drift_noise^2 I) drawn once.

    x0               (B, C, H, W) images in [0, 1] to begin at, such as `gaussian_start` or `perlin_start`.
    layer            r: the name of an inner module, or None for the logits.
    drift_noise, diffusion_noise   standard deviations, in units of [0, 1]: of e, and of the noise added in each step.
    eps              max norm of x - x0; 1 or more binds nothing. Images are clamped to [0, 1], which Algorithm 1, whose
                     pixels are normalised, leaves out.
    step_size        l2 length of a step.
    smoothing_sigma, smoothing_draws   sPGDD (section 3.1): in each step the gradients at that many perturbed copies of
                     x, with noise of that standard deviation, are averaged. The reference stays; the paper's formula
                     leaves open whether x or the reference is perturbed, and smoothing x is what SmoothGrad does, to
                     which it refers. smoothing="features" averages the copies' features before the distance is taken.
    edit             an edit of the Gram operator's spectrum, see `spectrum_edits`.
    record           iterations whose images are kept, 0 for x0.
    callback         called as callback(t, x) after step t of each batch, from 0; a true answer ends that batch.
    batch            images of one forward pass, smoothing draws included; changes no result.
    generator        a torch.Generator, an int, or one seed for each trajectory, (B,).

    Returns Trajectories. Raises ValueError for images outside [0, 1], a layer that does not exist or does not depend
    on the images, and a gradient that is not finite (naming the iteration).
    """
    x0, _ = check_classifier(model, x0)
    record = set(record)
    if edit and smoothing_sigma:
        raise ValueError("an edit of the spectrum and smoothing do not combine; leave out one of them")
    if smoothing_draws > 1 and not smoothing_sigma:
        raise ValueError(f"{smoothing_draws} smoothing draws without noise are all the same; set smoothing_sigma, such "
                         "as 0.1")
    settings = dict(layer=layer, drift_noise=drift_noise, smoothing_sigma=smoothing_sigma,
                    smoothing_draws=smoothing_draws, smoothing=smoothing,
                    edit=edit, batch=batch)

    def run(x0, seeds, bar):
        drift, trace = _Drift(model, x0, seeds, **settings), Trace(x0, steps, record)

        clock = itertools.count()

        def gradient(x):
            t = next(clock)
            gradient, _, logits = drift.gradient(x, t)
            trace.seen(t, logits, norms=drift.norms(gradient, t))
            return gradient

        def after(t, x):
            trace.keep(t + 1, x)
            bar.update(len(x))
            return callback(t, x) if callback else False

        x = ascent.ascend(x0, gradient, step=ascent.normalised(step_size), project=ascent.ball("linf", x0, eps),
                          steps=steps, noise=diffusion_noise, generator=rng.fold(seeds, DIFFUSION), callback=after)
        return trace.whole(x, drift.ends(x), torch.full_like(seeds, next(clock) * smoothing_draws))

    return in_batches(run, x0, generator, max(1, batch // smoothing_draws), steps, record, progress)


@validated(steps=positive_integer, drift_noise=positive, diffusion_noise=non_negative, step_size=positive,
           largest_step=positive, gain=positive, grow=positive, shrink=fraction, tolerance=positive,
           patience=positive_integer, eps=positive, batch=positive_integer)
def adaptive_pgdd(model, x0, *, layer: str | None = None, steps: int = 200, drift_noise: float = 0.2,
                  diffusion_noise: float = 0.01, step_size: float = 0.04, largest_step: float = 0.08,
                  gain: float = 0.05, grow: float = 1.5, shrink: float = 0.5,
                  tolerance: float = 0.02, patience: int = 3, eps: float = 1.0, record=(), batch: int = 50,
                  generator=None, progress: bool = False):
    """PGDD whose step and noise follow each trajectory, with one set of defaults for every net (named as missing in
    section 5).

    A step that raises the loss by more than the share `gain` makes the next one `grow` times as long; any other makes
    it `shrink` times as long. Diffusion noise falls with the step. A trajectory ends once, for `patience` steps, its
    class stays, its confidence moves by at most `tolerance`, and its pixels by at most `tolerance` (root mean square).

    step_size, largest_step, tolerance   root mean squares over pixels, in units of [0, 1]: so they suit every image
                                         size.
    steps            at most that many.

    The other arguments, the result and the errors are those of `pgdd`.
    """
    x0, _ = check_classifier(model, x0)
    record = set(record)
    root = x0[0].numel() ** 0.5   # from root mean square to l2 length

    def run(x0, seeds, bar):
        drift, trace = _Drift(model, x0, seeds, layer, drift_noise, batch=batch), Trace(x0, steps, record)
        noise_seeds, x, active = rng.fold(seeds, DIFFUSION), x0, torch.arange(len(x0), device=x0.device)
        size, last = x0.new_full((len(x0),), step_size), x0.new_zeros(len(x0))
        quiet, evaluations = torch.zeros_like(active), torch.zeros_like(active)   # quiet: steps without a change

        for t in range(steps):
            gradient, loss, logits = drift.gradient(x[active], t, active)
            trace.seen(t, logits, active, norms=drift.norms(gradient, t))
            if t:
                factor = torch.where(loss > (1 + gain) * last[active], grow, shrink).to(size.dtype)
                size[active] = (size[active] * factor).clamp(max=largest_step)
            last[active] = loss
            noise = diffusion_noise * (size[active] / step_size).clamp(max=1)
            draw = rng.normal(noise_seeds[active], x0.shape[1:], stream=t).to(x0.dtype)
            step = ascent.normalised(root * wide(size[active]))(gradient) + wide(noise) * draw
            moved = ascent.ball("linf", x0[active], eps)(x[active] + step)
            still = (norm(moved - x[active]).flatten() / root <= tolerance) & trace.still(t, active, tolerance)
            x = x.index_copy(0, active, moved)
            evaluations[active] += 1
            quiet[active] = torch.where(still, quiet[active] + 1, 0)
            bar.update(len(active))
            trace.keep(t + 1, x)
            active = active[quiet[active] < patience]
            if not len(active):
                break
        bar.update(len(x0) * steps - int(evaluations.sum()))
        return trace.whole(x, drift.ends(x), evaluations)

    return in_batches(run, x0, generator, batch, steps, record, progress)


def in_batches(run, x0, generator, batch, steps, record, progress):
    """run(x0, seeds, bar) -> Trajectories over batches, put together."""
    from tqdm import tqdm

    late = [t for t in record if not 0 <= t <= steps]
    if late:
        raise ValueError(f"iteration {max(late)} cannot be recorded, as there are {steps} steps; record iterations "
                         f"from 0 to {steps}")
    seeds = rng.seeds(generator, len(x0), x0.device)
    with tqdm(total=len(x0) * steps, desc="drifting", unit="step", disable=not progress) as bar, torch.enable_grad():
        return join_trajectories([run(x, s, bar) for x, s in zip(x0.split(batch), seeds.split(batch))])
