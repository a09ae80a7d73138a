"""Images as vectors: their l2 norm, their error against others, and a type wide enough for sums over them."""


import torch


def norm(v):
    """l2 norm of each image, shaped (B, 1, 1, 1) to divide by."""
    return torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)


def psnr(x, estimate):
    """Peak signal-to-noise ratio of each image, in dB, for pixels in [0, 1]: (B,). Nothing is clamped."""
    return -10 * (x - estimate).square().mean((1, 2, 3)).log10()


def wide(values):
    return values.view(-1, 1, 1, 1)
