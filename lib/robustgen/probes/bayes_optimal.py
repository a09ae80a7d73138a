"""The Bayes-optimal classifier and the exact score under Gaussian noise, where the data are a finite set of images.

p(y, c) is the set's images of class c, all as likely, each with noise N(0, sigma^2 I) (off-manifold paper, section
3.2). On natural images it is what a net that memorises its training set tends to; on `shapes`, whose classes
differ in the silhouette alone, it is the truth that robust nets are compared with.
"""

import torch
from torch import nn

from ..core.images import double, single
from ..utils.arguments import positive, validated
from ..utils.validation import check_images, check_labels


class Bayes(nn.Module):
    """log p(y, c) up to a constant: noisy images (B, C, H, W) to logits (B, K), the classifier that none can better at
    this noise level.

    x, y    the set: images (N, C, H, W) in [0, 1] and classes (N,).
    sigma   standard deviation of the noise in 0-255 units.

    It is a model as any other, and a denoiser: `scores.score` gives the exact score, of a class or of all.
    Raises ValueError for classes without images.
    """

    @validated(sigma=positive)
    def __init__(self, x: torch.Tensor, y: torch.Tensor, *, sigma: float):
        super().__init__()
        x = check_images(x)
        check_labels(y, len(x), int(y.max()) + 1)
        self.classes, self.sigma, self.shape = int(y.max()) + 1, sigma, x.shape[1:]
        missing = [c for c in range(self.classes) if not (y == c).any()]
        if missing:
            raise ValueError(f"classes {missing} have no images; give some of each, or renumber the classes")
        order = y.argsort(stable=True)   # a class's images side by side
        self.register_buffer("place", order.argsort())   # of the given images in that order
        self.register_buffer("x", x.flatten(1)[order])
        self.counts = torch.bincount(y).tolist()

    def forward(self, y):
        return torch.stack([part.logsumexp(1) for part in self._log_weights(y, self.sigma).split(self.counts, 1)], 1)

    def denoise(self, y, sigma, c=None):
        """E[x | y], or E[x | y, c] with classes c (B,): the mean of the set's images by their posterior weights. sigma:
        (B,) in 0-255 units."""
        weights = self._log_weights(y, sigma)
        if c is not None:
            own = torch.repeat_interleave(torch.tensor(self.counts, device=y.device))
            weights = weights.masked_fill(own != c[:, None], -torch.inf)
        return (weights.softmax(1).to(self.x.dtype) @ self.x).view_as(y).to(y.dtype)

    def weights(self, y):
        """Posterior weight of each of the set's images, in the set's order: (B, N)."""
        return self._log_weights(y, self.sigma).softmax(1)[:, self.place]

    def _log_weights(self, y, sigma):
        """-||y - x||^2 / 2 sigma^2 for each of the set's images: (B, N), in float64 where the device has it."""
        if y.shape[1:] != self.shape:
            raise ValueError(f"the set's images have shape {tuple(self.shape)}, and these {tuple(y.shape[1:])}; give "
                             "such as the set's")
        y = y.flatten(1)
        products = double(y.to(self.x.dtype) @ self.x.T)
        squares = (double(y).square().sum(1, keepdim=True) + double(self.x).square().sum(1)) - 2 * products
        sigma = double(torch.as_tensor(sigma)).to(squares.device).view(-1, 1) / 255
        found = -squares / (2 * sigma**2)
        return found if found.device == y.device else found.to(single(y))
