"""What is kept of images on their way: classes, confidences, gradient norms; when they settle, and how often two
agree."""

from dataclasses import dataclass, fields

import torch

from ..core.images import single


@dataclass(frozen=True)
class Trajectories:
    """What PGDD met on its way, for B trajectories of at most T steps.

    images           (B, C, H, W), the last ones.
    classes          (B, T + 1) most likely class at each iterate, x0 first. A trajectory that ends early keeps its last
                     entry.
    confidences      (B, T + 1) its softmax probability.
    gradient_norms   (B, T) l2 norms; NaN after the end.
    evaluations      (B,) gradients taken, each smoothing draw counted.
    iterates         {t: (B, C, H, W)} of the iterations asked for with `record`.
    """

    images: torch.Tensor
    classes: torch.Tensor
    confidences: torch.Tensor
    gradient_norms: torch.Tensor
    evaluations: torch.Tensor
    iterates: dict

    def settled(self, confidence=0.9):
        """(B,) the iteration from which on the class stays the same and its confidence at least `confidence`; T + 1 if
        there is none."""
        good = (self.classes == self.classes[:, -1:]) & (self.confidences >= confidence)
        return good.shape[1] - good.flip(1).long().cumprod(1).sum(1)   # less the length of the last unbroken run

    def converged(self, confidence=0.9, hold=5):
        """(B,) whether class and confidence have held for the last `hold` steps."""
        return self.settled(confidence) <= self.classes.shape[1] - 1 - hold

    def stationary(self, tolerance=0.02, patience=3):
        """(B,) the step after which class has stayed and confidence moved by at most `tolerance` for `patience` steps;
        T where that never was.

        It is where a trajectory could have been ended by what is seen up to there.
        """
        still = (self.classes.diff(dim=1) == 0) & (self.confidences.diff(dim=1).abs() <= tolerance)   # (B, T)
        runs = still.unfold(1, patience, 1).all(2)
        return torch.where(runs.any(1), runs.long().argmax(1) + patience, still.shape[1])


def join_trajectories(parts):
    """Trajectories of several batches as one."""
    tensors = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Trajectories)
               if field.name != "iterates"}
    return Trajectories(**tensors,
                        iterates={t: torch.cat([part.iterates[t] for part in parts]) for t in parts[0].iterates})


class Trace:
    """Collects what is kept of a batch on its way; what an early end leaves open is filled with the last entry."""

    def __init__(self, x0, steps, record):
        self.classes = torch.full((len(x0), steps + 1), -1, device=x0.device)
        self.confidences = torch.zeros(len(x0), steps + 1, device=x0.device)
        self.norms = single(x0[:0]).new_full((len(x0), steps), torch.nan)
        self.record, self.iterates = record, {0: x0} if 0 in record else {}

    def seen(self, t, logits, rows=slice(None), *, norms):
        """Keep what iteration t knows of its images: their classes, and the norms of their gradients."""
        self.norms[rows, t] = norms
        self.confidences[rows, t], self.classes[rows, t] = _top(logits)

    def still(self, t, rows, tolerance):
        """Whether class and confidence are those of the iteration before."""
        # at t = 0 that is the last one, which holds no class yet
        same = self.classes[rows, t] == self.classes[rows, t - 1]
        return same & ((self.confidences[rows, t] - self.confidences[rows, t - 1]).abs() <= tolerance)

    def keep(self, t, x):
        if t in self.record:
            self.iterates[t] = x.detach()

    def whole(self, x, logits, evaluations):
        """Trajectories that end in images x with these logits."""
        confidence, label = _top(logits)
        ended = self.classes < 0
        return Trajectories(x, torch.where(ended, label[:, None], self.classes),
                            torch.where(ended, confidence[:, None], self.confidences),
                            self.norms, evaluations, {t: self.iterates.get(t, x) for t in self.record})


def _top(logits):
    """Confidence and class of the most likely class."""
    return logits.float().softmax(1).max(1)
