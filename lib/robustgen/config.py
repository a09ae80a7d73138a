"""Settings: one YAML file per profile and notebook, checked before anything runs.

`params/<profile>/train.yaml` has a section per training run, `params/<profile>/<notebook>.yaml` is flat.
No setting has a default in code: a profile says everything. A wrong key, type or range is one sentence
that names the file and the key.
"""

import ast
import difflib
import functools
import inspect
import itertools
import re
from dataclasses import replace
from typing import Literal

import yaml
from pydantic import ConfigDict, ValidationError, validate_call

from . import paths
from .fields import Count, Family, Fraction, Index, NonNegative, Norm, Positive, settings  # noqa: F401 (others take the types from here)
from .settings import NOTEBOOKS


@settings
class Run:
    """One training run: a family of nets that differ in the settings named by `over`."""

    data: Literal["mnist", "mnist-distractor", "cifar10", "cifar100", "shapes", "imagenette", "imagenet", "imagenet64"]
    images: Count | None            # training images, drawn once with `seed`; None takes all
    flip: bool                      # mirror half of the images
    crop: Index                     # pixels of black border that random crops are taken from; 0 for no crops
    model: dict                     # name and arguments of models.build
    objective: dict                 # name and arguments of objectives.build
    over: dict[str, Family]         # the family, see `members`
    seed: Index
    epochs: Count
    batch: Count                    # global: shared out over the processes of a distributed run
    optimizer: dict                 # name (SGD, Adam, AdamW of torch.optim) and arguments
    schedule: dict                  # of the learning rate: name and arguments of job.SCHEDULES
    bound: Positive                 # a loss or mean energy beyond it counts as divergence
    test_images: Count              # held-out images that are judged after each epoch
    snapshots: bool                 # keep the weights of every epoch
    weights: Literal["float32", "float16"]       # of the checkpoints
    precision: Literal["32-true", "bf16-mixed"]  # of the arithmetic, as Lightning Fabric names it
    compile: bool                   # torch.compile, where a GPU is worth the wait
    channels_last: bool             # memory layout of the convolutions

    def members(self):
        """The nets of the family as {name: its settings}, e.g. {"seed=0": Run(seed=0, ...), ...}.

        `over` is {setting: [values]}, such as seed: [0, 1] or objective.eps: [0.5, 1.0], or {label: {name: changes}},
        such as ablation: {relu: {model.activation: relu}, no-bias: {model.bias: false}}. No values, no nets: seed: [].
        Of several settings every combination is a net: {"eps=0.5,seed=0": ..., "eps=0.5,seed=1": ..., ...}.
        """
        axes = []
        for key, values in self.over.items():
            named = values if isinstance(values, dict) else {value: {key: value} for value in values}
            if len(named) < len(values):
                raise ValueError(f"{key!r} has a value twice: {values}")
            axes.append([(f"{key.rpartition('.')[2]}={name}", changes) for name, changes in named.items()])
        return {",".join(name for name, _ in net): self._changed({k: v for _, changes in net for k, v in changes.items()})
                for net in itertools.product(*axes)}

    def _changed(self, changes):
        fields = {}
        for key, value in changes.items():
            group, _, leaf = key.rpartition(".")
            settings = fields.get(group, getattr(self, group, None)) if group else vars(self)
            known("setting", key if not group or not isinstance(settings, dict) else leaf, settings if isinstance(settings, dict) else vars(self))
            fields |= {group: settings | {leaf: value}} if group else {leaf: value}
        return replace(self, **fields)


def load(profile, section, /, **overrides):
    """Settings of a notebook, from `params/<profile>/<section>.yaml`, with `overrides` on top.

    Returns a frozen dataclass. Raises ValueError, in one sentence, for an unknown profile, section or
    key (with the nearest right name), a wrong type, or a value out of range.
    """
    section = known("notebook", section, NOTEBOOKS)
    source = _file(profile, section)
    return checked(NOTEBOOKS[section], _named(source) | overrides, source)


def run(profile, name):
    """Settings of a training run, from its section in `params/<profile>/train.yaml`."""
    source = _file(profile, "train")
    sections = _named(source)
    where = f"{_shown(source)}, {name}"
    settings = checked(Run, sections[known("run", name, sections)], where)
    if not settings.over:
        raise ValueError(f"{where}: 'over' must name a setting, such as seed: [0, 1, 2]")
    try:
        settings.members()
    except ValidationError as error:
        raise ValueError(f"{where}, over: {_sentence(error, Run.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{where}, over: {error}") from None
    return settings


def runs(profile):
    """Names of a profile's training runs."""
    return list(_named(_file(profile, "train")))


def _named(source):
    """The entries of a settings file; those whose names begin with _ are only there for others to build on."""
    return {name: entry for name, entry in _read(source).items() if not name.startswith("_")}


def profiles():
    """Names of the profiles."""
    return sorted(p.name for p in paths.PARAMS.iterdir() if p.is_dir())


def chosen():
    """The profile that `dvc repro` runs: the switch in `params.yaml`. Of several, the first."""
    return _read(paths.ROOT / "params.yaml")["profiles"][0]


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
    key = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"\w+", str(part)))   # without pydantic's names of types
    if problem["type"] == "unexpected_keyword_argument":
        try:
            known("parameter", key, [name for name in names if name not in ("self", "model")])
        except ValueError as unknown:
            return str(unknown)
    if not key:   # settings that do not fit together
        return problem["msg"].removeprefix("Value error, ")
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
