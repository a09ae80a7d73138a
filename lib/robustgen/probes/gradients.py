"""Input gradients as pictures, and how much structure they have."""

from collections.abc import Callable

import torch

from ..core.energy import log_odds
from ..core.images import norm
from ..utils.arguments import validated
from ..utils.validation import check_classifier
from .spectral import participation_ratio


@validated()
def input_gradient(model: Callable, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Direction of the cross-entropy's gradient at each image, (B, C, H, W), of l2 norm 1.

    Taken through the log-odds, along which it lies: float32 does not round that to zero where the net is sure.
    """
    x, _ = check_classifier(model, x, y)
    x = x.detach().requires_grad_()
    gradient, = torch.autograd.grad(log_odds(model(x), y).sum(), x)
    return (gradient / norm(gradient).clamp_min(1e-30)).to(x.dtype)


@validated()
def logit_gradient(model, x, c=None):
    """Gradient of the sum of all logits, or of each image's logit c (B,), as it is: (B, C, H, W) (off-manifold paper,
    B.4 and B.5).

    The former belongs beside the score of all images, the latter beside that of class c. Both are taken before the
    softmax.
    """
    x, _ = check_classifier(model, x, c)
    x = x.detach().requires_grad_()
    logits = model(x)
    gradient, = torch.autograd.grad((logits if c is None else logits.gather(1, c[:, None])).sum(), x)
    return gradient


def coherence(gradient):
    """Correlation of neighbouring pixels, (B,) in [-1, 1], across and down on average: 0 for white noise, near 1 for
    smooth structure."""
    across = (gradient[..., 1:] * gradient[..., :-1]).flatten(1).sum(1)
    down = (gradient[..., 1:, :] * gradient[..., :-1, :]).flatten(1).sum(1)
    return (across + down) / 2 / gradient.square().flatten(1).sum(1)


def density(gradient):
    """Share of pixel values that carry the gradient, (B,) in (0, 1]: participation ratio (sum g^2)^2 / sum g^4, over
    their number.

    1 if all are equally large, 1/3 for Gaussian noise, near 0 for a few spikes.
    """
    size = gradient.flatten(1).abs()
    # of the largest: its fourth power does not vanish in float32
    square = (size / size.amax(1, keepdim=True)).square()
    return participation_ratio(square) / square.shape[1]


def as_picture(gradient):
    """Gradients as images in [0, 1], (B, H, W, C) to show: grey is zero, each image's 99th percentile is full
    colour."""
    scale = gradient.abs().flatten(1).quantile(0.99, 1).clamp_min(1e-30).view(-1, 1, 1, 1)
    return (0.5 + 0.5 * gradient / scale).clamp(0, 1).movedim(1, -1)
