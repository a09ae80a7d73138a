"""Train the nets of a run, one after another, on CPU, one GPU or several.

    python -m robustgen.train mnist-robust --profile laptop
    torchrun --nproc-per-node 2 -m robustgen.train mnist-robust --profile laptop

A run is a family: members differ in one setting and are files of one folder, `results/<profile>/checkpoints/
<run>/`. Work in progress lies in `results/<profile>/training/<run>/` and is moved there when all is done.
After a kill, the same command goes on from the last whole epoch and ends with the same weights: batches and
noise are functions of (seed, epoch, image), so there is no hidden state to lose.
"""

import csv
import json
import math
import os
import platform
import shutil
import time
from dataclasses import asdict

import torch

from . import attacks, config, data, models, objectives, paths, rng
from .zoo import save_weights

SCHEDULES = {   # share of the peak learning rate, by the share of the steps begun
    "constant": lambda t: 1,
    "linear": lambda t: min(t / 0.1, (1.01 - t) / 0.91),   # up over a tenth, then down to a hundredth
}


def train(name, profile):
    """Train every member of a run that is not trained yet; return the folder of its checkpoints."""
    run = config.run(profile, name)
    fabric = _fabric()
    if run.batch % fabric.world_size:
        raise ValueError(f"batch {run.batch} cannot be shared out over {fabric.world_size} processes; choose a multiple of it")
    work = paths.RESULTS / profile / "training" / name
    target = paths.RESULTS / profile / "checkpoints" / name
    if fabric.is_global_zero:
        _open(work, asdict(run))
    fabric.barrier()
    for member, settings in run.members().items():
        if not (work / f"{member}.json").exists():
            fit(settings, work / member, fabric, label=f"{name} {member}", source=f"params/{profile}/train.yaml, {name}")
            fabric.barrier()   # every process must find, or not find, the same files
    if fabric.is_global_zero:
        _close(work, target, run)
    return target


def _open(work, settings):
    """Keep a folder of work in progress only if it was begun with the same settings."""
    stamp = work / "settings.json"
    text = json.dumps(settings, indent=1)
    if not stamp.exists() or stamp.read_text() != text:
        shutil.rmtree(work, ignore_errors=True)
        paths.write(stamp, text)


def _close(work, target, run):
    """Move finished work to its place, with the members' histories as one table beside it."""
    rows = [{"member": member} | row for member in run.members() for row in json.loads((work / f"{member}.json").read_text())["history"]]
    with paths.atomic(target.parent / f"{target.name}.csv") as new, open(new, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)


def fit(run, path, fabric, *, label="", source="run"):
    """Train one net and write `path`.safetensors, `path`.json (history, settings, environment) and its snapshots.

    The gradient is that of the mean loss over the global batch, whatever the number of processes.
    """
    from tqdm import tqdm

    began = time.perf_counter()
    model = models.build(**run.model, generator=run.seed, source=source)
    objective = objectives.build(model, **run.objective, source=source)
    optimizer = torch.optim.SGD(model.parameters(), run.lr, momentum=run.momentum, weight_decay=run.weight_decay)
    objective, optimizer = fabric.setup(objective, optimizer)
    images = data.load(run.data, "train", run.images, seed=run.seed).to(fabric.device)
    held_out = data.load(run.data, "test", run.test_images).to(fabric.device)
    if len(images) < run.batch:
        raise ValueError(f"{source}: a batch of {run.batch} needs more than {len(images)} images; lower 'batch'")

    state_file = path.parent / f"{path.name}.state"
    epoch, history, seconds = _resume(state_file, model, optimizer)
    steps = len(images) // run.batch   # an epoch's incomplete last batch is left out
    with tqdm(total=run.epochs * steps, initial=epoch * steps, desc=label, unit="step", disable=not fabric.is_global_zero) as bar:
        while epoch < run.epochs:
            objective.train()
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(int(rng.fold(run.seed, epoch)) % 2**63))
            sums = {}
            for step, batch in enumerate(order[:steps * run.batch].split(run.batch)):
                optimizer.param_groups[0]["lr"] = run.lr * SCHEDULES[run.schedule]((epoch * steps + step + 1) / (run.epochs * steps))
                mine = batch[fabric.global_rank::fabric.world_size].to(fabric.device)
                part = images[mine]
                loss, log = objective(part.unit, part.y, generator=rng.fold(run.seed, epoch, mine))
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                for key, value in {"loss": loss.detach(), **log}.items():
                    sums[key] = sums.get(key, 0) + value
                bar.update()
                if step % 10 == 9:   # reading a number waits for the device: not every step
                    bar.set_postfix({key: f"{float(value) / (step + 1):.3f}" for key, value in sums.items()}, refresh=False)
            means = {key: float(fabric.all_reduce(value / steps)) for key, value in sums.items()}
            if not all(map(math.isfinite, means.values())):
                raise FloatingPointError(f"{label}: the loss is no longer finite in epoch {epoch + 1}; lower 'lr' ({run.lr})")
            epoch += 1
            model.eval()
            history.append({"epoch": epoch, **means, "test_accuracy": attacks.accuracy(model, held_out.unit, held_out.y)})
            if fabric.is_global_zero:
                if run.snapshots:
                    save_weights(model, path.parent / f"{path.name}.epoch={epoch}.safetensors", run.model)
                with paths.atomic(state_file) as new:
                    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "history": history,
                                "seconds": seconds + time.perf_counter() - began}, new)
    if fabric.is_global_zero:
        save_weights(model, path.parent / f"{path.name}.safetensors", run.model)
        paths.write(path.parent / f"{path.name}.json", json.dumps({
            "history": history, "settings": asdict(run), "environment": environment(fabric),
            "seconds": round(seconds + time.perf_counter() - began, 1)}, indent=1) + "\n")
        state_file.unlink(missing_ok=True)


def _resume(file, model, optimizer):
    """Load the state after the last whole epoch, if there is one: (epochs done, history, seconds spent)."""
    if not file.exists():
        return 0, [], 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["history"], state["seconds"]


def _fabric():
    """Fabric for this process: the processes that torchrun started, else one process on the best device."""
    from lightning_fabric import Fabric

    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(devices=local, num_nodes=world // local, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def environment(fabric):
    """What a reader needs to know of the machine that made a checkpoint."""
    cuda = fabric.device.type == "cuda"
    return {"python": platform.python_version(), "torch": torch.__version__, "processes": fabric.world_size,
            "device": torch.cuda.get_device_name(fabric.device) if cuda else f"cpu, {torch.get_num_threads()} threads"}


def main():
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.train", description="Train the nets of a run; a killed training goes on where it was.")
    parser.add_argument("run", help="a section of params/<profile>/train.yaml")
    parser.add_argument("--profile", required=True, help=f"one of: {', '.join(config.profiles())}")
    args = parser.parse_args()
    try:
        print(train(args.run, args.profile).relative_to(paths.ROOT))
    except (ValueError, OSError, FloatingPointError) as problem:
        parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
