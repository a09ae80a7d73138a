"""Profiles: folders of params/, of which params.yaml chooses those that run."""

import re

import yaml

from . import paths
from .arguments import known


def read_sections(source):
    """The entries of a settings file; those whose names begin with _ are only there for others to build on."""
    return {name: entry for name, entry in read_yaml(source).items() if not name.startswith("_")}


def profile_names():
    """Names of the profiles."""
    return sorted(p.name for p in paths.PARAMS.iterdir() if p.is_dir())


def chosen_profiles():
    """The profiles that `dvc repro` runs: the switch in `params.yaml`."""
    return read_yaml(paths.ROOT / "params.yaml")["profiles"]


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
