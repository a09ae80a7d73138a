"""A classifier as a generative model, in numbers: what Tables 2 and 3 of the JEAT paper say of a net, a row a net."""

from dataclasses import dataclass

import torch

from . import checks, fisher, generate, quality
from .config import Count, Positive, arguments
from .layers import features


class Judge:
    """An independent classifier that looks at generated images: its features and answers are what FID, IS and names are taken with.

    model   any net of images in [0, 1], not one of those that are judged; layer, the module whose output are the features.
    real    held-out images (N, C, H, W): the reference of Frechet distances.
    """

    def __init__(self, model, layer, real, *, batch=250):
        checks.frozen(model)
        self.net, self.batch = features(model, layer), batch
        self.reference = self(real)[0]

    @torch.no_grad()
    def __call__(self, x):
        """Features (N, D) and logits (N, K) of images, which are clamped to [0, 1] first."""
        found = [self.net(part.clamp(0, 1)) for part in x.split(self.batch)]
        return tuple(torch.cat(parts).flatten(1) for parts in zip(*found))

    def grade(self, x, y):
        """{"IS": Inception Score, "FID": Frechet distance to the reference, "named": (N,) whether the judge sees class y} of images."""
        found, logits = self(x)
        return {"IS": quality.inception_score(logits), "FID": quality.frechet_distance(found, self.reference), "named": logits.argmax(1) == y}


@dataclass(frozen=True)
class Sampler:
    """How class-conditional images are drawn from every net alike.

    x0, y, seeds   where the chains begin, (N, C, H, W) in [0, 1], their classes and seeds.
    stride         l2 length, in units of [0, 1], of a step from a real image, root mean square: each net's step_size is this over
                   `FisherScore.length`. The paper does not say how it set a step for nets of different scales of logits.
    steps, noise   of `generate.langevin`.
    """

    x0: torch.Tensor
    y: torch.Tensor
    seeds: torch.Tensor
    stride: float
    steps: int
    noise: float

    def __call__(self, model, length, energy="joint"):
        """Images (N, C, H, W), clamped to [0, 1]. `length`: of the net's gradients of E(x, y) at real images."""
        return generate.langevin(model, self.x0, self.y, energy=energy, steps=self.steps, step_size=self.stride / length, noise=self.noise,
                                 generator=self.seeds).clamp(0, 1)


@arguments
def scores(model, x, y, *, draws: Count, sigma: Positive, generator=None):
    """The Fisher scores of a net at real images: ({"JFS", "MFS", ...: number}, {"joint", "marginal", "noisy": FisherScore}).

    "explained" is the share of noise of standard deviation sigma that grad E(x, y) explains: like FID, and unlike JFS, it does
    not change with the scale of the logits.
    """
    joint = fisher.joint_fisher_score(model, x, y, draws=draws, generator=generator)
    marginal = fisher.marginal_fisher_score(model, x, draws=draws, generator=generator)
    noisy = fisher.joint_fisher_score(model, x, y, sigma=sigma, draws=draws, generator=generator)
    return ({"JFS": joint.mean, "JFS error": joint.standard_error, "MFS": marginal.mean, "MFS error": marginal.standard_error,
             "trace": joint.trace.mean().item(), "trace error": joint.trace_error,
             "marginal trace": marginal.trace.mean().item(), "marginal trace error": marginal.trace_error, "explained": noisy.explained},
            {"joint": joint, "marginal": marginal, "noisy": noisy})
