"""Numbers about sets of images, and statistics of numbers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "frechet", "labels", "perceptual", "similarity", "statistics"])
