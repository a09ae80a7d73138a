"""A module a notebook, with its settings and measurements; records, figures, the report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "compare", "gradresnet_cifar", "he_pgd", "jeat", "off_manifold_lpips", "pgdd_imagenet", "plots", "record", "report",
    "settings", "spectral_mnist"])
