"""Settings of a training run: a section of params/<profile>/train.yaml, checked before anything runs."""

import itertools
import json
from collections import Counter
from dataclasses import MISSING, asdict, field, fields, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationError

from ..utils.arguments import known
from ..utils.fields import Count, Family, Fraction, Index, Positive, checked_settings, part, sentence, settings
from ..utils.paths import shown
from ..utils.profiles import read_sections, settings_file


@part
class Start:
    """Whose weights a net begins with: those of a run's net, or of a checkpoint file. A text is the name of a run."""

    run: str | None = None        # a net of this run, of the same seed
    member: dict = field(default_factory=dict)   # which of its nets, such as {eps: 0.5}, where they differ in more
    snapshot: Count | None = None                # its weights after this epoch; None takes the final ones
    file: str | None = None       # a safetensors file of this library, from the repository's root

    def __post_init__(self):
        if (self.run is None) == (self.file is None):
            raise ValueError("'start' should name either a 'run' or a 'file'")
        if self.file and (self.member or self.snapshot):
            raise ValueError("'start' has a file: 'member' and 'snapshot' are of a run")


@settings
class Run:
    """One training run: a family of nets that differ in the settings named by `over`."""

    data: Literal["mnist", "mnist-distractor", "cifar10", "cifar100", "shapes", "imagenette", "imagenet", "imagenet64"]
    images: Count | None            # training images, drawn once with `seed`; None takes all
    flip: bool                      # mirror half of the images
    crop: Index                     # pixels of black border that random crops are taken from; 0 for no crops
    model: dict                     # name and arguments of build_model
    objective: dict                 # name and arguments of build_objective
    over: dict[str, Family]         # the family, see `members`
    seed: Index
    epochs: Count
    batch: Count                    # global: shared out over the processes of a distributed run
    optimizer: dict                 # name (SGD, Adam, AdamW of torch.optim) and arguments
    schedule: dict                  # of the learning rate: name and arguments of schedules.SCHEDULES
    bound: Positive                 # a loss or mean energy beyond it counts as divergence
    test_images: Count              # held-out images that are judged after each epoch
    snapshots: bool                 # keep the weights of every epoch
    weights: Literal["float32", "float16"]       # of the checkpoints
    # of the arithmetic, as Lightning Fabric names it; auto: bf16 where the processor is faster with it
    precision: Literal["auto", "32-true", "bf16-mixed"]
    compile: bool | Literal["auto"]   # torch.compile; auto: where the processor gains and the training is long
    channels_last: bool             # memory layout of the convolutions
    # Younger than the first checkpoints: each default is what those were trained with (`stamped`).
    start: Annotated[Start | None, BeforeValidator(lambda given: {"run": given} if isinstance(given, str) else given)] \
        = None                      # the weights to begin with; None draws fresh ones
    initialisation: Literal["torch", "he"] = "torch"     # of fresh weights, see build_model
    batch_norm: Literal["train", "frozen"] = "train"     # frozen: the statistics stay those of the start
    ema: Fraction = 0.0             # decay of an average of the weights, which is then tested and kept; 0 for none
    clip: Positive | None = None    # the largest norm of the weights' gradient; longer ones are scaled down

    def __post_init__(self):
        if self.batch_norm == "frozen" and self.start is None:
            raise ValueError("'batch_norm' is 'frozen', at the statistics of fresh weights; set it to 'train', or give "
                             "the run a 'start'")

    def members(self):
        """The nets of the family as {name: its settings}, e.g. {"seed=0": Run(seed=0, ...), ...}.

        `over` is {setting: [values]}, such as seed: [0, 1] or objective.eps: [0.5, 1.0], or {label: {name: changes}},
        such as ablation: {relu: {model.activation: relu}, no-bias: {model.bias: false}}. No values, no nets: seed: [].
        Of several settings every combination is a net: {"eps=0.5,seed=0": ..., "eps=0.5,seed=1": ..., ...}.
        """
        axes = []
        for key, values in self.over.items():
            named = values if isinstance(values, dict) else {value: {key: value} for value in values}
            label = key.rpartition(".")[2]
            if len(named) < len(values):
                raise ValueError(f"{key!r} has a value twice: {values}")
            axes.append([(f"{label}={name}", changes) for name, changes in named.items()])
        name, count = max(Counter(name for axis in axes for name, _ in axis).items(), key=lambda item: item[1],
                          default=("", 0))
        if count > 1:
            raise ValueError(f"two nets of the family would both be named {name!r}; give one another label, as in "
                             "{label: {name: changes}}")
        return {",".join(name for name, _ in net): self._changed({k: v for _, changes in net
                                                                  for k, v in changes.items()})
                for net in itertools.product(*axes)}

    def fitting(self, member, where):
        """Names of the family's nets that have these settings, {setting: value}; all of them for {}.

        Raises ValueError that begins with `where` for a setting that no net has.
        """
        parts = {name: name.split(",") for name in self.members()}
        wanted = {known("member", f"{key}={value}", dict.fromkeys(sum(parts.values(), [])), f"{where}: ")
                  for key, value in member.items()}
        return [name for name in parts if wanted <= set(parts[name])]

    def _changed(self, changes):
        fields = {}
        for key, value in changes.items():
            group, _, leaf = key.rpartition(".")
            settings = fields.get(group, getattr(self, group, None)) if group else vars(self)
            settings = vars(settings) if isinstance(settings, Start) else settings
            known("setting", key if not group or not isinstance(settings, dict) else leaf,
                  settings if isinstance(settings, dict) else vars(self))
            fields |= {group: settings | {leaf: value}} if group else {leaf: value}
        return replace(self, **fields)


def load_run(profile, name):
    """Settings of a training run, from its section in `params/<profile>/train.yaml`."""
    source = settings_file(profile, "train")
    sections = read_sections(source)
    where = f"{shown(source)}, {name}"
    settings = checked_settings(Run, sections[known("run", name, sections)], where)
    if not settings.over:
        raise ValueError(f"{where}: 'over' must name a setting, such as seed: [0, 1, 2]")
    try:
        settings.members()
    except ValidationError as error:
        raise ValueError(f"{where}, over: {sentence(error, Run.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{where}, over: {error}") from None
    return settings


def run_names(profile):
    """Names of a profile's training runs."""
    return list(read_sections(settings_file(profile, "train")))


def stamp(run, parents=None):
    """What settings.json says of a folder of nets: the run's settings, and {net: SHA-256 of the one it began with}."""
    return json.dumps(asdict(run) | ({"parents": parents} if parents else {}), indent=1)


def stamped(folder, text, but=()):
    """Whether a folder's settings.json says this, the settings in `but` aside."""
    file = folder / "settings.json"
    return file.exists() and _completed(file.read_text(), but) == _completed(text, but)


def _completed(text, but):
    """A stamp with the settings that are younger than it."""
    given = json.loads(text)
    younger = {field.name: field.default for field in fields(Run) if field.default is not MISSING}
    if given["model"]["name"] == "mnist_cnn":
        younger["initialisation"] = "he"   # as this net's was before it was a setting
    return json.dumps({key: value for key, value in (younger | given).items() if key not in but})
