"""Numbers about a set of images as a whole, from a net's features or outputs."""

import torch

from ..core.images import double
from ..utils.arguments import positive_integer, validated


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two samples of features (Heusel et al. 2017, eq. 6), in float64: 0
    for equal ones.

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with covariances S of denominators N - 1.

    a, b   (N, D) and (M, D), of one net.

    Its bias falls with the number of images, and is large where N < D: compare values only at equal numbers and within
    one net. It is FID only with the features of `inception`. Raises ValueError for fewer than 2 images, NaN, or
    different D.
    """
    check_samples(a, b)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Gaussian is fitted to at least 2 images, got {len(a)} and {len(b)}; add more, in the "
                         "thousands for a small bias")
    a, b = double(a), double(b)
    means = [x.mean(0) for x in (a, b)]
    # S = R^T R
    roots = [torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R for x, mean in zip((a, b), means)]
    # squared, the singular values are S_a S_b's eigenvalues, even those near 0
    trace = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return (sum(root.square().sum() for root in roots) - 2 * trace
            + (means[0] - means[1]).square().sum()).clamp_min(0).item()


@validated(splits=positive_integer)
def inception_score(outputs, *, splits: int = 1):
    """exp(mean KL(p(y|x) || p(y))) of a classifier's outputs (Salimans et al. 2016), in float64: from 1, all images
    alike, to K.

    outputs   (N, K) logits, or probabilities: rows of no negative number that sum to 1.
    splits    the score of each of that many consecutive parts, (splits,), instead of one number; the paper gives mean
              and deviation over 10.

    It is the Inception Score only with the logits of `inception`. Raises ValueError for other outputs, NaN, and fewer
    images than splits.
    """
    check_features(outputs, "outputs")
    if len(outputs) < splits:
        raise ValueError(f"splits must be at most the number of images, got {splits} of {len(outputs)}; lower it")
    outputs = double(outputs)
    given = (outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-3
    p = outputs / outputs.sum(1, keepdim=True) if given else outputs.softmax(1)
    # KL by entropies
    scores = [torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()
              for part in p.tensor_split(splits)]
    return scores[0].exp().item() if splits == 1 else torch.stack(scores).exp()


def check_features(x, name="features"):
    if not isinstance(x, torch.Tensor) or x.ndim != 2 or not x.is_floating_point() or not x.numel():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name} must be floats of shape (images, numbers), got {got}. One row for each image.")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} hold NaN or infinite values. Find where they arise before the call.")


def check_samples(a, b):
    check_features(a)
    check_features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of both samples must be of one length, got {a.shape[1]} and {b.shape[1]}. Take "
                         "them from one layer of one net.")
