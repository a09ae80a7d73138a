"""Energies of a classifier: its logits f(x) read as unnormalised log-probabilities (JEM; JEAT eq. 12)."""

import torch


def joint_energy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """E(x, y) = -f_y(x): (B,) from logits (B, K) and labels (B,)."""
    return -logits.gather(1, y[:, None])[:, 0]


def marginal_energy(logits: torch.Tensor) -> torch.Tensor:
    """E(x) = -logsumexp_k f_k(x): (B,) from logits (B, K).

    The cross-entropy of label y is E(x, y) - E(x) (JEAT eq. 13).
    """
    return -logits.logsumexp(1)


def log_odds(logits, y):
    """log p(not y | x) - log p(y | x), (B,): the cross-entropy is its softplus.

    So its gradient is that of the cross-entropy up to a positive factor an image, which signed and normalised
    steps do not see. That factor, p(not y | x), is small where the net is sure: float32 then rounds the
    cross-entropy's gradient, at last to zero, and an attack that follows it fails for no merit of the net.
    """
    others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
    return others - logits.gather(1, y[:, None])[:, 0]
