"""Settings: one YAML file per profile and notebook, checked before anything runs.

`params/<profile>/train.yaml` has a section per training run, `params/<profile>/<notebook>.yaml` is flat.
No setting has a default in code: a profile says everything. A wrong key, type or range is one sentence
that names the file and the key.
"""

import ast
import difflib
import functools
import inspect
import re
from dataclasses import replace
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass

from . import paths

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Several = Annotated[list, Field(min_length=1)]
settings = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))


@settings
class Run:
    """One training run: a family of nets that differ in a single setting, named by `over`."""

    data: Literal["mnist", "cifar10"]
    images: Count | None            # training images, drawn once with `seed`; None takes all
    model: dict                     # name and arguments of models.build
    objective: dict                 # name and arguments of objectives.build
    over: dict[str, Several]        # the family: a setting (`seed`, `objective.eps`, ...) and its values
    seed: Index
    epochs: Count
    batch: Count                    # global: shared out over the processes of a distributed run
    lr: Positive
    momentum: Fraction
    weight_decay: NonNegative
    schedule: Literal["constant", "linear"]   # of the learning rate: train.SCHEDULES
    test_images: Count              # held-out images whose accuracy is logged after each epoch
    snapshots: bool                 # keep the weights of every epoch

    def members(self):
        """The nets of the family as {name: its settings}, e.g. {"seed=0": Run(seed=0, ...), ...}."""
        (key, values), = self.over.items()
        group, _, leaf = key.rpartition(".")
        if group:
            return {f"{leaf}={v}": replace(self, **{group: getattr(self, group) | {leaf: v}}) for v in values}
        return {f"{leaf}={v}": replace(self, **{leaf: v}) for v in values}


@settings
class SpectralMnist:
    """Notebook 1."""

    seeds: Annotated[list[Index], Field(min_length=1)]   # of the nets compared in Tables 1 and 2
    images: Count            # test images whose spectra are averaged (paper: 32)
    n_draws: Count           # noise draws an image of the energy ratio (paper: 128)
    sigma: Positive          # standard deviation of that noise (paper: 0.25)
    residual_sigma: Positive # the same for the visual residuals of Figure 1C (paper: 0.35)
    residual_draws: Count    # noise draws whose residuals are classified
    k: Annotated[int, Field(ge=2)]   # leading eigenvalues; tail@k is the last of them (paper: 8)
    attack_images: Count     # test images attacked for Table 2
    eps: Positive            # l2 radius of the attack (paper: 1.5)
    step_size: Positive      # paper: 0.2
    steps: Count             # paper: 20
    phase_images: Count      # test images attacked for each cell of the phase diagram


NOTEBOOKS = {"spectral_mnist": SpectralMnist}


def load(profile, section, /, **overrides):
    """Settings of a notebook, from `params/<profile>/<section>.yaml`, with `overrides` on top.

    Returns a frozen dataclass. Raises ValueError, in one sentence, for an unknown profile, section or
    key (with the nearest right name), a wrong type, or a value out of range.
    """
    section = known("notebook", section, NOTEBOOKS)
    source = _file(profile, section)
    return checked(NOTEBOOKS[section], _read(source) | overrides, source)


def run(profile, name):
    """Settings of a training run, from its section in `params/<profile>/train.yaml`."""
    source = _file(profile, "train")
    sections = _read(source)
    settings = checked(Run, sections[known("run", name, sections)], f"{_shown(source)}, {name}")
    if len(settings.over) != 1:
        raise ValueError(f"{_shown(source)}, {name}: 'over' must name exactly one setting, such as seed: [0, 1, 2]")
    key = next(iter(settings.over))
    group, _, leaf = key.rpartition(".")
    known("setting", leaf, getattr(settings, group, {}) if group else vars(settings), f"{_shown(source)}, {name}, over: ")
    return settings


def runs(profile):
    """Names of a profile's training runs."""
    return list(_read(_file(profile, "train")))


def profiles():
    """Names of the profiles."""
    return sorted(p.name for p in paths.PARAMS.iterdir() if p.is_dir())


def select(profile):
    """Make `profile` the one that `dvc repro` runs: the switch in `params.yaml`."""
    profile = known("profile", profile, profiles())
    switch = paths.ROOT / "params.yaml"
    text = switch.read_text()
    chosen = re.sub(r"(?m)^profiles:.*$", f"profiles: [{profile}]", text)
    if chosen != text:
        paths.write(switch, chosen)
    return profile


def notebook(section):
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
    return profile, load(profile, section, **given)


def known(kind, name, names, where=""):
    """Return `name` if it is one of `names`; else raise a ValueError that offers the nearest."""
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), [str(n) for n in names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise ValueError(f"{where}{kind} {name!r} does not exist{hint} (there are: {', '.join(map(str, names))})")


def checked(make, given, source):
    """Call `make(**given)`; what is wrong with the arguments becomes one sentence that begins with `source`."""
    try:
        return make(**given)
    except ValidationError as error:
        raise ValueError(f"{_shown(source)}: {_sentence(error, make.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{_shown(source)}: {error}") from None


def arguments(function):
    """Decorator: check a function's annotated arguments (type and range) before it runs.

    Raises ValueError in one sentence that names the function and the argument.
    """
    call = validate_call(function, config=ConfigDict(strict=True, arbitrary_types_allowed=True))

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return call(*args, **kwargs)
        except ValidationError as error:
            name = function.__qualname__.removesuffix(".__init__")
            raise ValueError(f"{name}: {_sentence(error, inspect.signature(function).parameters)}") from None
    return wrapper


def _sentence(error, names):
    """The first complaint of a pydantic error as a sentence; `names` are the names that would be right."""
    problem = max(error.errors(), key=lambda e: e["type"] == "unexpected_keyword_argument")   # a misspelt name explains a missing one
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "unexpected_keyword_argument":
        try:
            known("parameter", key, [name for name in names if name not in ("self", "model")])
        except ValueError as unknown:
            return str(unknown)
    if problem["type"].startswith("missing"):
        return f"parameter {key!r} is missing; add it"
    message = problem["msg"].replace("Input should be", "it should be")
    return f"{key!r} is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _file(profile, section):
    return paths.PARAMS / known("profile", profile, profiles()) / f"{section}.yaml"


def _read(source):
    return yaml.safe_load(source.read_text(encoding="utf-8"))


def _shown(source):
    """The path as a user would type it from the repository's root."""
    try:
        return source.relative_to(paths.ROOT).as_posix()
    except (AttributeError, ValueError):
        return str(source)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.config", description="Choose the profile that `dvc repro` runs.")
    parser.add_argument("profile", nargs="?", help=f"one of: {', '.join(profiles())}; without it, the chosen one is printed")
    chosen = parser.parse_args().profile
    try:
        print(select(chosen) if chosen else " ".join(_read(paths.ROOT / "params.yaml")["profiles"]))
    except ValueError as problem:
        parser.exit(1, f"{problem}\n")
