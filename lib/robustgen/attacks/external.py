"""Attacks of other libraries, with our checks."""

from torch import nn

from ..models.inference import evaluating
from ..utils.arguments import Norm, positive, positive_integer, validated
from ..utils.validation import check_classifier


@validated(eps=positive, step_size=positive, steps=positive_integer)
def foolbox_pgd(model, x, y, *, norm: Norm, eps: float, step_size: float, steps: int):
    """`pgd` without a random start by foolbox (Rauber et al. 2020), on the cross-entropy: the paper's own tool, to
    compare with."""
    import foolbox

    x, _ = check_classifier(model, x, y)
    kind = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
            "l2": foolbox.attacks.L2ProjectedGradientDescentAttack}[norm]
    attack = kind(abs_stepsize=step_size, steps=steps, random_start=False)
    net = model if isinstance(model, nn.Module) else _Function(model)
    with evaluating(net):   # its backward passes would leave the weights gradients
        return attack.run(foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device), x,
                          foolbox.criteria.Misclassification(y), epsilon=eps)


class _Function(nn.Module):
    """A function as a module, as foolbox takes no other."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
