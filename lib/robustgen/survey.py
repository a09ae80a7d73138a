"""The nets of a family under the measures of the off-manifold paper: a row a net, from the weakest (Figures 3, 4, 9 and 17).

A family is a run of the zoo over the strength of its objective and over seeds.
"""

import itertools
from dataclasses import dataclass

import torch

from . import attacks, gradients, manifold, perceptual, report, scores, zoo
from .config import known


@dataclass(frozen=True)
class Reference:
    """A map that gradients are compared with, (B, C, H, W), and which gradient belongs beside it.

    all        the sum of all logits: for the score of all images (appendix B.5)
    label      the label's logit: for the score of a class. The paper takes the predicted class's, which is the same where a net is right
    log-odds   the log-odds of the label, along which grad log p(y | x) lies: for the Bayes-optimal classifier's
    """

    map: torch.Tensor
    gradient: str

    def __post_init__(self):
        known("gradient", self.gradient, ("all", "label", "log-odds"))


def gradient(model, x, y, kind, *, batch=250):
    """The input gradient that a reference asks for, (B, C, H, W)."""
    def one(x, y):
        return scores.log_odds_score(model, x, y) if kind == "log-odds" else gradients.logit_gradient(model, x, y if kind == "label" else None)
    return torch.cat([one(*part) for part in zip(x.split(batch), y.split(batch))])


def measures(net, model, layers, device="cpu"):
    """How alike two maps are, in several ways: ({name: (gradient, reference) -> (B,)}, what is missing and why, or "").

    LPIPS with `net` comes first, where its weights can be had. The cosine and the deep features of `model`, a net of ours,
    are always there, under their own names.
    """
    own = perceptual.feature_distance(model, layers)
    found = {"cosine": perceptual.cosine, "1 − deep-feature distance": lambda a, b: perceptual.alignment(a, b, own)}
    try:
        distance = perceptual.lpips(net, device)
    except OSError as reason:
        return found, f"no LPIPS: {reason}"
    return {"1 − LPIPS": lambda a, b: perceptual.alignment(a, b, distance)} | found, ""


def family(run, profile, x, y, *, judged, bases, radii, radius, draws, references, alike, mask=None, attack=None, generator=None, progress=False):
    """Measure every net of a run at images x (B, C, H, W) with labels y (B,): a data frame, a row a net, from the weakest.

    judged       images (Images) of the accuracy.
    bases        {name: tangent spaces at x}. Of the first, "on @ r" and "off @ r" for each of `radii` (`manifold.sensitivity`, with
                 `draws`) and "rho_2" (`manifold.rho_on` of the log-odds' gradient); of others, "on @ radius, <name>" and so on.
                 {} where none are known: these columns are then left out.
    references   {name: Reference}; alike: {name: measure} as of `measures`. A column "<measure>, <name>" for each pair.
    mask         pixels that broadcast with x: "on mask" is the share of the log-odds' squared gradient there.
    attack       arguments of attacks.robust_accuracy for "robust accuracy" at x.

    Values are means over images. Those without a gradient are left out, and counted as "zero gradients".
    """
    import pandas as pd
    from tqdm import tqdm

    over = zoo.over(run, profile)
    strength, rows = next(iter(over)), []
    members = [dict(zip(over, values)) for values in itertools.product(*over.values())]
    for member in tqdm(members, desc=run, unit="net", disable=not progress):
        model = zoo.load(run, profile, folded=True, device=x.device, **member)
        row = {"run": run, "strength": float(member[strength]), "seed": member.get("seed", 0), "accuracy": attacks.accuracy(model, judged.unit, judged.y)}
        found = {kind: gradient(model, x, y, kind) for kind in {"log-odds", *(reference.gradient for reference in references.values())}}
        row["zero gradients"] = int((~torch.stack([g.flatten(1).any(1) for g in found.values()]).all(0)).sum())
        for i, (name, basis) in enumerate(bases.items()):
            label, lengths = (f", {name}", [radius]) if i else ("", radii)
            on, off = manifold.sensitivity(model, x, basis, radii=lengths, draws=draws, generator=generator)
            for j, length in enumerate(lengths):
                row |= {f"on @ {length:g}{label}": on[:, j].mean().item(), f"off @ {length:g}{label}": off[:, j].mean().item()}
            row[f"rho_2{label}"] = manifold.rho_on(found["log-odds"], basis).nanmean().item()
        if mask is not None:
            row["on mask"] = share(found["log-odds"], mask).nanmean().item()
        for name, reference in references.items():
            row |= {f"{measure}, {name}": f(found[reference.gradient], reference.map).nanmean().item() for measure, f in alike.items()}
        if attack:
            row["robust accuracy"] = attacks.robust_accuracy(model, x, y, **attack)
        rows.append(row)
    return pd.DataFrame(rows)


def share(gradient, mask):
    """Share of each squared gradient (B, C, H, W) on the pixels of a mask that broadcasts with it: (B,), NaN where the gradient is zero."""
    square = perceptual.normalised(gradient).square()
    return (square * mask).flatten(1).sum(1) / square.flatten(1).sum(1)


# What the frames say

def band(frame, column):
    """A column over strength: strengths, means over seeds, and (least, greatest)."""
    groups = frame.groupby("strength")[column]
    return groups.mean().index.to_numpy(), groups.mean().to_numpy(), (groups.min().to_numpy(), groups.max().to_numpy())


def at(frame, strength, column):
    """A column's values at one strength, a seed each."""
    return frame[frame.strength == strength][column].tolist()


def spearman(a, b):
    """Rank correlation of paired values (..., n), ties sharing their mean rank: (...), NaN where either is constant or has NaN."""
    def ranks(v):
        v = torch.as_tensor(v).double().contiguous()
        inorder = v.sort(-1).values
        r = torch.searchsorted(inorder, v) + torch.searchsorted(inorder, v, right=True) + 0 * v   # the last keeps NaN
        return r - r.mean(-1, keepdim=True)
    a, b = ranks(a), ranks(b)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def correlation(frame, a, b):
    """Rank correlation of two columns over objectives and strengths, and its 95 % interval: (value, low, high).

    Seeds are averaged first, as they are not independent nets. Strengths at which either is NaN are left out.
    """
    cells = frame.groupby(["objective", "strength"], sort=False)[[a, b]].mean().dropna()
    a, b = torch.tensor(cells[a].to_numpy()), torch.tensor(cells[b].to_numpy())
    return spearman(a, b).item(), *report.bootstrap(a, b, statistic=lambda a, b: spearman(a, b).nan_to_num(0.0))


def trend(frame, a, b="strength"):
    """Rank correlation of a column with the strength, or with another column, within each objective: {objective: value}."""
    return {name: spearman(torch.tensor(g[b].to_numpy()), torch.tensor(g[a].to_numpy())).item() for name, g in frame.groupby("objective", sort=False)}


def regimes(frame, radius):
    """The regimes of a family's frame by `manifold.regimes`, at a radius, of the means over seeds: {strength: regime}."""
    means = frame.groupby("strength").mean(numeric_only=True)
    return dict(zip(means.index, manifold.regimes(list(means[f"on @ {radius:g}"]), list(means[f"off @ {radius:g}"]))))


def begins(regimes):
    """The least strength of each regime, in their order: {regime: strength}."""
    return {regime: min(s for s, r in regimes.items() if r == regime) for regime in dict.fromkeys(regimes.values())}
