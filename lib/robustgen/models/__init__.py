"""Architectures, and how a trained net is kept and run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "builders", "checkpoints", "denoisers", "inference", "layers", "resnets", "wrappers"])
