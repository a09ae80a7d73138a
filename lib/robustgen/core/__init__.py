"""What attacks, samplers and losses share: random numbers, ascent in pixel space, energies, input gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "ascent", "autodiff", "dynamics", "energy", "images", "rng"])
