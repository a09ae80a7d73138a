"""Trained nets by name: `load("mnist-robust", "laptop", seed=1)`; `list()` tells which there are.

    python -m robustgen.zoo --profile laptop
"""

import json

import torch

from . import config, folding, models, paths


def load(run, profile, *, epoch=None, device="cpu", folded=False, **member):
    """A trained net in eval mode.

    run, profile   a section of params/<profile>/train.yaml.
    member         which net of the family, by the settings they differ in, such as seed=1 or eps=0.5;
                   of several that fit, the first.
    epoch          the snapshot after that epoch, for runs that keep snapshots; None is the final net.
    folded         batch norms as part of the convolutions (`folding`): the same function, faster, other parameters.

    Raises FileNotFoundError that names the command which makes a missing checkpoint, ValueError for a
    broken one or one of another architecture.
    """
    name, settings = _member(run, profile, member)
    file, remedy = _file(run, profile, name + ("" if epoch is None else f".epoch={epoch}") + ".safetensors")
    model = load_weights(file, settings.model, remedy)
    return (folding.fold(model) if folded else model).to(device)


def record(run, profile, **member):
    """What training left of a net beside its weights: a dict of "history", "retries", "settings", "environment", "seconds", "images_per_second".

    Arguments and errors are those of `load`.
    """
    name, _ = _member(run, profile, member)
    return json.loads(_file(run, profile, f"{name}.json")[0].read_text())


def _member(run, profile, member):
    """Name and settings of the first net of a family that `member` tells by what it differs in."""
    members = config.run(profile, run).members()
    if not members:
        raise ValueError(f"{run} has no nets in profile {profile!r}; choose another profile, or give it members in params/{profile}/train.yaml")
    parts = {name: name.split(",") for name in members}
    wanted = {config.known("member", f"{key}={value}", dict.fromkeys(sum(parts.values(), [])), f"{run}: ") for key, value in member.items()}
    name = next(name for name in members if wanted <= set(parts[name]))   # a family has every combination
    return name, members[name]


def _file(run, profile, name):
    """Path of a run's file, and what to do where it is missing or broken."""
    file = paths.RESULTS / profile / "checkpoints" / run / name
    remedy = f"make it with: make repro PROFILE={profile}, or this run alone: python -m robustgen.train {run} --profile {profile}"
    if not file.exists():
        raise FileNotFoundError(f"{file.relative_to(paths.ROOT)} is missing; {remedy}")
    return file, remedy


def best_device():
    """The accelerator, if there is one, else the CPU. On a GPU, TF32 is turned off: it would round probed gradients to 1e-3."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def over(run, profile):
    """What a family's members differ in: {setting: values}, such as {"eps": [0.5, 1.0], "seed": [0, 1]}, or the names of its variants."""
    return {key.rpartition(".")[2]: [*values] for key, values in config.run(profile, run).over.items()}


def values(run, profile):
    """The values of the first setting that a family's members differ in, such as the seeds or radii it was trained with."""
    return next(iter(over(run, profile).values()))


def table(profile=None):
    """The nets of a profile (default: the one chosen in params.yaml) as a data frame, trained or not, a row each."""
    import pandas as pd

    profile = profile or config.chosen()
    rows = []
    for run in config.runs(profile):
        for member, settings in config.run(profile, run).members().items():
            folder = paths.RESULTS / profile / "checkpoints" / run
            record = folder / f"{member}.json"
            last = json.loads(record.read_text())["history"][-1] if record.exists() else {}
            with torch.device("meta"):   # counts without memory
                size = sum(p.numel() for p in models.build(**settings.model).parameters())
            rows.append({
                "run": run, "net": member, "dataset": settings.data, "model": f"{settings.model['name']}, width {settings.model['width']}",
                "objective": settings.objective["name"], "parameters": size, "trained": "yes" if last else "no",
                "accuracy": last.get("test_accuracy"), "psnr_25": last.get("test_psnr_25"),
                "where": (folder / f"{member}.safetensors").relative_to(paths.ROOT).as_posix() if last
                else f"make it: python -m robustgen.train {run} --profile {profile}"})
    return pd.DataFrame(rows)


def list(profile=None):   # noqa: A001
    """Print the table of a profile's nets: what they are, whether they are trained, how well, and where they lie."""
    print(table(profile).to_string(index=False, na_rep="", float_format="{:.3f}".format, formatters={"parameters": "{:,}".format}))


def save_weights(weights, file, architecture, dtype=torch.float32):
    """Write a state dict, with the arguments of models.build in the header, whole or not at all.

    dtype   of the numbers in the file. Raises ValueError if they do not fit into it.
    """
    from safetensors.torch import save_file

    tensors = {key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous() for key, value in weights.items()}
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{file.name}: the weights are not finite as {dtype}; set 'weights' to float32, or train again")
    with paths.atomic(file) as new:
        save_file(tensors, new, metadata={"architecture": json.dumps(architecture)})


def load_weights(file, architecture, remedy="make it again"):
    """The model in a checkpoint, in eval mode. `architecture` must be what it was saved with."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as checkpoint:
            found = json.loads(checkpoint.metadata()["architecture"])
            tensors = {key: checkpoint.get_tensor(key) for key in checkpoint.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a whole checkpoint ({error}); delete it and {remedy}") from None
    if found != architecture:
        raise ValueError(f"{file} holds {found}, but the settings ask for {architecture}; delete it and {remedy}")
    model = models.build(**architecture, generator=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{file} does not fit {architecture}: {str(error).splitlines()[-1].strip()}; delete it and {remedy}") from None
    return model.eval().requires_grad_(False)


def main():
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.zoo", description="List the nets of a profile, trained or not.")
    parser.add_argument("--profile", help=f"one of: {', '.join(config.profiles())} (default: the chosen one)")
    try:
        list(parser.parse_args().profile)
    except ValueError as problem:
        parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
