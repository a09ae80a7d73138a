"""What the trainer knows of an objective, and noise for images."""

import torch
from torch import nn

from ..core import rng
from ..models.resnets import GradResNet


class Objective(nn.Module):
    """What the trainer knows of an objective."""

    second_order = False   # whether the loss holds a gradient
    # the head of a GradResNet that the loss does not use: DDP waits for every weight that is to be trained
    unused_head = "density"
    progress = 0.0         # the share of the training's steps that is done, in [0, 1): the trainer keeps it

    def __init__(self, model):
        super().__init__()
        self.model = model
        if isinstance(model, GradResNet) and self.unused_head:
            getattr(model, self.unused_head).requires_grad_(False)

    def output(self, x):
        """What the model returns, in the precision of the images, whatever it computes in."""
        return self.model(x).to(x.dtype)

    @torch.no_grad()
    def test(self, x, y):
        """Numbers to judge a held-out set by, as sums over the images."""
        return {"test_accuracy": (self.output(x).argmax(1) == y).sum()}

    def compile(self):
        """Compile what a step spends its time in."""
        self.output = torch.compile(self.output)

    def prepare(self, images, first, count, whole, seed):
        """Told before training: the data, and which positions of the global batch come to this process."""

    def on_epoch_start(self, progress):
        """Told before each epoch: the share of the training that is done, in [0, 1)."""

    def state(self):
        """What the objective remembers from step to step: a tensor with a row a position of the batch, or None."""

    def load_state(self, state):
        """Take back what `state` gave."""

    def on_divergence(self):
        """Make the next attempt safer after training has diverged; return what was changed, for the log."""
        return {}


def noise_like(x, generator):
    """Standard normal noise for images, one draw each."""
    return rng.normal(rng.seeds(generator, len(x), x.device), x.shape[1:]).to(x.dtype)
