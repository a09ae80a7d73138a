"""Classifiers as generative models, in numbers: what the tables of the JEAT paper say of a net, for every net of a dataset."""

from dataclasses import dataclass

import torch
from torch import nn

from . import attacks, checks, data, fisher, generate, langevin, quality, rng, zoo
from .config import Count, Positive, arguments
from .layers import features


class Judge:
    """Another classifier that looks at generated images: Frechet distances, scores and names are taken with its logits.

    model   any net of images in [0, 1], not one of those that are judged; layer, the module whose output are its features.
    real    held-out images (N, C, H, W): the reference of Frechet distances. They are of logits, as the bias of a Frechet
            distance grows with the number of features and falls with that of images, which are few.
    """

    def __init__(self, model, layer, real, *, batch=250):
        checks.frozen(model)
        self.net, self.batch = features(model, layer), batch
        self.reference = self(real)[1]

    @torch.no_grad()
    def __call__(self, x):
        """Features (N, D) and logits (N, K) of images, which are clamped to [0, 1] first."""
        found = [self.net(part.clamp(0, 1)) for part in x.split(self.batch)]
        return tuple(torch.cat(parts).flatten(1) for parts in zip(*found))

    def grade(self, x, y):
        """{"IS", "FD": Frechet distance to the reference, "named": share seen as class y} of images, and (N,) which are named right."""
        logits = self(x)[1]
        right = logits.argmax(1) == y
        return {"IS": quality.inception_score(logits), "FD": quality.frechet_distance(logits, self.reference), "named": right.float().mean().item()}, right


class Tempered(nn.Module):
    """A classifier with its logits divided by T: the same answers, and chains that differ by their step alone."""

    def __init__(self, model, T):
        super().__init__()
        self.model, self.T = model, T

    def forward(self, x):
        return self.model(x) / self.T


@dataclass(frozen=True)
class Sampler:
    """How class-conditional images are drawn from every net alike.

    x0, y, seeds   where the chains begin, (N, C, H, W) in [0, 1], their classes and seeds.
    stride         l2 length, in units of [0, 1], of a step down E(x, y) from a real image, root mean square: each net's step_size is
                   this over `FisherScore.length`. The paper does not say how it set a step for nets of different scales of logits.
                   Both energies have the same step_size, the paper's eta.
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
    """The Fisher scores of a net at real images: a dict of numbers.

    "explained" is the share of noise of standard deviation sigma that grad E(x, y) explains: like the quality of images, and
    unlike JFS, it does not change with the scale of the logits. "length" is that of grad E(x, y), root mean square.
    """
    joint = fisher.joint_fisher_score(model, x, y, draws=draws, generator=generator)
    marginal = fisher.marginal_fisher_score(model, x, draws=draws, generator=generator)
    noisy = fisher.joint_fisher_score(model, x, y, sigma=sigma, draws=draws, generator=generator)
    return {"JFS": joint.mean, "JFS error": joint.standard_error, "JFS trace": joint.trace.mean().item(), "JFS trace error": joint.trace_error,
            "MFS": marginal.mean, "MFS error": marginal.standard_error, "MFS trace": marginal.trace.mean().item(), "MFS trace error": marginal.trace_error,
            "explained": noisy.explained, "length": joint.length}


class Study:
    """A dataset with its held-out images, its judge, the chains' beginnings, and its nets by name.

    settings    a `settings.EnergyData`: the dataset, its judge and its nets.
    images, real     test images that nets are probed at, and further ones: the reference of Frechet distances.
    start_images     training images whose classes' Gaussians the chains begin with.
    per_class        chains of each class; steps, noise: see Sampler.
    seeds       of nets trained in repeats.
    """

    def __init__(self, settings, profile, *, images, real, start_images, per_class, steps, noise, seeds, seed, device):
        self.settings, self.profile, self.seeds, self.device = settings, profile, seeds, device
        held_out = data.load(settings.name, "test", images + real, seed=seed).to(device)
        self.test, self.real = held_out[:images], held_out[images:]
        self.train = data.load(settings.name, "train", start_images, seed=seed).to(device)
        self.classes = self.test.classes
        self.judge = Judge(zoo.load(settings.judge, profile, device=device, **settings.judge_member), settings.judge_layer, self.real.unit)
        y = torch.arange(len(self.classes), device=device).repeat_interleave(per_class)
        chains = rng.seeds(seed, len(y), device)
        x0 = langevin.class_gaussian(self.train)(chains, y).clamp(0, 1)
        self.sampler = Sampler(x0, y, chains, settings.stride, steps, noise)

    def members(self, net):
        """The settings by which each repeat of a net is told from the others, {seed: member}; one alone where it has no repeats."""
        found = zoo.over(net.run, self.profile)
        if "seed" not in found or "seed" in net.member:
            return {net.member.get("seed", 0): net.member}
        return {seed: net.member | {"seed": seed} for seed in found["seed"] if seed in self.seeds}

    def load(self, net, member, epoch=None):
        return zoo.load(net.run, self.profile, epoch=epoch, folded=True, device=self.device, **member)

    def epochs(self, net, member):
        """Epochs after which a net was kept, without the last."""
        settings = zoo.record(net.run, self.profile, **member)["settings"]
        return range(1, settings["epochs"]) if settings["snapshots"] else ()

    def robust(self, model, n, steps, generator):
        """Which of the first n test images withstand PGD at the dataset's radius, booleans: random start, steps of 2.5 eps / steps."""
        eps = self.settings.eps
        return attacks.robust_accuracy(model, self.test.unit[:n], self.test.y[:n], norm="linf", eps=eps, step_size=2.5 * eps / steps, steps=steps,
                                       random_start=True, generator=generator, each=True)
