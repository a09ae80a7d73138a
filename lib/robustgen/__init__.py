"""robustgen: why can a classifier that was only trained to be robust also generate?

Modules are imported when first used: `import robustgen as rg`, then `rg.attacks.pgd(...)`.
"""

import importlib

__all__ = ["ascent", "attacks", "augment", "autoattack", "autodiff", "bayes", "checks", "cifar100", "classification", "config", "data", "defences",
           "denoisers", "denoising", "detect", "distractor", "edm", "energy", "fields", "fisher", "folding", "generate", "gradients", "gram", "hub", "hybrid",
           "imagenet", "imagenette", "inception", "jem", "job", "landscape", "langevin", "layers", "manifold", "models", "objectives", "paths", "perceptual",
           "plots", "progressive", "quality", "report", "resnets", "risk", "rng", "sampling", "scores", "settings", "shapes", "shaping", "sources",
           "spectral", "survey", "train", "trajectories", "unpickle", "vision", "zoo"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'robustgen' has no attribute {name!r}")


def __dir__():
    return __all__
