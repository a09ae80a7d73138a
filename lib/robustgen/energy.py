"""Energies of a classifier: its logits f(x) read as unnormalised log-probabilities (JEM; JEAT eq. 12)."""


def joint_energy(logits, y):
    """E(x, y) = -f_y(x): (B,) from logits (B, K) and labels (B,)."""
    return -logits.gather(1, y[:, None])[:, 0]


def marginal_energy(logits):
    """E(x) = -logsumexp_k f_k(x): (B,) from logits (B, K).

    The cross-entropy of label y is E(x, y) - E(x) (JEAT eq. 13).
    """
    return -logits.logsumexp(1)
