"""Products with a net's Jacobian, and what Krylov spaces say of its spectrum."""

import torch

from ..core.images import double
from ..utils.arguments import validated
from ..utils.validation import check_classifier

BLOCK = 256   # images of one forward and reverse pass


@validated()
def logit_jacobian(model, x):
    """J at each image: (B, K, P) from images (B, C, H, W), by K backward passes through one graph."""
    x, _ = check_classifier(model, x)
    return unchecked_jacobian(model, x)


def unchecked_jacobian(model, x):
    x = x.detach().requires_grad_()
    return jacobian_rows(model(x), x)


def jacobian_rows(h, x):
    """The Jacobian (B, m, P) of outputs h (B, m), with their graph, by images x: a backward pass for each of the m."""
    last = h.shape[1] - 1
    return torch.stack([torch.autograd.grad(h[:, k].sum(), x, retain_graph=k < last)[0].flatten(1)
                        for k in range(last + 1)], 1)


@torch.no_grad()   # no graph to the weights; the images' derivatives are taken by torch.func
def gram_matvec(model, x, v):
    """J'Jv without forming J: forward mode for Jv, reverse mode for J'(Jv).

    x  (B, C, H, W) images; v  the same shape, a direction for each image. Returns the same shape.
    """
    logits, pull = torch.func.vjp(model, x)
    _, jv = torch.func.jvp(model, (x,), (v,))
    return pull(jv)[0]


def krylov(matvec, v, steps, *, progress=False):
    """Lanczos' basis of the space that v, A v, ..., A^(steps - 1) v span, for a symmetric A of each image, fully
    re-orthogonalised.

    matvec   (B, C, H, W) -> the same shape, image by image. v  where it starts.

    Returns Q (B, steps, P), orthonormal rows, and the tridiagonal T (B, steps + 1, steps), both float64: A Q' = [Q; q]'
    T with one further direction q. The eigenvalues of T without its last row approach those of A from the ends of the
    spectrum. Where the space has fewer dimensions, as that of a J'J of low rank, the rest of Q and T is zero.
    """
    from tqdm import tqdm

    shape, like = v.shape, v
    v = double(v.flatten(1))
    beta = v.norm(dim=1)
    basis, t = v.new_empty(len(v), steps, v.shape[1]), v.new_zeros(len(v), steps + 1, steps)
    for i in tqdm(range(steps), desc="Lanczos", disable=not progress):
        # what is left of an exhausted space is rounding, which need not be orthogonal to it
        left = beta > 1e-13 * t.flatten(1).abs().amax(1)
        basis[:, i] = torch.where(left[:, None], v / beta.clamp_min(1e-300)[:, None], 0)
        v = double(matvec(basis[:, i].to(like).view(shape)).flatten(1))
        t[:, i, i] = (basis[:, i] * v).sum(1)
        span = basis[:, :i + 1]
        for _ in range(2):   # once leaves float32 residues of the large eigenvectors
            v = v - (span.mT @ (span @ v[:, :, None]))[:, :, 0]
        t[:, i + 1, i] = beta = torch.where(left, v.norm(dim=1), 0)
        if i + 1 < steps:
            t[:, i, i + 1] = beta
    return basis, t
