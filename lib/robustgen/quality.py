"""How like real images generated ones are, in numbers that need no trained feature network."""

import contextlib

import torch

from .config import Count, arguments


@arguments
def nearest_ssim(x, real, *, candidates: Count = 10):
    """SSIM (Wang et al. 2004) of each image with its most similar real one: (B,), 1 for a copy.

    x, real      (B, C, H, W) and (N, C, H, W) in [0, 1].
    candidates   SSIM is taken with that many real images, those of the highest correlation of pixels; the largest counts.
    """
    with contextlib.suppress(ModuleNotFoundError):
        from . import vision  # noqa: F401 (torchmetrics imports torchvision, where there is one)
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    nearest = (_standard(x) @ _standard(real).T).topk(min(candidates, len(real)), 1).indices   # (B, candidates)
    best = [ssim(x, real[column], data_range=1.0, reduction="none") for column in nearest.T]
    return torch.stack(best, 1).amax(1)


def _standard(x):
    x = x.flatten(1)
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


@arguments
def two_sample_accuracy(a, b, *, folds: Count = 5, seed=0):
    """Held-out accuracy with which logistic regression tells two samples of features apart (Lopez-Paz & Oquab 2017).

    a, b   (n, D) and (m, D). Cross-validated and balanced: 0.5 means that they cannot be told apart.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = torch.cat([a, b]).flatten(1).cpu().numpy()
    y = [0] * len(a) + [1] * len(b)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, x, y, cv=split, scoring="balanced_accuracy").mean())


def class_entropy(classes):
    """Entropy of the distribution of classes, in bits: log2 K where all K are as frequent, 0 where there is only one."""
    share = torch.bincount(classes).double() / len(classes)
    return -(share * share.clamp_min(1e-300).log2()).sum().item() + 0.0   # no negative zero


def by_chance(made, seen):
    """How often two nets would name the same class of unrelated images: over pairs of different ones, from (N,) classes of each net."""
    n = len(made)
    if n < 2:
        raise ValueError(f"chance needs pairs of images, got {n} image")
    counts = [torch.bincount(classes, minlength=int(max(made.max(), seen.max())) + 1).double() for classes in (made, seen)]
    return ((counts[0] @ counts[1] - (made == seen).sum()) / (n * (n - 1))).item()


def recognition(made, *seen):
    """How far other nets see in images the class that the net which made them sees: (share (N,), share by chance, kappa (N,)).

    made, seen   (N,) classes: the maker's, and those of each other net. All three are means over the other nets.
    kappa        agreement beyond chance (Cohen 1960): 0 by chance, 1 always; also 0 where all images are of one class.
    """
    chance = torch.tensor([by_chance(made, classes) for classes in seen])
    same = torch.stack([made == classes for classes in seen]).float()
    luck = chance[:, None].to(same)
    return same.mean(0), chance.mean().item(), ((same - luck) / (1 - luck).clamp_min(1e-9)).mean(0)
