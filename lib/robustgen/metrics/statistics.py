"""Statistics of paired and unpaired numbers: intervals, rank correlation, effect size, area under the ROC curve."""


import torch

from ..core.images import double


def effect_size(natural, attacked):
    """Cohen's d of scores (..., N): difference of the means, attacked - natural, over the pooled standard deviation."""
    return (attacked.mean(-1) - natural.mean(-1)) / ((attacked.var(-1) + natural.var(-1)) / 2).sqrt()


def auroc(natural, others):
    """Area under the ROC curve of scores (N,), (M,): how often an image of the other kind scores lower than a natural
    one."""
    from sklearn.metrics import roc_auc_score

    scores = torch.cat([natural, others]).cpu().double()
    if not len(natural) or not len(others) or scores.isnan().any():
        raise ValueError(f"scores must be without NaN, and of each kind at least one; got {len(natural)} and "
                         f"{len(others)}, of which {int(scores.isnan().sum())} are NaN; leave those out")
    return float(roc_auc_score(torch.arange(len(scores)) < len(natural), scores))


def bootstrap(*values, statistic=None, draws=2000, generator=0):
    """95 % percentile interval of a statistic of `values`, each (n,): resampled with replacement, together.

    statistic   called with resampled values, each (draws, n), gives (draws,); the default is the mean.
    """
    values = [torch.as_tensor(v).cpu().double() for v in values]
    n = len(values[0])
    if not n or any(len(v) != n for v in values):
        raise ValueError(f"values must be of one length, at least 1, got {[len(v) for v in values]}; give those that "
                         "belong together")
    resampled = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(generator))
    found = (statistic or (lambda v: v.mean(1)))(*(v[resampled] for v in values))
    return found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def spearman(a, b):
    """Rank correlation of paired values (..., n), ties sharing their mean rank: (...), NaN where either is constant or
    has NaN."""
    def ranks(v):
        v = double(torch.as_tensor(v)).contiguous()
        inorder = v.sort(-1).values
        r = torch.searchsorted(inorder, v) + torch.searchsorted(inorder, v, right=True) + 0 * v   # the last keeps NaN
        return r - r.mean(-1, keepdim=True)
    a, b = ranks(a), ranks(b)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
