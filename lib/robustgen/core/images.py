"""Images as vectors: their l2 norm, their error against others, and types wide enough for sums over them."""

import torch


def norm(v):
    """l2 norm of each image, shaped (B, 1, 1, 1) to divide by, in float32 or better."""
    return torch.linalg.vector_norm(single(v), dim=tuple(range(1, v.ndim)), keepdim=True)


def single(v):
    """In float32 if the type is narrower: float16 has no 1e-10, and bfloat16 steps over 1/255."""
    return v.float() if v.dtype in (torch.float16, torch.bfloat16) else v


def double(v):
    """In float64, on the CPU where the device has none."""
    return v.double() if has_double(v.device) else v.cpu().double()


def has_double(device):
    """Whether a device computes in float64. Apple's GPUs do not."""
    return torch.device(device).type != "mps"


def narrowed(v, centre):
    """Images `v` of [0, 1] in the type of `centre`, rounded towards it: they stay in any ball around it."""
    if v.dtype == centre.dtype:
        return v
    rounded = v.to(centre.dtype) + 0   # no negative zero, whose neighbours are
    beyond = (single(rounded) - single(centre)).abs() > (v - single(centre)).abs()
    bits = rounded.view(torch.int16)   # of numbers of one sign, neighbours have neighbouring bits
    return torch.where(beyond, torch.where(rounded < centre, bits + 1, bits - 1).view(centre.dtype), rounded)


def moved(x, delta):
    """x + delta within [0, 1], in the type of x, and no further from it than delta."""
    return narrowed((single(x) + delta).clamp(0, 1), x)


def psnr(x, estimate):
    """Peak signal-to-noise ratio of each image, in dB, for pixels in [0, 1]: (B,). Nothing is clamped."""
    return -10 * (x - estimate).square().mean((1, 2, 3)).log10()


def wide(values):
    return values.view(-1, 1, 1, 1)
