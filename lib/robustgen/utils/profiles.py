"""Profiles: folders of params/, of which params.yaml chooses those that run."""

import re

import yaml

from . import paths
from .arguments import known


def read_sections(source):
    """The entries of a settings file; those whose names begin with _ are only there for others to build on."""
    return {name: entry for name, entry in read_yaml(source).items() if not name.startswith("_")}


def profile_names():
    """Names of the profiles.

    Raises FileNotFoundError, which says what to do, where the library is installed without its repository.
    """
    if not paths.PARAMS.is_dir():
        raise FileNotFoundError("robustgen's commands, profiles and trained nets need a clone of the repository, with "
                                f"its params/ and dvc.yaml; {paths.ROOT} is none. Clone it, and run `make env` there.")
    return sorted(p.name for p in paths.PARAMS.iterdir() if p.is_dir())


def chosen_profiles():
    """The profiles that `dvc repro` runs: the switch in `params.yaml`."""
    names, switch = profile_names(), paths.ROOT / "params.yaml"
    return [known("profile", name, names, "params.yaml: ") for name in read_yaml(switch)["profiles"]]


def chosen_profile():
    """The first of them."""
    return chosen_profiles()[0]


def select_profile(profile):
    """Make `profile` the one that `dvc repro` runs: the switch in `params.yaml`."""
    profile = known("profile", profile, profile_names())
    switch = paths.ROOT / "params.yaml"
    text = switch.read_text()
    chosen = re.sub(r"(?m)^profiles:.*$", f"profiles: [{profile}]", text)
    if chosen != text:
        paths.write_text(switch, chosen)
    return profile


def settings_file(profile, section):
    return paths.PARAMS / known("profile", profile, profile_names()) / f"{section}.yaml"


def read_yaml(source):
    # libyaml's loader reads the same ten times faster
    return yaml.load(source.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
