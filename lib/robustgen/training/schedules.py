"""Learning rates over the course of a training, and the optimisers by name."""

import math

import torch


def linear(t, *, warmup):
    """Up over a share `warmup` of the steps, then down to a hundredth or so."""
    _check_share(warmup)
    return t / warmup if t < warmup else (1.01 - t) / (1.01 - warmup)


def half_cosine(t, *, warmup=0.0):
    """Up over a share `warmup` of the steps, then down to zero along half a cosine (Loshchilov & Hutter 2017)."""
    _check_share(warmup)
    return t / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / (1 - warmup)))


def _check_share(warmup):
    if not 0 <= warmup < 1:
        raise ValueError(f"'warmup' is {warmup}: it should be a share of the training, from 0 up, below 1")


def step(t, *, at, factor):
    """Times `factor` after each share of the steps in `at`."""
    if not all(0 < share < 1 for share in at):
        raise ValueError(f"'at' is {at}: they should be shares of the training, between 0 and 1")
    return factor ** sum(t > share for share in at)


# Share of the peak learning rate after a share t of the steps, the last step's being 1.
SCHEDULES = {"constant": lambda t: 1.0, "linear": linear, "cosine": half_cosine, "step": step}
OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW")}
