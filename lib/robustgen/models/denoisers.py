"""Denoisers y -> x by convolution, the baselines of GradResNet, and an autoencoder.

A denoiser has `denoise(y, sigma)`: noisy images (B, C, H, W) in units of [0, 1], sigma (B,) in 0-255 units.
"""

import torch
from torch import nn

from ..utils.arguments import positive_integer, validated


class DnCNN(nn.Module):
    """Predicts the noise and subtracts it; blind to sigma (Zhang et al. 2017)."""

    def __init__(self, depth, width, channels):
        super().__init__()
        middle = [layer for _ in range(depth - 2)
                  for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())]
        self.noise = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), *middle,
                                   nn.Conv2d(width, channels, 3, padding=1))

    def denoise(self, y, sigma=None):
        return y - self.noise(y)

    forward = denoise


@validated(depth=positive_integer, width=positive_integer, channels=positive_integer)
def dncnn(*, depth: int = 20, width: int = 64, channels: int = 3):
    """DnCNN for blind colour denoising: as published by default.

    With batch norm's scales merged into the convolutions, as published, that is 668,227 parameters.
    """
    return DnCNN(depth, width, channels)


class _Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, x):
        return x + self.body(x)


class DRUNet(nn.Module):
    """A bias-free UNet of residual blocks that is told sigma as a fourth channel (Zhang et al. 2021)."""

    def __init__(self, width, blocks, channels):
        super().__init__()
        widths = [width * 2**level for level in range(4)]

        def level(width):
            return [_Residual(width) for _ in range(blocks)]

        self.head = nn.Conv2d(channels + 1, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(nn.Sequential(*level(a), nn.Conv2d(a, b, 2, 2, bias=False))
                                  for a, b in zip(widths, widths[1:]))
        self.body = nn.Sequential(*level(widths[-1]))
        self.up = nn.ModuleList(nn.Sequential(nn.ConvTranspose2d(b, a, 2, 2, bias=False), *level(a))
                                for a, b in zip(widths, widths[1:]))
        self.tail = nn.Conv2d(width, channels, 3, padding=1, bias=False)

    def denoise(self, y, sigma):
        if y.shape[2] % 8 or y.shape[3] % 8:
            raise ValueError("DRUNet halves its images three times, so height and width must be multiples of 8; these "
                             f"are {tuple(y.shape[2:])}. Pad them.")
        noise_map = (sigma / 255).view(-1, 1, 1, 1).expand(-1, 1, *y.shape[2:])
        skips = [self.head(torch.cat([y, noise_map], 1))]
        for down in self.down:
            skips.append(down(skips[-1]))
        z = self.body(skips[-1])
        for up in reversed(self.up):
            z = up(z + skips.pop())
        return self.tail(z + skips.pop())

    forward = denoise


@validated(width=positive_integer, blocks=positive_integer, channels=positive_integer)
def drunet(*, width: int = 64, blocks: int = 4, channels: int = 3):
    """DRUNet; as published, of width 64 and 4 blocks a level, it has 32,640,960 parameters."""
    return DRUNet(width, blocks, channels)


class Autoencoder(nn.Module):
    """`encode` images (B, C, S, S) in [0, 1] to (B, k), `decode` back; smooth, so that the decoder has tangents."""

    def __init__(self, latent, width, size, channels):
        super().__init__()
        widths, side = [channels, width, 2 * width, 4 * width], size // 8
        down, up = [], []
        for a, b in zip(widths, widths[1:]):
            down += [nn.Conv2d(a, b, 4, 2, 1), nn.GELU()]
            up = [nn.ConvTranspose2d(b, a, 4, 2, 1), nn.GELU()] + up
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(widths[-1] * side**2, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, widths[-1] * side**2), nn.Unflatten(1, (widths[-1], side, side)),
                                     nn.GELU(), *up[:-1], nn.Sigmoid())

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        return self.decode(self.encode(x))


@validated(latent=positive_integer, width=positive_integer, size=positive_integer, channels=positive_integer)
def autoencoder(*, latent: int = 128, width: int = 64, size: int = 32, channels: int = 3):
    """Convolutional autoencoder with `latent` numbers an image (off-manifold paper, B.6, which names no width)."""
    if size % 8:
        raise ValueError(f"'size' is {size}: it should be a multiple of 8, as the encoder halves its images "
                         "three times")
    return Autoencoder(latent, width, size, channels)
