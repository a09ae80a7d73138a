"""An exponential moving average of a net's weights: as accurate as a lower learning rate, at hardly any cost."""

from contextlib import contextmanager

import torch


class WeightAverage:
    """The average of a net's weights and batch-norm statistics over the steps of a training (Polyak & Juditsky 1992).

    decay   of the average: it remembers about 1 / (1 - decay) steps, at the beginning a tenth of those taken.
    state   {name: tensor}, what is kept of it on disk.
    """

    def __init__(self, model, decay):
        self.model, self.decay = model, decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    def load(self, state):
        for key, value in state.items():
            self.state[key].copy_(value)

    @torch.no_grad()
    def update(self, step):
        """Take in the weights after step number `step`, from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, weight)
            else:
                self.state[key].copy_(value)

    @contextmanager
    def in_place(self):
        """The model with its average weights for a while."""
        own = {key: value.clone() for key, value in self.model.state_dict().items()}
        try:
            self._set(self.state)
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, state):
        for key, value in self.model.state_dict().items():
            value.copy_(state[key])
