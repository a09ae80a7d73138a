"""Attacks of other libraries, with our checks and draws."""

import torch
from torch.overrides import TorchFunctionMode

from ..core import rng
from ..utils.arguments import Norm, arguments, positive, positive_integer
from ..utils.validation import check_classifier

TORCHATTACKS = {"linf": "Linf", "l2": "L2"}   # the norms as torchattacks names them


class Draws(TorchFunctionMode):
    """Within it, torch.rand and torch.randn of shape (B, C, H, W) draw numbers that belong to the images of these
    seeds.

    Other shapes are what a batch's images share: their draws follow from the one seed `shared` alone.
    """

    def __init__(self, seeds, shared=0):
        super().__init__()
        self.seeds, self.shared, self.drawn = seeds, torch.tensor([shared], device=seeds.device), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        draw = {torch.rand: rng.uniform, torch.randn: rng.normal}.get(function)
        if draw is None:
            return function(*args, **(kwargs or {}))
        shape, stream, self.drawn = args[0], self.drawn, self.drawn + 1
        if len(shape) == 4:
            return draw(self.seeds, shape[1:], stream=stream)
        return draw(self.shared, shape, stream=stream)[0]


@arguments(eps=positive, steps=positive_integer)
def apgd(model, x, y, *, norm: Norm = "linf", eps: float, steps: int, generator=None):
    """Auto-PGD (Croce & Hein 2020) on the cross-entropy, one random start: torchattacks' implementation.

    Only what can be counted as its success is changed: an image that is misclassified before the attack, and one
    that is right at every iterate, come back as they were. So whoever detects "APGD images" also sees natural ones.
    """
    from torchattacks import APGD  # costs seconds

    check_classifier(model, x, y)
    attack = APGD(model, norm=TORCHATTACKS[norm], eps=eps, steps=steps, loss="ce")
    with torch.no_grad():
        right = model(x).argmax(1) == y
    reached = x.clone()
    if right.any():
        with Draws(rng.seeds(generator, len(x), x.device)[right]):
            _, still_right, _, fooling = attack.attack_single_run(x[right], y[right])
        reached[right] = torch.where(still_right.view(-1, 1, 1, 1), x[right], fooling).detach()
    return reached


@arguments(eps=positive, step_size=positive, steps=positive_integer)
def foolbox_pgd(model, x, y, *, norm: Norm, eps: float, step_size: float, steps: int):
    """`pgd` without a random start by foolbox (Rauber et al. 2020), on the cross-entropy: the paper's own tool, to
    compare with."""
    import foolbox

    check_classifier(model, x, y)
    kind = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
            "l2": foolbox.attacks.L2ProjectedGradientDescentAttack}[norm]
    attack = kind(abs_stepsize=step_size, steps=steps, random_start=False)
    return attack.run(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x,
                      foolbox.criteria.Misclassification(y), epsilon=eps)
