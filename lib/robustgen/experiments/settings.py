"""Settings of a notebook: params/<profile>/<notebook>.yaml, checked before anything runs."""

import importlib

from ..utils.arguments import known
from ..utils.fields import checked_settings
from ..utils.parameters import cell_parameters
from ..utils.profiles import read_sections, settings_file

NOTEBOOKS = ("spectral_mnist", "pgdd_imagenet", "gradresnet_cifar", "off_manifold_lpips", "jeat", "he_pgd")


def load_settings(profile, section, /, **overrides):
    """Settings of a notebook, from `params/<profile>/<section>.yaml`, with `overrides` on top.

    Returns a frozen dataclass. Raises ValueError, in one sentence, for an unknown profile, section or
    key (with the nearest right name), a wrong type, or a value out of range.
    """
    kind, source = _kind(section), settings_file(profile, section)
    return checked_settings(kind, read_sections(source) | overrides, source)


def _kind(section):
    """The class of a notebook's settings."""
    return importlib.import_module(f".{known('notebook', section, NOTEBOOKS)}", __package__).Settings


def notebook_settings(section):
    """Profile and settings of the running notebook: `profile`, and any key of the settings, as its parameters cells
    assign them (`utils.parameters`). Raises ValueError, in one sentence, for what would be wrong or ignored."""
    given = cell_parameters(_kind(section).__dataclass_fields__)
    profile = given.pop("profile")
    return profile, load_settings(profile, section, **given)
