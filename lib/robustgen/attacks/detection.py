"""Telling attacked images from natural ones by a scalar of their logits: the energy, or another score."""

import math
from collections.abc import Callable
from typing import Literal

import torch

from ..core.energy import marginal_energy
from ..utils.arguments import validated
from ..utils.validation import check_logits


def max_softmax(logits):
    """The largest softmax probability, (B,): Hendrycks & Gimpel's score (2017), a detector without training, too."""
    return logits.softmax(1).amax(1)


class EnergyDetector:
    """Calls an image attacked if its score is at most `low` or at least `high` (HE-PGD eq. 9: E(x) <= t).

    sides   "low", as in the paper; "high"; "both": two-sided, natural images lie between the thresholds.
    score   logits (B, K) -> (B,); the energy E(x), or another such as `max_softmax`.

        detector = EnergyDetector().fit(natural_logits, attacked_logits)   # on a validation split
        detector(logits)                                                   # (B,) booleans: attacked?
    """

    @validated()
    def __init__(self, *, sides: Literal["low", "high", "both"] = "low", score: Callable = marginal_energy):
        self.sides, self.score = sides, score
        self.low = self.high = None

    def fit(self, natural, attacked):
        """Choose the thresholds that maximise the G-mean sqrt(TPR TNR) on logits (N, K) and (M, K); return the
        detector."""
        n, a = (self._scores(*given) for given in (("natural", natural), ("attacked", attacked)))
        values = torch.cat([n, a]).unique()
        cuts = (values[1:] + values[:-1]) / 2   # between the scores: as far from both neighbours as can be
        if self.sides == "both":
            cuts = cuts[::max(1, math.ceil(len(cuts) / 1000))]   # pairs of thresholds: their number squared
        nothing = cuts.new_full((1,), torch.inf)
        low = torch.cat([-nothing, cuts]) if self.sides != "high" else -nothing
        high = torch.cat([cuts, nothing]) if self.sides != "low" else nothing

        def called_attacked(s):   # share of the sorted scores s, for each pair of thresholds
            at_most, below = torch.searchsorted(s, low, right=True) / len(s), torch.searchsorted(s, high) / len(s)
            return at_most[:, None] + 1 - below

        quality = called_attacked(a) * (1 - called_attacked(n))   # where low >= high all is called attacked: never best
        i, j = torch.unravel_index(quality.argmax(), quality.shape)
        self.low, self.high = low[i].item(), high[j].item()
        return self

    def __call__(self, logits):
        """Whether each image is called attacked: (B,) booleans from logits (B, K)."""
        if self.low is None:
            raise ValueError("the detector has no thresholds yet; call fit(natural, attacked) with logits of a "
                             "validation split first")
        scores = self.score(_checked("given", logits))
        return (scores <= self.low) | (scores >= self.high)

    def rates(self, natural, attacked):
        """Detection rate (TPR), false-positive rate and G-mean on logits that the thresholds have not seen."""
        return detection_rates(self(_checked("natural", natural)), self(_checked("attacked", attacked)))

    def evaded(self, logits, y):
        """Whether each attacked image has got through: misclassified, and not called attacked. (B,) booleans."""
        return (logits.argmax(1) != y) & ~self(logits)

    def roc(self, natural, attacked):
        """False-positive rates, detection rates and the area under the curve, as the one-sided threshold moves through
        all scores.

        An area below 1/2 says that attacked images lie on the other side of the natural ones.
        """
        if self.sides == "both":
            raise ValueError("a two-sided detector has two thresholds, so no single curve; use sides='low' or 'high'")
        from sklearn.metrics import auc, roc_curve

        n, a = (self._scores(*given) for given in (("natural", natural), ("attacked", attacked)))
        scores = torch.cat([n, a]) * (-1 if self.sides == "low" else 1)
        fpr, tpr, _ = roc_curve(torch.arange(len(scores)) >= len(n), scores)
        return fpr, tpr, float(auc(fpr, tpr))

    def _scores(self, kind, logits):
        return self.score(_checked(kind, logits)).cpu().double().sort().values

    def __repr__(self):
        fitted = ("not fitted" if self.low is None
                  else f"natural: {self.low:.4g} < {self.score.__name__} < {self.high:.4g}")
        return f"EnergyDetector(sides={self.sides!r}, {fitted})"


def detection_rates(natural, attacked):
    """Detection rate (TPR), false-positive rate and G-mean of an answer: booleans (N,), (M,), called attacked or
    not."""
    fpr, tpr = (answer.cpu().double().mean().item() for answer in (natural, attacked))
    return {"DR": tpr, "FPR": fpr, "G-mean": (tpr * (1 - fpr)) ** 0.5}


def cross_fitted(natural, attacked, **settings):
    """Whether each image is called attacked by a detector fitted on the other half of them: booleans (N,), (M,).

    What a detector that knows the attack could do, without images of its own; the halves are every other image.
    settings   of EnergyDetector.
    """
    answers = torch.empty(len(natural), dtype=torch.bool), torch.empty(len(attacked), dtype=torch.bool)
    for half in (0, 1):
        detector = EnergyDetector(**settings).fit(natural[half::2], attacked[half::2])
        for answer, logits in zip(answers, (natural, attacked)):
            answer[1 - half::2] = detector(logits[1 - half::2]).cpu()
    return answers


def _checked(kind, logits):
    """Logits (B, K), or a sentence on why they are none."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ValueError(f"the detector takes logits of shape (B, K); the {kind} ones have shape "
                         f"{tuple(getattr(logits, 'shape', ()))}")
    if not len(logits):
        raise ValueError(f"there are no {kind} images; a detector needs natural and attacked ones. Make the split "
                         "larger.")
    if not torch.isfinite(logits).all():
        raise ValueError(f"the {kind} logits hold NaN or infinite values. Find where they arise before the call.")
    check_logits(logits)
    return logits
