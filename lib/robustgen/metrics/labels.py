"""What the classes say that nets see in images: entropy, agreement, agreement beyond chance."""

import torch

from ..core.images import double


def _check(*classes, ndim=1, names="(images,)"):
    """Refuse what are no classes."""
    for y in classes:
        if not isinstance(y, torch.Tensor) or y.ndim != ndim or y.dtype != torch.int64 or not y.numel() or y.min() < 0:
            got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"classes must be whole numbers from 0 up, int64 of shape {names}, got {got}; take those "
                             "of logits.argmax(1)")


def class_entropy(classes):
    """Entropy of the distribution of classes, in bits: log2 K where all K are as frequent, 0 where there is only
    one."""
    _check(classes)
    share = double(torch.bincount(classes)) / len(classes)
    return -(share * share.clamp_min(1e-300).log2()).sum().item() + 0.0   # no negative zero


def chance_agreement(made, seen):
    """How often two nets would name the same class of unrelated images: over pairs of different ones, from (N,) classes
    of each net."""
    _check(made, seen)
    n = len(made)
    if n < 2:
        raise ValueError(f"chance needs pairs of images, got {n} image; give more")
    counts = [double(torch.bincount(classes, minlength=int(max(made.max(), seen.max())) + 1))
              for classes in (made, seen)]
    return ((counts[0] @ counts[1] - (made == seen).sum().item()) / (n * (n - 1))).item()


def recognition(made, *seen):
    """How far other nets see in images the class that the net which made them sees: (share (N,), share by chance, kappa
    (N,)).

    made, seen   (N,) classes: the maker's, and those of each other net. All three are means over the other nets.
    kappa        agreement beyond chance (Cohen 1960): 0 by chance, 1 always; also 0 where all images are of one class.
    """
    chance = torch.tensor([chance_agreement(made, classes) for classes in seen])
    same = torch.stack([made == classes for classes in seen]).float()
    luck = chance[:, None].to(same)
    return same.mean(0), chance.mean().item(), ((same - luck) / (1 - luck).clamp_min(1e-9)).mean(0)


def agreement(classes):
    """How often two trajectories from one start end in the same class, from (N, R) classes of R trajectories from each
    of N starts.

    Returns (share of pairs that agree, the share by chance: of pairs from different starts).
    """
    _check(classes, ndim=2, names="(starts, trajectories)")
    n, r = classes.shape
    if n < 2 or r < 2:
        raise ValueError(f"agreement needs at least two starts with two trajectories each, got {n} and {r}; give more")
    counts = double(torch.nn.functional.one_hot(classes).sum(1))   # (N, K)
    within = (counts * (counts - 1)).sum() / (n * r * (r - 1))
    total = counts.sum(0)
    between = ((total * total).sum() - (counts * counts).sum()) / (n * (n - 1) * r * r)
    return within.item(), between.item()
