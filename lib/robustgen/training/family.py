"""Train the nets of a run, one after another, on CPU, one GPU or several.

    robustgen train mnist-robust --profile laptop
    torchrun --nproc-per-node 2 -m robustgen train mnist-robust --profile laptop

A run is a family: members differ in one setting and are files of one folder, `results/<profile>/checkpoints/
<run>/`. Work in progress lies in `results/<profile>/training/<run>/` and is moved there when all is done.
After a kill, the same command goes on from the last whole epoch and ends with the same weights: batches,
augmentation and noise are functions of (seed, epoch, image), and the state keeps the rest. A lock,
`results/<profile>/training/<run>.lock`, keeps a second training of the same run away.

A net that diverges goes back to its last whole epoch with another seed, three times at most.
"""

import csv
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from ..utils import locks, paths
from .runs import load_run
from .trainer import check_run, train_net


def train(name: str, profile: str, *, precision: str | None = None, strategy: str = "ddp") -> Path:
    """Train every member of a run that is not trained yet; return the folder of its checkpoints.

    precision   in place of the run's own. strategy   of Lightning Fabric, for several processes: "ddp" or "fsdp".
    """
    run = load_run(profile, name)
    run = replace(run, precision=precision or run.precision)
    fabric = _fabric(run.precision, strategy)
    if run.batch % fabric.world_size:
        raise ValueError(f"batch {run.batch} cannot be shared out over {fabric.world_size} processes; choose a "
                         "multiple of it")
    source = f"params/{profile}/train.yaml, {name}"
    for settings in run.members().values():
        check_run(settings, source)   # all of them, before the first takes its time
    work = paths.RESULTS / profile / "training" / name
    target = paths.RESULTS / profile / "checkpoints" / name
    # One process of those that train together holds the lock for all.
    with locks.exclusive(work.with_name(f"{name}.lock"), f"{name!r} of profile {profile!r} is being trained by another "
                         "process; wait until it ends") if fabric.is_global_zero else nullcontext():
        return _train(run, work, target, fabric, name, source)


def _train(run, work, target, fabric, name, source):
    """Train what is missing of a run in the folder `work`; return `target`, where it then is."""
    if _same(target, asdict(run)):
        return target
    fabric.barrier()
    if fabric.is_global_zero:
        _open(work, asdict(run))
    fabric.barrier()
    for member, settings in run.members().items():
        if not (work / f"{member}.json").exists():
            train_net(settings, work / member, fabric, label=f"{name} {member}", source=source)
            fabric.barrier()   # every process must find, or not find, the same files
    if fabric.is_global_zero:
        _close(work, target, run)
    return target


def _same(folder, settings):
    """Whether a folder's nets are, or are to be, trained with these settings."""
    stamp = folder / "settings.json"
    return stamp.exists() and stamp.read_text() == json.dumps(settings, indent=1)


def _open(work, settings):
    """Keep a folder of work in progress only if it was begun with the same settings."""
    if not _same(work, settings):
        shutil.rmtree(work, ignore_errors=True)
        paths.write_text(work / "settings.json", json.dumps(settings, indent=1))


def _close(work, target, run):
    """Move finished work to its place, with the members' histories as one table beside it."""
    rows = [{"member": member} | row for member in run.members()
            for row in json.loads((work / f"{member}.json").read_text())["history"]]
    with paths.atomic(target.parent / f"{target.name}.csv") as new, open(new, "w", newline="") as file:
        # members may log different things
        table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        table.writerows(rows)
    for left in [*work.glob("*.state"), *work.glob(".tmp-*")]:   # by a kill at a bad moment
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)


def _fabric(precision, strategy):
    """Fabric for this process: one of those that torchrun or srun started, else the only one, on the best device."""
    from lightning_fabric import Fabric

    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if "SLURM_STEP_ID" in os.environ and "WORLD_SIZE" not in os.environ:   # srun, and no torchrun within it
        world = int(os.environ["SLURM_NTASKS"])
        local = world // int(os.environ["SLURM_NNODES"])
    if world > 1 and strategy == "fsdp":
        from lightning_fabric.strategies import FSDPStrategy  # costs half a second
        from torch.distributed.fsdp import MixedPrecision

        # images stay float32; autocast does the rest
        strategy = FSDPStrategy(state_dict_type="full", mixed_precision=MixedPrecision())
    fabric = Fabric(devices=local, num_nodes=world // local, strategy=strategy if world > 1 else "auto",
                    precision=precision)
    fabric.launch()
    return fabric
