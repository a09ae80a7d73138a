"""Auto-PGD (Croce & Hein 2020, section 3 and algorithm 1): gradient ascent that chooses its step sizes itself.

Step size, momentum and best point are an image's own, so no image depends on its batch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from ..core import ascent, images, rng
from ..utils.arguments import Norm, positive, positive_integer, validated
from ..utils.validation import check_classifier

ALPHA = 0.75   # weight of the gradient's step; that of the move before it is 1 - ALPHA
RHO = 0.75     # share of the steps between two checkpoints that should raise the loss


@validated(eps=positive, steps=positive_integer)
def apgd(model: Callable, x: torch.Tensor, y: torch.Tensor, *, norm: Norm = "linf", eps: float, steps: int,
         generator: torch.Generator | int | torch.Tensor | None = None) -> torch.Tensor:
    """Auto-PGD on the cross-entropy, one random start, drawn from `generator`.

    Only what can be counted as its success is changed: an image that is misclassified before the attack, and one
    that is right at every iterate, come back as they were. So whoever detects "APGD images" also sees natural ones.

    x, y        images (B, C, H, W) in [0, 1], labels (B,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    """
    x, _ = check_classifier(model, x, y)
    seeds = rng.seeds(generator, len(x), x.device)
    with torch.no_grad():
        right = model(x).argmax(1) == y
    reached = x.clone()
    if right.any():
        loss = partial(cross_entropy, reduction="none")
        reached[right] = climb(model, x[right], y[right], loss, norm=norm, eps=eps, steps=steps,
                               seeds=seeds[right]).fooling
    return reached


def climb(model, x, y, loss, *, norm, eps, steps, seeds):
    """Raise `loss`, called as loss(logits, y) -> (B,), within `eps` of each image, from a start drawn by `seeds` (B,).

    Returns a `Climb`: for each image the iterate of the largest loss, `best` and `best_loss`, and the last iterate that
    the model gets wrong, `fooling`; where there is none, `fooled` is False and `fooling` the image itself.
    """
    state = Climb(model, x, y, loss, norm, eps)
    state.visit(0, random_start(norm, x, eps, seeds))
    # as in the authors' code, the loss after the first step is compared with 0, not with that of the start
    state.losses = [torch.zeros_like(state.best_loss)]
    for period in periods(steps):   # the gradient was taken together with the loss, by `visit`
        ascent.ascend(state.x, lambda x: state.gradient, step=state.step, project=state.project, steps=period,
                      callback=state.visit)
        state.check(period)
    return state


class Climb:
    """The state of Auto-PGD: where each image is, and the best that was found for it."""

    def __init__(self, model, x, y, loss, norm, eps):
        self.model, self.y, self.loss, self.norm = model, y, loss, norm
        self.project = ascent.ball(norm, x, eps)
        self.x = self.best = self.fooling = x
        self.gradient = self.best_gradient = torch.zeros_like(x)
        self.before = None                                    # where the last step began
        self.size = x.new_full((len(x), 1, 1, 1), 2 * eps)    # of a step
        self.losses = []                                      # one tensor (B,) a visit
        self.best_loss = self.checked = x.new_full((len(x),), -torch.inf)       # now and at the last checkpoint
        self.fooled = self.halved = torch.zeros_like(y, dtype=torch.bool)       # halved: at the last checkpoint

    def visit(self, t, x):
        """Note loss and gradient at `x`. Called after each step."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(x)
            loss = self.loss(logits, self.y)
            self.gradient, = torch.autograd.grad(loss.sum(), x)
        self.x, loss = x.detach(), loss.detach()
        self.losses.append(loss)
        wrong, better = logits.argmax(1) != self.y, loss > self.best_loss
        self.fooled, self.fooling = self.fooled | wrong, _where(wrong, self.x, self.fooling)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best = _where(better, self.x, self.best)
        self.best_gradient = _where(better, self.gradient, self.best_gradient)

    def step(self, gradient):
        """Up the gradient, into the ball, and then a share of that with a share of the last move."""
        if self.norm == "linf":
            direction = gradient.sign()
        else:   # not `ascent.normalised`: a sure net's cross-entropy has gradients about as small as the 1e-10 there
            direction = gradient / (images.norm(gradient) + 1e-12)
        move = self.project(self.x + self.size * direction) - self.x
        if self.before is not None:
            move = ALPHA * move + (1 - ALPHA) * (self.x - self.before)
        self.before = self.x
        return move

    def check(self, period):
        """A checkpoint: images that gain too little go back to their best point, and go on at half the step size."""
        losses = torch.stack(self.losses[-period - 1:])
        few_rises = (losses[1:] > losses[:-1]).sum(0) <= RHO * period          # condition 1
        no_gain = ~self.halved & (self.best_loss == self.checked)              # condition 2
        self.halved, self.checked = few_rises | no_gain, self.best_loss
        self.size = _where(self.halved, self.size / 2, self.size)
        self.x = _where(self.halved, self.best, self.x)
        self.gradient = _where(self.halved, self.best_gradient, self.gradient)


def _where(mask, yes, no):
    return torch.where(images.wide(mask), yes, no)


def periods(steps):
    """Steps between checkpoints, w_j - w_(j-1): 22 % of all, then 3 % fewer each time, but at least 6 %."""
    period, fewer, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    while steps > 0:
        yield min(period, steps)
        steps -= period
        period = max(period - fewer, least)


def random_start(norm, x, eps, seeds):
    """In a random direction at distance `eps` from each image, clamped to [0, 1]."""
    if norm == "linf":
        direction = 2 * rng.uniform(seeds, x.shape[1:]) - 1
        length = direction.abs().amax((1, 2, 3), keepdim=True)
    else:
        direction = rng.normal(seeds, x.shape[1:])
        length = images.norm(direction) + 1e-12
    return images.moved(x, eps * direction / length)
