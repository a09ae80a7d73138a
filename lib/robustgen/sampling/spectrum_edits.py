"""The Gram operator J'J in PGDD: how far eqs. 7 to 9 hold, and what becomes of generation when its spectrum is edited.

PGDD's gradient is 2 J'd, d = r(x) - r(x0 + e). With the eigenvalues L and vectors V of J'J it is -2 V L c: L weighs the
coordinates c of the displacement that explains d. An edit puts other weights L' in its place and leaves the net, V and
c as they are; so what changes is due to the spectrum. Directions outside V, which J'J removes altogether, may be given
a weight too.
"""

import torch

from ..core.images import double
from ..probes.jacobian import jacobian_rows
from ..utils.arguments import non_negative, positive_integer, validated


def edited_gradient(h, x, noisy, reference, edit):
    """PGDD's gradient with the eigenvalues of J'J replaced: (B, C, H, W).

    h           features of x, with their graph: J takes a backward pass for each of the m features.
    noisy, reference   x0 + e and its features.
    edit        eigenvalues (B, m), from the largest -> (those in their place (B, m), weight of all other directions
                (B,) or 0).
    """
    h = h.flatten(1)
    jacobian = double(jacobian_rows(h, x))
    if not torch.isfinite(jacobian).all():
        return torch.full_like(x, torch.nan)   # whoever takes the step says where
    eigenvalues, u = torch.linalg.eigh(jacobian @ jacobian.mT)   # those of J'J that are not zero
    eigenvalues, u = eigenvalues.flip(1).clamp_min(0), u.flip(2)
    new, others = edit(eigenvalues)
    held = eigenvalues > 1e-10 * eigenvalues[:, :1]
    inverse = torch.where(held, 1 / eigenvalues.where(held, 1), 0)
    d = double(h.detach() - reference.flatten(1))

    def spread(weights, v):   # J' U diag(weights) U' v
        return (jacobian.mT @ (u @ (weights[..., None] * (u.mT @ v[..., None]))))[..., 0]

    gradient = 2 * spread(new * inverse, d)
    e = double((noisy - x.detach()).flatten(1))
    others = torch.as_tensor(others, dtype=e.dtype, device=e.device)
    if (others != 0).any():
        outside = e - spread(inverse, (jacobian @ e[..., None])[..., 0])
        gradient = gradient - 2 * others.view(-1, 1) * outside
    return gradient.to(x).view_as(x)


# Edits of the spectrum. Steps have a fixed length, so its scale is of no account.

@validated(k=positive_integer)
def truncated(k: int):
    """Only the k largest eigenvalues."""
    return lambda eigenvalues: (torch.cat([eigenvalues[:, :k], torch.zeros_like(eigenvalues[:, k:])], 1), 0)


@validated(p=non_negative)
def powered(p: float):
    """Every eigenvalue to the power p: 1 changes nothing, 0 is flat, above 1 is steeper."""
    # 0 ** 0 would be 1 only here and there
    return lambda eigenvalues: (eigenvalues.clamp_min(1e-10 * eigenvalues[:, :1]) ** p, 0)


@validated(share=non_negative)
def floored(share: float):
    """`share` of the largest eigenvalue for all directions of pixel space: the tail that low rank takes away,
    restored."""
    return lambda eigenvalues: (eigenvalues + share * eigenvalues[:, :1], share * eigenvalues[:, 0])


def replaced(spectrum):
    """The shape of another spectrum, (m,) from the largest, such as the mean one of another net."""
    shape = double(torch.as_tensor(spectrum))
    shape = shape / shape[0]

    def edit(eigenvalues):
        if len(shape) != eigenvalues.shape[1]:
            raise ValueError(f"the spectrum has {len(shape)} eigenvalues, and J'J of this layer "
                             f"{eigenvalues.shape[1]}; take one of a layer of the same size")
        return eigenvalues[:, :1] * shape.to(eigenvalues.device), 0
    return edit
