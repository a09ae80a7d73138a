"""Profiles: folders of params/, of which params.yaml chooses those that run."""

import re
import textwrap

import yaml

from . import paths
from .arguments import known, shortly

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)   # libyaml's reads the same ten times faster


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
    names, chosen = profile_names(), read_yaml(paths.ROOT / "params.yaml").get("profiles")
    if not isinstance(chosen, list) or not chosen:
        raise ValueError(f"params.yaml: 'profiles' is {shortly(chosen)}: it should be a list, such as [laptop]")
    return [known("profile", name, names, "params.yaml: ") for name in chosen]


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
    """A settings file as a dict; what is wrong with it is one sentence."""
    where = paths.shown(source)
    try:
        content = yaml.load(source.read_text(encoding="utf-8"), LOADER)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} is missing; git restore {where} brings back that of the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"{where} is no YAML ({reason}); correct it there") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} should hold settings, a line `name: value` each, and is {shortly(content)}")
    return content
