"""Images out of nets: PGDD, Langevin chains, denoising diffusion."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "chains", "diffusion", "drift", "spectrum_edits", "starts", "trajectories"])
