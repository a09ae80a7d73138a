"""Trained nets by name: `load_net("mnist-robust", "laptop", seed=1)`; `net_table()` tells which there are.

    robustgen zoo --profile laptop
"""

import json

import torch
from torch import nn

from ..models.builders import build_model
from ..models.checkpoints import load_weights
from ..models.inference import fold_batch_norms
from ..training.runs import load_run, run_names
from ..utils import paths
from ..utils.profiles import chosen_profile


def load_net(run: str, profile: str, *, epoch: int | None = None, device: str | torch.device = "cpu",
             folded: bool = False, **member: object) -> nn.Module:
    """A trained net in eval mode.

    run, profile   a section of params/<profile>/train.yaml.
    member         which net of the family, by the settings they differ in, such as seed=1 or eps=0.5;
                   of several that fit, the first.
    epoch          the snapshot after that epoch, for runs that keep snapshots; None is the final net.
    folded         batch norms as part of the convolutions (`fold_batch_norms`): the same function, faster.

    Raises FileNotFoundError that names the command which makes a missing checkpoint, ValueError for a
    broken one or one of another architecture.
    """
    name, settings = _member(run, profile, member)
    file, remedy = _file(run, profile, name + ("" if epoch is None else f".epoch={epoch}") + ".safetensors")
    model = load_weights(file, settings.model, remedy)
    return (fold_batch_norms(model) if folded else model).to(device)


def training_record(run, profile, **member):
    """What training left of a net beside its weights: a dict of "history", "retries", "settings", "start",
    "environment", "seconds", "images_per_second".

    Arguments and errors are those of `load_net`.
    """
    name, _ = _member(run, profile, member)
    return json.loads(_file(run, profile, f"{name}.json")[0].read_text())


def _member(run, profile, member):
    """Name and settings of the first net of a family that `member` tells by what it differs in."""
    settings = load_run(profile, run)
    members = settings.members()
    if not members:
        raise ValueError(f"{run} has no nets in profile {profile!r}; choose another profile, or give it members in "
                         f"params/{profile}/train.yaml")
    name = settings.fitting(member, run)[0]   # a family has every combination
    return name, members[name]


def _file(run, profile, name):
    """Path of a run's file, and what to do where it is missing or broken."""
    file = paths.RESULTS / profile / "checkpoints" / run / name
    remedy = (f"make it with: make repro PROFILE={profile}, or this run alone: "
              f"robustgen train {run} --profile {profile}")
    if not file.exists():
        raise FileNotFoundError(f"{file.relative_to(paths.ROOT)} is missing; {remedy}")
    return file, remedy


def family_axes(run, profile):
    """What a family's members differ in: {setting: values}, such as {"eps": [0.5, 1.0], "seed": [0, 1]}, or the names
    of its variants."""
    return {key.rpartition(".")[2]: [*values] for key, values in load_run(profile, run).over.items()}


def family_values(run, profile):
    """The values of the first setting that a family's members differ in, such as the seeds or radii it was trained
    with."""
    return next(iter(family_axes(run, profile).values()))


def net_table(profile=None):
    """The nets of a profile (default: the one chosen in params.yaml) as a data frame, trained or not, a row each."""
    import pandas as pd

    profile = profile or chosen_profile()
    rows = []
    for run in run_names(profile):
        for member, settings in load_run(profile, run).members().items():
            folder = paths.RESULTS / profile / "checkpoints" / run
            record = folder / f"{member}.json"
            last = json.loads(record.read_text())["history"][-1] if record.exists() else {}
            with torch.device("meta"):   # counts without memory
                size = sum(p.numel() for p in build_model(**settings.model).parameters())
            rows.append({
                "run": run, "net": member, "dataset": settings.data,
                "model": f"{settings.model['name']}, width {settings.model['width']}",
                "objective": settings.objective["name"], "parameters": size, "trained": "yes" if last else "no",
                "accuracy": last.get("test_accuracy"), "psnr_25": last.get("test_psnr_25"),
                "where": (folder / f"{member}.safetensors").relative_to(paths.ROOT).as_posix() if last
                else f"make it: robustgen train {run} --profile {profile}"})
    return pd.DataFrame(rows)


def print_nets(profile=None):   # noqa: A001
    """Print the table of a profile's nets: what they are, whether they are trained, how well, and where they lie."""
    print(net_table(profile).to_string(index=False, na_rep="", float_format="{:.3f}".format,
                                       formatters={"parameters": "{:,}".format}))
