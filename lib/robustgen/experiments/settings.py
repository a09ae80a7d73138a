"""Settings of a notebook: params/<profile>/<notebook>.yaml, checked before anything runs."""

import importlib

from ..utils.arguments import known
from ..utils.fields import checked_settings
from ..utils.profiles import read_sections, settings_file

NOTEBOOKS = ("spectral_mnist", "pgdd_imagenet", "gradresnet_cifar", "off_manifold_lpips", "jeat", "he_pgd")


def load_settings(profile, section, /, **overrides):
    """Settings of a notebook, from `params/<profile>/<section>.yaml`, with `overrides` on top.

    Returns a frozen dataclass. Raises ValueError, in one sentence, for an unknown profile, section or
    key (with the nearest right name), a wrong type, or a value out of range.
    """
    section = known("notebook", section, NOTEBOOKS)
    source = settings_file(profile, section)
    return checked_settings(importlib.import_module(f".{section}", __package__).Settings,
                            read_sections(source) | overrides,
                        source)


def notebook_settings(section):
    """Profile and settings of the running notebook.

    Its parameters cell and the one that papermill adds begin with `# Parameters` and assign plain names: `profile`, and
    any key of the notebook's settings. The last one run of each kind is run again on its own, as parameters cannot be
    told from a notebook's other variables afterwards.
    """
    from IPython import get_ipython

    last = {}
    for source in get_ipython().user_ns["In"]:
        if source.startswith("# Parameters"):
            last[source.startswith("# Parameters\n")] = source   # papermill's first line has nothing else
    given = {}
    for papermills in (False, True):
        exec(last.get(papermills, ""), {}, given)
    profile = given.pop("profile")
    return profile, load_settings(profile, section, **given)
