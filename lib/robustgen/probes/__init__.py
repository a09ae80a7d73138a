"""What a net does at an image: spectra, gradients, tangent spaces, scores, energies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "bayes_optimal", "excess_risk", "fisher", "gradients", "jacobian", "landscape", "manifold", "scores",
    "spectral"])
