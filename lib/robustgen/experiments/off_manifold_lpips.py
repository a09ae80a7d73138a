"""The nets of a family under the measures of the off-manifold paper: a row a net, from the weakest (Figures 3, 4, 9 and
17).

A family is a run of the zoo over the strength of its objective and over seeds.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from ..attacks.evaluation import accuracy, robust_accuracy
from ..metrics import perceptual
from ..metrics.statistics import bootstrap, spearman
from ..probes import manifold, scores
from ..probes.gradients import logit_gradient
from ..utils.arguments import known
from ..utils.fields import Count, Index, Positive, ordered, part, settings
from ..zoo.trained import family_axes, load_net


@part
class ScoreModel:
    """A net whose score input gradients are compared with."""

    name: str                # in figures and tables
    net: str                 # a run of the zoo, or a net of edm
    member: dict             # which net of the run; {} for edm's
    draws: Index             # noise draws of a net that is not told sigma (scores.smoothed_score); 0 for one that is


@settings
class Settings:
    """Notebook 4. Radii are l2 norms in units of [0, 1]; `sigma` and `bayes_sigma` are in 0-255 units, other noise in
    units of [0, 1]."""

    seed: Index              # of the images and all random draws
    images: Annotated[int, Field(ge=2)]       # CIFAR-10 test images at which nets are probed (paper: 2000)
    judged: Annotated[int, Field(ge=2)]       # of the accuracies
    radii: Annotated[list[Positive], Field(min_length=2)]   # of perturbations (paper: 1.44, 2.64, 4.83, 8.86)
    radius: Positive         # the one of Figure 3 and of the regimes (paper: 2.64)
    draws: Count             # random directions an image
    lowest: Positive         # PSNR in dB below which an image is outside the autoencoder's reach
    sigma: Positive          # of the score (paper: 0.5 in [-1, 1], 63.75 of 255)
    scores: Annotated[list[ScoreModel], Field(min_length=1)]   # the first whose net can be had is the one of Figure 3
    conditional: Annotated[list[ScoreModel], Field(min_length=1)]   # the same for Figure 17: told the class
    lpips: Literal["alex", "squeeze"]         # paper: alex
    feature_net: str         # a run whose first net gives the deep features
    feature_layers: Annotated[list[str], Field(min_length=1)]
    theorem_images: Annotated[int, Field(ge=2)]
    theorem_draws: Count
    theorem_sigmas: Annotated[list[Positive], Field(min_length=2)]   # from the largest
    shown: Count             # images of Figures 6, 7 and 8
    shown_family: Literal["cifar10-gradnorm", "cifar10-noise", "cifar10-smoothness", "cifar10-l2"]   # of Figure 6
    distractor_images: Annotated[int, Field(ge=2)]
    distractor_sigmas: Annotated[list[Positive], Field(min_length=2)]
    distractor_draws: Count
    shapes_images: Annotated[int, Field(ge=10)]
    bayes_sigma: Positive    # of the Bayes-optimal classifier's noise
    attack_eps: Positive     # l2-PGD on shapes
    attack_steps: Count      # each 2.5 eps / steps long
    imagenet_images: Annotated[int, Field(ge=2)]   # ImageNet-64 (paper: sigma 1.2 in [-1, 1])
    imagenet_sigma: Positive

    def __post_init__(self):
        if self.radius not in self.radii:
            raise ValueError(f"'radius' is {self.radius}, and should be one of 'radii', {self.radii}")
        most = min(self.images, self.shapes_images)
        for key, limit in (("shown", most), ("theorem_images", most), ("shapes_images", 10000),
                           ("distractor_images", 10000)):
            if getattr(self, key) > limit:
                raise ValueError(f"{key!r} is {getattr(self, key)}, of {limit} images that there are; lower it")
        ordered(self, "radii", "distractor_sigmas", falling=("theorem_sigmas",))
        names = [source.name for source in self.scores]
        if len(set(names)) < len(names):
            raise ValueError(f"two of 'scores' have one name: {', '.join(names)}")


@dataclass(frozen=True)
class Reference:
    """A map that gradients are compared with, (B, C, H, W), and which gradient belongs beside it.

    all        the sum of all logits: for the score of all images (appendix B.5)
    label      the label's logit: for the score of a class. The paper takes the predicted class's, which is the same
               where a net is right
    log-odds   the log-odds of the label, along which grad log p(y | x) lies: for the Bayes-optimal classifier's
    """

    map: torch.Tensor
    gradient: str

    def __post_init__(self):
        known("gradient", self.gradient, ("all", "label", "log-odds"))


def reference_gradient(model, x, y, kind, *, batch=250):
    """The input gradient that a reference asks for, (B, C, H, W)."""
    def one(x, y):
        if kind == "log-odds":
            return scores.log_odds_score(model, x, y)
        return logit_gradient(model, x, y if kind == "label" else None)

    return torch.cat([one(*part) for part in zip(x.split(batch), y.split(batch))])


def likeness_measures(net, model, layers, device="cpu"):
    """How alike two maps are, in several ways: {name: (gradient, reference) -> (B,)}.

    LPIPS with `net` comes first; then the cosine and the deep features of `model`, a net of ours, under their own
    names.
    """
    lpips, own = perceptual.load_lpips(net, device), perceptual.feature_distance(model, layers)
    return {"1 − LPIPS": lambda a, b: perceptual.alignment(a, b, lpips), "cosine": perceptual.cosine,
            "1 − deep-feature distance": lambda a, b: perceptual.alignment(a, b, own)}


def measure_family(run, profile, x, y, *, judged, bases, radii, radius, draws, references, alike, mask=None,
                   attack=None, generator=None, progress=False):
    """Measure every net of a run at images x (B, C, H, W) with labels y (B,): a data frame, a row a net, from the
    weakest.

    judged       images (Images) of the accuracy.
    bases        {name: tangent spaces at x}. Of the first, "on @ r" and "off @ r" for each of `radii`
                 (`manifold.sensitivity`, with `draws`) and "rho_2" (`manifold.rho_on` of the log-odds' gradient); of
                 others, "on @ radius, <name>" and so on. {} where none are known: these columns are then left out.
    references   {name: Reference}; alike: {name: measure} as of `likeness_measures`. A column "<measure>, <name>"
                 for each pair.
    mask         pixels that broadcast with x: "on mask" is the share of the log-odds' squared gradient there.
    attack       arguments of robust_accuracy for "robust accuracy" at x.

    Values are means over images. Those without a gradient are left out, and counted as "zero gradients".
    """
    import pandas as pd
    from tqdm import tqdm

    over = family_axes(run, profile)
    strength, rows = next(iter(over)), []
    members = [dict(zip(over, values)) for values in itertools.product(*over.values())]
    for member in tqdm(members, desc=run, unit="net", disable=not progress):
        model = load_net(run, profile, folded=True, device=x.device, **member)
        row = {"run": run, "strength": float(member[strength]), "seed": member.get("seed", 0),
               "accuracy": accuracy(model, judged.unit, judged.y)}
        found = {kind: reference_gradient(model, x, y, kind)
                 for kind in {"log-odds", *(reference.gradient for reference in references.values())}}
        row["zero gradients"] = int((~torch.stack([g.flatten(1).any(1) for g in found.values()]).all(0)).sum())
        for i, (name, basis) in enumerate(bases.items()):
            label, lengths = (f", {name}", [radius]) if i else ("", radii)
            on, off = manifold.sensitivity(model, x, basis, radii=lengths, draws=draws, generator=generator)
            for j, length in enumerate(lengths):
                row |= {f"on @ {length:g}{label}": on[:, j].mean().item(),
                        f"off @ {length:g}{label}": off[:, j].mean().item()}
            row[f"rho_2{label}"] = manifold.rho_on(found["log-odds"], basis).nanmean().item()
        if mask is not None:
            row["on mask"] = gradient_share(found["log-odds"], mask).nanmean().item()
        for name, reference in references.items():
            row |= {f"{measure}, {name}": f(found[reference.gradient], reference.map).nanmean().item()
                    for measure, f in alike.items()}
        if attack:
            row["robust accuracy"] = robust_accuracy(model, x, y, **attack)
        rows.append(row)
    return pd.DataFrame(rows)


def gradient_share(gradient, mask):
    """Share of each squared gradient (B, C, H, W) on the pixels of a mask that broadcasts with it: (B,), NaN where the
    gradient is zero."""
    square = perceptual.max_normalised(gradient).square()
    return (square * mask).flatten(1).sum(1) / square.flatten(1).sum(1)


# What the frames say

def seed_band(frame, column):
    """A column over strength: strengths, means over seeds, and (least, greatest)."""
    groups = frame.groupby("strength")[column]
    return groups.mean().index.to_numpy(), groups.mean().to_numpy(), (groups.min().to_numpy(), groups.max().to_numpy())


def at_strength(frame, strength, column):
    """A column's values at one strength, a seed each."""
    return frame[frame.strength == strength][column].tolist()


def rank_correlation(frame, a, b):
    """Rank correlation of two columns over objectives and strengths, and its 95 % interval: (value, low, high).

    Seeds are averaged first, as they are not independent nets. Strengths at which either is NaN are left out.
    """
    cells = frame.groupby(["objective", "strength"], sort=False)[[a, b]].mean().dropna()
    a, b = torch.tensor(cells[a].to_numpy()), torch.tensor(cells[b].to_numpy())
    return spearman(a, b).item(), *bootstrap(a, b, statistic=lambda a, b: spearman(a, b).nan_to_num(0.0))


def strength_trend(frame, a, b="strength"):
    """Rank correlation of a column with the strength, or with another column, within each objective: {objective:
    value}."""
    return {name: spearman(torch.tensor(g[b].to_numpy()), torch.tensor(g[a].to_numpy())).item()
            for name, g in frame.groupby("objective", sort=False)}


def family_regimes(frame, radius):
    """The regimes of a family's frame by `manifold.regimes`, at a radius, of the means over seeds: {strength:
    regime}."""
    means = frame.groupby("strength").mean(numeric_only=True)
    return dict(zip(means.index, manifold.regimes(list(means[f"on @ {radius:g}"]), list(means[f"off @ {radius:g}"]))))


def regime_starts(regimes):
    """The least strength of each regime, in their order: {regime: strength}."""
    return {regime: min(s for s, r in regimes.items() if r == regime) for regime in dict.fromkeys(regimes.values())}
