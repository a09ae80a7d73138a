"""Datasets as resident tensors, and their augmentation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "augment", "cifar100", "datasets", "distractor", "imagenet", "imagenette", "shapes"])
