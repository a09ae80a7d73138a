"""Excess risk of generative and discriminative classifiers of one family (classification-denoising paper, section 2.1,
appendix D).

A family is a function (theta (m,), x (n, d)) -> log p_theta(x, c) for all classes, (n, C). Its constants b and v come
from the formulas by automatic differentiation; what they predict is measured on classes whose truth is known.
"""

import math
from dataclasses import dataclass

import torch
from torch.func import grad, hessian, vmap
from torch.nn.functional import log_softmax, one_hot

from ..core import rng

NEWTON = 50   # steps at most; a step that does not lower the loss is halved


def generative(family):
    """The loss -log p_theta(x, c) (eq. 21, left): (theta, x) -> (n, C)."""
    return lambda theta, x: -family(theta, x)


def discriminative(family):
    """The loss -log p_theta(c | x) (eq. 22): (theta, x) -> (n, C)."""
    return lambda theta, x: -log_softmax(family(theta, x), 1)


def minimise(loss, x, p, start):
    """theta of least mean loss (eq. 15), by Newton's method on many data sets at once: (R, m).

    x   (R, n, d); p  (R, n, C) weights of the classes: one-hot labels, or p(c | x) where expectations are meant.
    start   (m,).

    Raises ValueError where no minimum is found, as when the classes can be separated.
    """
    def mean(theta, x, p):
        return (p * loss(theta, x)).sum(1).mean()

    theta = start.expand(len(x), -1).clone()
    value = vmap(mean)(theta, x, p)
    for _ in range(NEWTON):
        slope, curvature = vmap(grad(mean))(theta, x, p), vmap(hessian(mean))(theta, x, p)
        move = torch.linalg.solve_ex(curvature, slope)[0]
        size = torch.ones_like(value)
        for _ in range(20):
            new = theta - size[:, None] * move
            reached = vmap(mean)(new, x, p)
            worse = ~(reached <= value + 1e-12)
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        theta, value = torch.where(worse[:, None], theta, new), torch.where(worse, value, reached)
        if (slope.norm(dim=1) < 1e-9).all():
            break
    # the loss of separated classes falls for ever, and flattens out
    flat = torch.linalg.eigvalsh(vmap(hessian(mean))(theta, x, p))[:, 0] < 1e-5
    if flat.any() or not (vmap(grad(mean))(theta, x, p).norm(dim=1) < 1e-6).all():
        raise ValueError("no minimum was found: the classes of a data set can be separated. Use larger data sets or "
                         "classes that overlap more.")
    return theta


@dataclass(frozen=True)
class Constants:
    """Bias b in nats and variance v of a fit: E[excess risk] = b + v / 2n + o(1/n) (eq. 4); theta is what it tends to.

    b is a divergence, so never negative. v may be: theta of a misspecified generative fit is no minimum of the risk.
    """

    b: float
    v: float
    theta: torch.Tensor

    def predicted(self, n):
        return self.b + self.v / (2 * n)


def constants(family, loss, x, p, start):
    """b and v by eqs. 20 and 25-27, for `loss` of the family; expectations are means over x (N, d) with true p(c | x)
    (N, C)."""
    theta = minimise(loss, x[None], p[None], start)[0]

    def expected(value):
        return lambda theta: (p * value(theta, x)).sum(1).mean()

    slopes = vmap(torch.func.jacrev(lambda theta, x: loss(theta, x[None])[0]), (None, 0))(theta, x)   # (N, C, m)
    covariance = torch.einsum("nc,nci,ncj->ij", p, slopes, slopes) / len(x)   # their mean is zero at theta
    inverse = torch.linalg.inv(hessian(expected(loss))(theta))
    curvature = hessian(expected(discriminative(family)))(theta)
    v = torch.trace(inverse @ covariance @ inverse @ curvature)
    return Constants(float(excess(family, theta[None], x, p)), float(v), theta)


def excess(family, theta, x, p):
    """E KL(p(c | x) || p_theta(c | x)) (eq. 3), in nats, for each theta (R, m): (R,)."""
    def one(theta):
        return torch.special.xlogy(p, p).sum(1).mean() - (p * log_softmax(family(theta, x), 1)).sum(1).mean()
    return vmap(one, chunk_size=64)(theta).clamp(min=0)   # a divergence is not negative; its rounding may be


def learning_curve(family, loss, sample, sizes, repetitions, x, p, start, *, generator=None, progress=False):
    """Measured excess risk of fits to `repetitions` data sets of each size: (len(sizes), repetitions).

    sample   (seeds (R,), n) -> x (R, n, d), labels (R, n). x, p  a test sample and its true p(c | x).
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, repetitions)
    curve = []
    for n in tqdm(sizes, desc="learning curve", unit="size", disable=not progress):
        data, y = sample(rng.fold(seeds, n), n)
        curve.append(excess(family, minimise(loss, data, one_hot(y, p.shape[1]).to(data.dtype), start), x, p))
    return torch.stack(curve)


# Two Gaussian classes with opposite means

def opposite_means(theta, x):
    """The family p_theta(x, c) = N(x; s_c theta, I) / 2 with s = -1, 1: as a classifier, logistic regression with
    weights 2 theta."""
    along = x @ theta   # -1/2 ||x - s theta||^2 = s x'theta - (||x||^2 + ||theta||^2) / 2
    squares = x.square().sum(1) + theta.square().sum() + x.shape[1] * math.log(2 * math.pi)
    return torch.stack([-along, along], 1) - 0.5 * squares[:, None] - math.log(2)


@dataclass(frozen=True)
class GaussianClasses:
    """The truth: two equally likely classes N(s_c mean, diag(scales_c^2)), s = -1, 1; mean (d,), scales (2, d),
    float64.

    `opposite_means` is well specified where all scales are 1. Where they differ between the classes no theta is right,
    neither as a joint model nor as a classifier.
    """

    mean: torch.Tensor
    scales: torch.Tensor

    def sample(self, seeds, n):
        """Data sets x (R, n, d) and labels (R, n), one a seed."""
        y = (rng.uniform(seeds, (n,)) < 0.5).long()
        noise = rng.normal(seeds, (n, len(self.mean)), stream=1).double()
        return (2 * y - 1)[..., None] * self.mean + self.scales[y] * noise, y

    def posterior(self, x):
        """p(c | x), (N, 2), of x (N, d)."""
        standard = (x[:, None] - torch.stack([-self.mean, self.mean])) / self.scales
        return (-0.5 * standard.square().sum(2) - self.scales.log().sum(1)).softmax(1)
