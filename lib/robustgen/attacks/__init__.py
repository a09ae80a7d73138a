"""Images near given ones that a net gets wrong, and detectors of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "auto_pgd", "detection", "ensemble", "evaluation", "external", "gradient_based", "smoothing", "square"])
