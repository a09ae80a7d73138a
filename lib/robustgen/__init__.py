"""robustgen: why can a classifier that was only trained to be robust also generate?

What most users need is here, as `rg.pgd` or `rg.load_net` after `import robustgen as rg`; the rest is in the packages,
such as `rg.probes.manifold.rho_off`. Everything is imported when it is first used. The names are listed in
`__init__.pyi`.
"""

import os

import lazy_loader

# OpenMP's idle threads spin for milliseconds, on cores that a second process could use (docs/benchmarks.md). They read
# this when torch is loaded: too late if that is before robustgen, in time for its commands and whatever make starts.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
