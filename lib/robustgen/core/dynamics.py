"""Langevin dynamics on a classifier's energies: the sampler, and where its chains start."""

import torch

from . import ascent, rng


def sgld(x, energy, *, steps, step_size, noise, generator=None):
    """Stochastic gradient Langevin dynamics: x <- x - step_size grad E(x) + noise N(0, I), `steps` times.

    x           (B, C, H, W), where the chains start.
    energy      images -> (B,) energies; an image's must not depend on its neighbours.
    step_size, noise   alpha / 2 and sqrt(alpha) in JEAT's Algorithm 1 and eq. 9. JEM and its heirs set them apart:
                1 and 0.01 for images in [-1, 1], which is 0.25 and 0.005 in our units of [0, 1].

    Chains are not kept in [0, 1].
    """
    return ascent.ascend(x, ascent.gradient_of(lambda x: -energy(x)), step=ascent.scaled(step_size),
                         project=lambda x: x, steps=steps, noise=noise, generator=generator)


def uniform_start(images):
    """A sampler (seeds (n,)) -> (n, C, H, W) of images whose pixels are uniform in [0, 1] (JEM)."""
    shape = images.x.shape[1:]
    return lambda seeds: rng.uniform(seeds, shape)


def class_gaussian_start(images):
    """A sampler (seeds (n,), labels (n,)) -> (n, C, H, W) of N(mean, covariance) of a class of `images` (JEM++; JEAT,
    eq. 4).

    Without labels each chain draws its class, all equally likely. A draw is mean + sum_i g_i (x_i - mean) / sqrt(n - 1)
    over the class's images with standard normal g: it has their very covariance, of which no matrix is built, and
    leaves [0, 1].

    Raises ValueError for a class with fewer than two images.
    """
    members = [images.x[images.y == label] for label in range(len(images.classes))]
    for name, own in zip(images.classes, members):
        if len(own) < 2:
            raise ValueError(f"class {name!r} has {len(own)} training images, and its mean and covariance need 2; take "
                             "more images, or start 'uniform'")

    def sample(seeds, labels=None):
        if labels is None:
            labels = (rng.uniform(seeds, (), stream=1) * len(members)).long()
        elif labels.shape != seeds.shape or not ((labels >= 0) & (labels < len(members))).all():
            raise ValueError(f"labels must be one of the {len(members)} classes for each of {len(seeds)} chains, from "
                             f"0; got {tuple(labels.shape)}")
        out = torch.empty(len(seeds), *images.x.shape[1:], device=images.x.device)
        for number, own in enumerate(members):
            chosen = (labels == number).nonzero()[:, 0]
            if len(chosen):
                flat = own.flatten(1).float() / 255
                g = rng.normal(seeds[chosen], (len(own),), stream=2)
                mean = flat.mean(0)
                deviation = (g @ flat - g.sum(1, keepdim=True) * mean) / (len(own) - 1) ** 0.5
                out[chosen] = (mean + deviation).view(-1, *out.shape[1:])
        return out
    return sample


STARTS = {"uniform": uniform_start, "class_gaussian": class_gaussian_start}
