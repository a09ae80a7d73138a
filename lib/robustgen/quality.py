"""How like real images generated ones are. Where a number rests on a net's features, the caller brings them, and names the net.

With those of `inception`, frechet_distance is FID and inception_score the Inception Score.
"""

import contextlib

import torch

from . import checks
from .config import Count, arguments


@arguments
def nearest(x, real, *, count: Count = 10, candidates: Count = 100):
    """The real images most similar to each image, most similar first: (SSIM (B, count), index into `real` (B, count)).

    x, real      (B, C, H, W) and (N, C, H, W) in [0, 1].
    candidates   SSIM (Wang et al. 2004; 1 for a copy) is taken with that many real images, those of the highest correlation of pixels.

    Raises ValueError for other images, and for a count above that of real images or candidates.
    """
    checks.images(x)
    checks.images(real)
    if x.shape[1:] != real.shape[1:]:
        raise ValueError(f"images and real ones must be of one shape (C, H, W), got {tuple(x.shape[1:])} and {tuple(real.shape[1:])}; resize one of them")
    candidates = min(candidates, len(real))
    _enough(count, candidates)
    with contextlib.suppress(ModuleNotFoundError):
        from . import vision  # noqa: F401 (torchmetrics imports torchvision, where there is one)
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    found = (_standard(x) @ _standard(real).T).topk(candidates, 1).indices
    similar = torch.stack([ssim(x, real[column], data_range=1.0, reduction="none") for column in found.T], 1).topk(count, 1)
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
        raise ValueError(f"count must be at most the number of real images compared, got {count} of {real}; lower it, or compare with more")


@arguments
def nearest_features(a, real, *, count: Count = 10):
    """The real images nearest to each by Euclidean distance of features, nearest first: (distance (n, count), index into `real` (n, count)).

    a, real   (n, D) and (m, D), of one net. Raises ValueError for others, and for a count above m.
    """
    _samples(a, real)
    _enough(count, len(real))
    distance = torch.cdist(a, real, compute_mode="donot_use_mm_for_euclid_dist")   # by products, a copy would not be at 0
    return tuple(distance.topk(count, 1, largest=False))


def frechet_distance(a, b):
    """Frechet distance of the Gaussians fitted to two samples of features (Heusel et al. 2017, eq. 6), in float64: 0 for equal ones.

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with covariances S of denominators N - 1.

    a, b   (N, D) and (M, D), of one net.

    Its bias falls with the number of images, and is large where N < D: compare values only at equal numbers and within one net.
    It is FID only with the features of `inception`. Raises ValueError for fewer than 2 images, NaN, or different D.
    """
    _samples(a, b)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Gaussian is fitted to at least 2 images, got {len(a)} and {len(b)}; add more, in the thousands for a small bias")
    means = [x.double().mean(0) for x in (a, b)]
    roots = [torch.linalg.qr((x.double() - mean) / (len(x) - 1) ** 0.5, mode="r").R for x, mean in zip((a, b), means)]   # S = R^T R
    trace = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()   # squared, the singular values are S_a S_b's eigenvalues, even those near 0
    return (sum(root.square().sum() for root in roots) - 2 * trace + (means[0] - means[1]).square().sum()).clamp_min(0).item()


@arguments
def inception_score(outputs, *, splits: Count = 1):
    """exp(mean KL(p(y|x) || p(y))) of a classifier's outputs (Salimans et al. 2016), in float64: from 1, all images alike, to K.

    outputs   (N, K) logits, or probabilities: rows of no negative number that sum to 1.
    splits    the score of each of that many consecutive parts, (splits,), instead of one number; the paper gives mean and deviation over 10.

    It is the Inception Score only with the logits of `inception`. Raises ValueError for other outputs, NaN, and fewer images than splits.
    """
    _features(outputs, "outputs")
    if len(outputs) < splits:
        raise ValueError(f"splits must be at most the number of images, got {splits} of {len(outputs)}; lower it")
    outputs = outputs.double()
    given = (outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-3
    p = outputs / outputs.sum(1, keepdim=True) if given else outputs.softmax(1)
    scores = [torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean() for part in p.tensor_split(splits)]   # KL by entropies
    return scores[0].exp().item() if splits == 1 else torch.stack(scores).exp()


def _features(x, name="features"):
    if not isinstance(x, torch.Tensor) or x.ndim != 2 or not x.is_floating_point() or not x.numel():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name} must be floats of shape (images, numbers), got {got}. One row for each image.")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} hold NaN or infinite values. Find where they arise before the call.")


def _samples(a, b):
    _features(a)
    _features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of both samples must be of one length, got {a.shape[1]} and {b.shape[1]}. Take them from one layer of one net.")


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
