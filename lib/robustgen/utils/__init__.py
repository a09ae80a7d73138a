"""Files, input validation and arguments. Nothing here shapes a number."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "arguments", "download", "fields", "locks", "mirrors", "parameters", "paths", "profiles", "sources",
    "torchvision_import", "validation"])
