"""Trained nets by name, ours and others'."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "edm", "hub", "inception", "pickles", "trained"])
