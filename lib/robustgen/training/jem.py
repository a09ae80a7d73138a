"""Objectives that train the joint density p(x, y) of a classifier: JEM, and JEAT's Algorithm 1."""

from typing import Literal

from torch import nn
from torch.nn.functional import cross_entropy

from ..core import ascent, dynamics, rng
from ..core.energy import joint_energy, marginal_energy
from ..models.inference import evaluating
from ..utils.arguments import fraction, non_negative, positive, positive_integer, validated
from .base import Objective, noise_like
from .replay import ReplayBuffer


class JEM(Objective):
    """-log p(y | x) - log p(x): cross-entropy + E(x) - E(x~), x~ ~ p by Langevin chains (Grathwohl et al. 2020).

    sigma        standard deviation of the noise added to real images, in units of [0, 1].
    sgld_steps, sgld_step, sgld_noise   of `dynamics.sgld`.
    buffer       chains kept between steps, at most; reinit, the probability that one begins afresh.
    start        "uniform" or "class_gaussian".

    Chains run in eval mode. Real and sampled images pass apart, in train mode.
    """

    @validated(sigma=non_negative, sgld_steps=positive_integer, sgld_step=positive, sgld_noise=non_negative,
               buffer=positive_integer, reinit=fraction)
    def __init__(self, model: nn.Module, *, sigma: float, sgld_steps: int, sgld_step: float,
                 sgld_noise: float, buffer: int, reinit: float, start: Literal["uniform", "class_gaussian"]):
        super().__init__(model)
        self.sigma, self.buffer, self.reinit, self.start = sigma, buffer, reinit, start
        self.sgld = dict(steps=sgld_steps, step_size=sgld_step, noise=sgld_noise)
        self.chains = None

    def prepare(self, images, first, count, whole, seed):
        if self.buffer < whole:
            raise ValueError(f"'buffer' is {self.buffer}: it should hold a chain for each of the {whole} images of a "
                             "batch")
        self.chains = ReplayBuffer(dynamics.STARTS[self.start](images), first, count, self.buffer // whole, seed,
                                           images.x.device)

    def state(self):
        return self.chains.chains

    def load_state(self, state):
        self.chains.replace(state)

    def on_divergence(self):
        self.sgld["step_size"] /= 2
        return {"sgld_step": self.sgld["step_size"]}

    def sample(self, seeds, dtype):
        """Negatives x~, (B, C, H, W): chains of the buffer, moved on."""
        if self.chains is None:
            raise ValueError("the replay buffer is empty; call prepare(images, 0, batch, batch, seed) first")
        begin, slot = self.chains.draw(rng.fold(seeds, 1), self.reinit)
        with evaluating(self.model):
            reached = dynamics.sgld(begin.to(dtype), lambda x: marginal_energy(self.output(x)), **self.sgld,
                                    generator=rng.fold(seeds, 2))
        self.chains.put(reached, slot)
        return reached

    def forward(self, x, y, generator=None):
        seeds = rng.seeds(generator, len(x), x.device)
        sampled = self.sample(seeds, x.dtype)
        return self._loss(self.real(x, y, seeds), y, sampled)

    def real(self, x, y, seeds):
        """The images whose likelihood is raised."""
        return x + self.sigma * noise_like(x, rng.fold(seeds, 3))

    def _loss(self, x, y, sampled):
        logits = self.output(x)
        energy, energy_sampled = marginal_energy(logits).mean(), marginal_energy(self.output(sampled)).mean()
        loss = cross_entropy(logits, y) + energy - energy_sampled
        return loss, {"accuracy": (logits.argmax(1) == y).float().mean(), "energy": energy.detach(),
                      "energy_sampled": energy_sampled.detach()}


class JEAT(JEM):
    """Joint energy adversarial training (JEAT paper, Algorithm 1): E(x_adv, y) - E(x_adv) + E(x_adv) - E(x~).

    x_adv = x + clamp(u + eps sign(grad_x E(x, y)), -eps, eps), u ~ U(-eps, eps): the gradient is that at x, as the
    algorithm has it; images are then clamped to [0, 1], of which it does not speak. The attack is in eval mode.
    The other settings are those of JEM. (The sign in the paper's eq. 20 is a slip; its Algorithm 1 has it right.)
    """

    @validated(eps=positive, sgld_steps=positive_integer, sgld_step=positive, sgld_noise=non_negative,
               buffer=positive_integer, reinit=fraction)
    def __init__(self, model: nn.Module, *, eps: float, sgld_steps: int, sgld_step: float,
                 sgld_noise: float, buffer: int, reinit: float, start: Literal["uniform", "class_gaussian"]):
        super().__init__(model, sigma=0.0, sgld_steps=sgld_steps, sgld_step=sgld_step, sgld_noise=sgld_noise,
                         buffer=buffer, reinit=reinit, start=start)
        self.eps = eps

    def real(self, x, y, seeds):
        u = self.eps * (2 * rng.uniform(rng.fold(seeds, 3), x.shape[1:]).to(x.dtype) - 1)
        with evaluating(self.model):
            return ascent.ascend(x, ascent.gradient_of(lambda x: joint_energy(self.output(x), y)),
                                 step=lambda gradient: u + self.eps * gradient.sign(),
                                 project=ascent.ball("linf", x, self.eps), steps=1)
