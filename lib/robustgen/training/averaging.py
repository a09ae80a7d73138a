"""An exponential moving average of a net's weights: what a lower learning rate would give, at hardly any cost."""

from contextlib import contextmanager

import torch


class WeightAverage:
    """The average of a net's weights and batch-norm statistics over the steps of a training (Polyak & Juditsky 1992).

    decay   of the average: it remembers about 1 / (1 - decay) steps, at the beginning a tenth of those taken.
    state   {name: tensor}, what is kept of it on disk.
    """

    def __init__(self, model, decay):
        self.decay = decay
        self.own = model.state_dict()   # shares the net's memory
        self.state = {key: value.clone() for key, value in self.own.items()}
        self.floats, self.others = ([key for key, value in self.own.items() if value.is_floating_point() == whether]
                                    for whether in (True, False))

    def load(self, state):
        self._copy(state, self.state)

    def update(self, step):
        """Take in the weights after step number `step`, from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self.state[key] for key in self.floats], [self.own[key] for key in self.floats], weight)
        for key in self.others:
            self.state[key].copy_(self.own[key])

    @contextmanager
    def in_place(self):
        """The net with its average weights for a while."""
        kept = {key: value.clone() for key, value in self.own.items()}
        try:
            self._copy(self.state, self.own)
            yield
        finally:
            self._copy(kept, self.own)

    @staticmethod
    def _copy(source, target):
        for key, value in source.items():
            target[key].copy_(value)
