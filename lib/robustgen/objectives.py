"""Training objectives: modules that hold a model and turn a batch into a loss.

`forward(x, y, generator)` returns the mean loss of the batch and a dict of per-batch numbers to log, always
with `accuracy`, the share of the images trained on that the model gets right. `generator` (a
torch.Generator, or one seed an image) feeds every random draw.
"""

from torch import nn
from torch.nn.functional import cross_entropy

from .attacks import Norm, climb
from .config import Count, Positive, arguments, checked, known


class CrossEntropy(nn.Module):
    """Mean of -log p(y | x)."""

    @arguments
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x, y, generator=None):
        logits = self.model(x)
        return cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}


class AdversarialCE(CrossEntropy):
    """Mean of max over ||d|| <= eps of -log p(y | x + d), the inner maximum by PGD (Madry et al. 2018).

    The model stays in its mode during the attack. Only the outer loss reaches the weights' gradients.
    """

    @arguments
    def __init__(self, model: nn.Module, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count, random_start: bool):
        super().__init__(model)
        self.attack = dict(norm=norm, eps=eps, step_size=step_size, steps=steps, random_start=random_start)

    def forward(self, x, y, generator=None):
        return super().forward(climb(self.model, x, y, generator=generator, **self.attack), y)


OBJECTIVES = {"CrossEntropy": CrossEntropy, "AdversarialCE": AdversarialCE}


def build(model, name, *, source="objectives.build", **kwargs):
    """The objective of that name around `model`; `source` begins the error that a wrong argument raises."""
    make = OBJECTIVES[known("objective", name, OBJECTIVES, f"{source}: ")]
    return checked(make, dict(model=model, **kwargs), source)
