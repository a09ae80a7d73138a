"""Settings of a notebook: params/<profile>/<notebook>.yaml, checked before anything runs."""

import ast
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

    Any key of its settings may be set in the parameters cell or with papermill's `-p`. Both cells begin
    with `# Parameters`; the last one run of each kind counts.
    """
    from IPython import get_ipython

    cells = {}
    for source in get_ipython().user_ns["In"]:
        if source.startswith("# Parameters"):
            cells[source.partition("\n")[0]] = source
    given = {}
    for source in sorted(cells.values(), key=lambda s: s.startswith("# Parameters\n")):   # papermill's is last
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign):
                given |= {target.id: ast.literal_eval(node.value) for target in node.targets}
    profile = given.pop("profile")
    return profile, load_settings(profile, section, **given)
