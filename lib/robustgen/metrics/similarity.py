"""How like real images generated ones are. Where a number rests on a net's features, the caller brings them, and names
the net.

With those of `inception`, frechet_distance is FID and inception_score the Inception Score.
"""

import contextlib

import torch

from ..utils.arguments import positive_integer, validated
from ..utils.validation import check_images
from .frechet import check_samples

SMALLEST = 6   # pixels of an image's side: SSIM reflects 5 at the border


@validated(count=positive_integer, candidates=positive_integer)
def nearest(x, real, *, count: int = 10, candidates: int = 100):
    """The real images most similar to each image, most similar first: (SSIM (B, count), index into `real` (B, count)).

    x, real      (B, C, H, W) and (N, C, H, W) in [0, 1].
    candidates   SSIM (Wang et al. 2004; 1 for a copy) is taken with that many real images, those of the highest
                 correlation of pixels.

    Raises ValueError for other images, and for a count above that of real images or candidates.
    """
    x, real = check_images(x), check_images(real)
    if x.shape[1:] != real.shape[1:]:
        raise ValueError(f"images and real ones must be of one shape (C, H, W), got {tuple(x.shape[1:])} and "
                         f"{tuple(real.shape[1:])}; resize one of them")
    if min(x.shape[2:]) < SMALLEST:
        raise ValueError(f"SSIM takes images of at least {SMALLEST} pixels a side, got {x.shape[2]} x {x.shape[3]}; "
                         "enlarge them")
    candidates = min(candidates, len(real))
    _enough(count, candidates)
    with contextlib.suppress(ModuleNotFoundError):
        from ..utils import torchvision_import  # noqa: F401 (torchmetrics imports torchvision, where there is one)
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    found = (_standard(x) @ _standard(real).T).topk(candidates, 1).indices
    similar = torch.stack([ssim(x, real[column], data_range=1.0, reduction="none") for column in found.T],
                          1).topk(count, 1)
    return similar.values, found.gather(1, similar.indices)


def nearest_ssim(x, real, *, candidates=10):
    """SSIM of each image with its most similar real one, see `nearest`: (B,), 1 for a copy."""
    return nearest(x, real, count=1, candidates=candidates)[0][:, 0]


def _standard(x):
    x = x.flatten(1)
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _enough(count, real):
    if count > real:
        raise ValueError(f"count must be at most the number of real images compared, got {count} of {real}; lower it, "
                         "or compare with more")


@validated(count=positive_integer)
def nearest_features(a, real, *, count: int = 10):
    """The real images nearest to each by Euclidean distance of features, nearest first: (distance (n, count), index
    into `real` (n, count)).

    a, real   (n, D) and (m, D), of one net. Raises ValueError for others, and for a count above m.
    """
    check_samples(a, real)
    _enough(count, len(real))
    # by products, a copy would not be at 0
    distance = torch.cdist(a, real, compute_mode="donot_use_mm_for_euclid_dist")
    return tuple(distance.topk(count, 1, largest=False))


@validated(folds=positive_integer)
def two_sample_accuracy(a, b, *, folds: int = 5, seed=0):
    """Held-out accuracy with which logistic regression tells two samples of features apart (Lopez-Paz & Oquab 2017).

    a, b   (n, D) and (m, D). Cross-validated and balanced: 0.5 means that they cannot be told apart.

    Raises ValueError for other features, NaN, and samples smaller than the number of folds, which is at least 2.
    """
    check_samples(a, b)
    if not 2 <= folds <= min(len(a), len(b)):
        raise ValueError(f"'folds' is {folds}: it should be at least 2 and at most the size of the smaller sample, "
                         f"{min(len(a), len(b))}")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = torch.cat([a, b]).cpu().numpy()
    y = [0] * len(a) + [1] * len(b)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, x, y, cv=split, scoring="balanced_accuracy").mean())
