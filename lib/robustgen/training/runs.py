"""Settings of a training run: a section of params/<profile>/train.yaml, checked before anything runs."""

import itertools
from dataclasses import replace
from typing import Literal

from pydantic import ValidationError

from ..utils.arguments import known
from ..utils.fields import Count, Family, Index, Positive, checked_settings, sentence, settings
from ..utils.paths import shown
from ..utils.profiles import read_sections, settings_file


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
        return {",".join(name for name, _ in net): self._changed({k: v for _, changes in net
                                                                  for k, v in changes.items()})
                for net in itertools.product(*axes)}

    def _changed(self, changes):
        fields = {}
        for key, value in changes.items():
            group, _, leaf = key.rpartition(".")
            settings = fields.get(group, getattr(self, group, None)) if group else vars(self)
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
