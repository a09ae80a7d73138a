"""robustgen: why can a classifier that was only trained to be robust also generate?

What most users need is here, as `rg.pgd` or `rg.load_net` after `import robustgen as rg`; the rest is in the packages,
such as `rg.probes.manifold.rho_off`. Everything is imported when it is first used. The names are listed in
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
