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
Family = list | dict[str, dict]
Norm = Literal["linf", "l2"]
settings = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))


@settings
class Run:
    """One training run: a family of nets that differ in a single setting, named by `over`."""

    data: Literal["mnist", "mnist-distractor", "cifar10", "imagenette"]
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
        """
        (key, values), = self.over.items()
        named = values if isinstance(values, dict) else {value: {key: value} for value in values}
        if len(named) < len(values):
            raise ValueError(f"{key!r} has a value twice: {values}")
        return {f"{key.rpartition('.')[2]}={name}": self._changed(changes) for name, changes in named.items()}

    def _changed(self, changes):
        fields = {}
        for key, value in changes.items():
            group, _, leaf = key.rpartition(".")
            settings = fields.get(group, getattr(self, group, None)) if group else vars(self)
            known("setting", key if not group or not isinstance(settings, dict) else leaf, settings if isinstance(settings, dict) else vars(self))
            fields |= {group: settings | {leaf: value}} if group else {leaf: value}
        return replace(self, **fields)


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


@settings
class HePgd:
    """Notebook 6."""

    datasets: Annotated[list[Literal["cifar10", "imagenette"]], Field(min_length=1)]   # natural images
    seeds: Annotated[list[Index], Field(min_length=1)]   # of the standard nets and the random starts
    images: Annotated[int, Field(ge=2)]       # held-out test images
    validation: Annotated[int, Field(ge=2)]   # further test images, for thresholds and lam
    batch: Count             # images attacked at once; changes no result
    eps: Positive            # max norm (paper: 8/255)
    eps_large: Positive      # paper: 16/255
    step_size: Positive      # paper: 1/255
    steps: Count             # paper: 40
    shown_steps: Annotated[list[Index], Field(min_length=1)]   # of Figures 2b and 3b
    eps_l2: Positive         # of l2-PGD, with steps of step_size_l2
    step_size_l2: Positive
    lams: Annotated[list[NonNegative], Field(min_length=1)]   # the sweep
    lam: NonNegative         # paper: 1.2
    quasi_eps: Positive      # training radius of the quasi-robust net
    robust_eps: Positive     # and of the robust one
    pictures: Count          # images of Figure 4
    mnist_images: Annotated[int, Field(ge=2)]
    mnist_eps: Annotated[list[Positive], Field(min_length=1)]   # radii on digits, max norm; the lower middle one and the last are followed closely


NOTEBOOKS = {"spectral_mnist": SpectralMnist, "he_pgd": HePgd}


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
    sections = _runs(source)
    where = f"{_shown(source)}, {name}"
    settings = checked(Run, sections[known("run", name, sections)], where)
    if len(settings.over) != 1:
        raise ValueError(f"{where}: 'over' must name exactly one setting, such as seed: [0, 1, 2]")
    try:
        settings.members()
    except ValidationError as error:
        raise ValueError(f"{where}, over: {_sentence(error, Run.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{where}, over: {error}") from None
    return settings


def runs(profile):
    """Names of a profile's training runs."""
    return list(_runs(_file(profile, "train")))


def _runs(source):
    """The sections of a train.yaml; those whose names begin with _ are only there for others to build on."""
    return {name: section for name, section in _read(source).items() if not name.startswith("_")}


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
