"""Random numbers that belong to an image, not to a batch.

Every random draw of the library is a function of one 64-bit seed per image and a stream number. So an
image meets the same noise at any batch size, on any rank of a distributed run and on any device.
The generator is SplitMix64 (Steele, Lea & Flood 2014) in counter mode, in plain tensor arithmetic.
"""

import math
import numbers

import torch

GOLDEN, MIX_1, MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685   # as signed 64-bit


def _mix(z):
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    return z ^ _shift(z, 31)


def _shift(z, bits):
    return (z >> bits) & ((1 << (64 - bits)) - 1)   # logical shift: torch's own keeps the sign


def seeds(generator, n, device="cpu"):
    """One int64 seed for each of `n` images, shape (n,).

    generator  a torch.Generator (n draws are taken from it, so two calls with n/2 equal one with n),
               an int, NumPy's generator, or seeds already drawn, which are returned as they are. None
               draws from torch's global generator.
    """
    if isinstance(generator, numbers.Integral):
        if not -2**63 <= generator < 2**64:
            raise ValueError(f"generator is {generator}: it should be a number of 64 bits, such as 0")
        generator = torch.Generator().manual_seed(int(generator))
    if hasattr(generator, "integers"):   # NumPy's
        return torch.from_numpy(generator.integers(2**62, size=n)).to(device)
    if isinstance(generator, torch.Tensor):
        if generator.shape != (n,) or generator.dtype != torch.int64:
            raise ValueError(f"generator should be one int64 seed for each of {n} images, got {generator.dtype} of "
                             f"shape {tuple(generator.shape)}; an int makes them")
        return generator.to(device)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is a {type(generator).__name__}: it should be a torch.Generator, an int, NumPy's "
                         "generator or one int64 seed an image")
    source = generator.device if generator is not None else "cpu"
    return torch.randint(2**62, (n,), generator=generator, device=source).to(device)


def fold(seed, *numbers):
    """Derive new seeds from `seed` and whole numbers (ints or int64 tensors that broadcast with it)."""
    seed = torch.as_tensor(seed, dtype=torch.int64)
    for number in numbers:
        offset = GOLDEN * (number + 1)
        if isinstance(number, int):
            # as a tensor's product would wrap; no tensor is made of it, which a GPU would wait for
            offset = (offset + 2**63) % 2**64 - 2**63
        seed = _mix(seed + offset)
    return seed


def _bits(seeds, count, stream):
    counter = torch.arange(1, count + 1, device=seeds.device)
    return _mix(fold(seeds, stream)[:, None] + GOLDEN * counter)


def uniform(seeds, shape, *, stream=0):
    """Uniform numbers in [0, 1): float32 of shape (n, *shape) for seeds (n,)."""
    bits = _bits(seeds, math.prod(shape), stream)
    return (_shift(bits, 40).float() * 2**-24).view(len(seeds), *shape)


def normal(seeds, shape, *, stream=0):
    """Standard normal numbers (Box-Muller): float32 of shape (n, *shape) for seeds (n,)."""
    count = math.prod(shape)
    bits = _bits(seeds, (count + 1) // 2, stream)
    radius = (-2 * ((_shift(bits, 40) + 1).float() * 2**-24).log()).sqrt()   # from (0, 1]: log stays finite
    angle = 2 * math.pi * 2**-24 * (bits & 0xFFFFFF).float()
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    return both[:, :count].reshape(len(seeds), *shape)
