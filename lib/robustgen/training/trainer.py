"""One net in training: batches where they lie, a state on disk after every epoch, a way back when it diverges."""

import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..core import rng
from ..data import augment
from ..data.datasets import load_data
from ..models.builders import build_model
from ..models.checkpoints import save_weights
from ..utils import paths
from ..utils.arguments import known
from .averaging import WeightAverage
from .hardware import choose_compile, environment
from .registry import build_objective
from .schedules import OPTIMIZERS, SCHEDULES

RETRIES = 3


class Diverged(FloatingPointError):
    """A loss or energy is not finite, or past its bound."""


def load_images(name, split, n, seed, device):
    """Images where they are trained with."""
    return load_data(name, split, n, seed=seed).to(device)


def train_net(run, path, fabric, *, label="", source="run", parent=None, until=None, load=load_images):
    """Train one net and write `path`.safetensors, `path`.json (history, settings, environment) and its snapshots.

    parent   the `starts.Parent` whose weights it begins with. load   to hand over a `load_images` that remembers.
    until    as in `family.train`; returns whether the net is finished.

    The gradient is that of the mean loss over the global batch, whatever the number of processes. Batch norm sees
    the global batch on GPUs, but for objectives that differentiate twice; on CPU each process has its own statistics.
    """
    images = load(run.data, "train", run.images, run.seed if run.images else 0, fabric.device)
    held_out = load(run.data, "test", run.test_images, 0, fabric.device)
    if len(images) < run.batch:
        raise ValueError(f"{source}: a batch of {run.batch} needs more than {len(images)} images; lower 'batch'")
    job = Job(run, path, fabric, images, source, parent)
    while not job.done:
        if until is not None and fabric.broadcast(time.monotonic() >= until):
            return False
        try:
            job.epoch(held_out, label)
        except Diverged as reason:
            fabric.print(f"{label}: {job.retry(str(reason), source)}")
    job.close()
    return True


class Job:
    """One net in training: what it needs from step to step, kept on disk after every epoch."""

    def __init__(self, run, path, fabric, images, source, parent=None):
        self.run, self.path, self.fabric, self.images, self.source = run, path, fabric, images, source
        self.parent = parent
        self.file = path.parent / f"{path.name}.state"
        self.begin()

    def begin(self):
        """Build everything, and go on from the state on disk if there is one."""
        run, fabric = self.run, self.fabric
        self.began = time.perf_counter()
        model = build_model(**run.model, generator=run.seed, channels_last=run.channels_last,
                            initialisation=run.initialisation, source=self.source)
        if self.parent:
            model.load_state_dict(self.parent.weights(run.model))
        objective = build_objective(model, **run.objective, source=self.source)
        # it differentiates once only
        if fabric.device.type == "cuda" and fabric.world_size > 1 and not objective.second_order:
            objective.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        steps = run.epochs * (len(self.images) // run.batch)
        self.compiled = choose_compile(run.compile, fabric.device.type, steps, fabric.print)
        if self.compiled:
            torch._dynamo.reset()   # graphs of the net before: beyond a few dynamo would no longer compile
            torch._dynamo.config.optimize_ddp = False   # it would cut the graph inside torch.func.grad
            objective.compile()
        share = run.batch // fabric.world_size
        objective.prepare(self.images, fabric.global_rank * share, share, run.batch, run.seed)
        optimizer = _named("optimizer", OPTIMIZERS, run.optimizer, self.source)(objective.parameters())
        rate = _named("schedule", SCHEDULES, run.schedule, self.source)
        self.schedule = LambdaLR(optimizer, lambda step: rate(min(step + 1, steps) / steps))
        self.module = objective
        self.objective, self.optimizer = fabric.setup(objective, optimizer)
        self.state = {"objective": self.objective, "optimizer": self.optimizer, "schedule": self.schedule,
                      "memory": None, "epochs": 0, "history": [], "retries": [], "seconds": 0.0}
        if run.ema and self.sharded:
            raise ValueError(f"{self.source}: 'ema' averages whole weights, and fsdp spreads them out; use ddp")
        self.average = WeightAverage(objective.model, run.ema) if run.ema else None
        if self.average:
            self.state["average"] = self.average.state
        if self.file.exists():
            fabric.load(self.file, self.state, weights_only=True)
            if self.average:
                self.average.load(self.state["average"])
                self.state["average"] = self.average.state
            if self.state["memory"] is not None:
                own = self.state["memory"][fabric.global_rank * share:][:share]
                self.module.load_state(own)
            for _ in self.state["retries"]:
                self.module.on_divergence()
        fabric.barrier()   # no process may change the file that another has yet to read

    @property
    def done(self):
        return self.state["epochs"] == self.run.epochs

    def epoch(self, held_out, label):
        """Train for an epoch and keep the state. Raises Diverged before a bad step touches the weights."""
        from tqdm import tqdm

        run, fabric, objective, optimizer, state = self.run, self.fabric, self.objective, self.optimizer, self.state
        number = state["epochs"]
        # another one after each retry
        seed = rng.fold(run.seed, *range(len(state["retries"]))) if state["retries"] else run.seed
        steps = len(self.images) // run.batch   # an epoch's incomplete last batch is left out
        epoch_seed = rng.fold(seed, number)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(int(epoch_seed) % 2**63))
        epoch_seed = epoch_seed.to(fabric.device)
        objective.train()
        if run.batch_norm == "frozen":
            for module in self.module.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self.module.on_epoch_start(number / run.epochs)
        sums = {}
        bar = tqdm(order[:steps * run.batch].to(fabric.device).split(run.batch),
                   desc=f"{label}, epoch {number + 1}/{run.epochs}",
                   unit="step", leave=number + 1 == run.epochs, disable=not fabric.is_global_zero)
        for step, batch in enumerate(bar):
            mine = batch.view(fabric.world_size, -1)[fabric.global_rank]
            seeds = rng.fold(epoch_seed, mine)
            x, y = self.batch(mine, seeds)
            self.module.progress = (number + step / steps) / run.epochs
            loss, log = objective(x, y, generator=seeds)
            log = {"loss": loss.detach(), **log}
            optimizer.zero_grad()
            fabric.backward(loss)
            self.check(log, step)   # waits for the loss, while the device is busy with the gradient
            if run.clip:
                fabric.clip_gradients(objective, optimizer, max_norm=run.clip, error_if_nonfinite=False)
            optimizer.step()
            self.schedule.step()
            if self.average:
                self.average.update(number * steps + step + 1)
            for key, value in log.items():
                sums[key] = sums.get(key, 0) + value
            if step % 10 == 9:
                bar.set_postfix({key: f"{float(value) / (step + 1):.3f}" for key, value in sums.items()}, refresh=False)
        row = {key: float(fabric.all_reduce(value / steps)) for key, value in sums.items()}
        row |= self.test(held_out)
        # the last step has yet to be judged
        weights = torch.stack([p.isfinite().all() for p in self.module.parameters()]).all()
        if not self.everywhere(weights & all(map(math.isfinite, row.values()))):
            raise Diverged(f"epoch {number + 1}, its last step: the weights, or what they make of held-out images, are "
                           "not finite")
        state["epochs"] += 1
        state["history"].append({"epoch": state["epochs"], **row})
        self.save()

    def batch(self, index, seeds):
        """Images in [0, 1] and labels, augmented where they lie."""
        part = self.images[index]
        x = part.x
        if self.run.flip:
            x = augment.flip(x, rng.fold(seeds, 101))
        if self.run.crop:
            x = augment.crop(x, rng.fold(seeds, 102), self.run.crop)
        x = x.float() / 255
        return x.contiguous(memory_format=torch.channels_last) if self.run.channels_last else x, part.y

    def check(self, log, step):
        """Stop all processes if one's loss or energy is not finite or past the bound."""
        sizes = {key: value.abs() for key, value in log.items() if key == "loss" or key.startswith("energy")}
        good = torch.stack(list(sizes.values())).le(self.run.bound).all()   # NaN is not below any bound
        if not self.everywhere(good):
            raise Diverged(f"epoch {self.state['epochs'] + 1}, step {step + 1}: "
                           + ", ".join(f"{key} {float(log[key]):.4g}" for key in sizes) + f", bound {self.run.bound:g}")

    def everywhere(self, good):
        """Whether `good` holds on every process."""
        if self.fabric.world_size > 1:
            good = self.fabric.all_reduce(good.float(), reduce_op="sum") == self.fabric.world_size
        return bool(good)

    def retry(self, reason, source):
        """Go back to the last whole epoch with another seed and safer settings; return what happened as a sentence."""
        attempt = len(self.state["retries"]) + 2
        if attempt > RETRIES + 1:
            raise FloatingPointError(f"{source}: training has diverged {RETRIES + 1} times, at last in {reason}; "
                                     "lower the learning rate or 'sgld_step', or raise 'bound' if such values are "
                                     "right")
        lost = time.perf_counter() - self.began
        self.begin()
        changes = self.module.on_divergence()
        self.state["retries"].append({"diverged": reason, "back_to_epoch": self.state["epochs"], **changes})
        self.state["seconds"] += lost
        self.save()
        return (f"diverged in {reason}; back to epoch {self.state['epochs']} with another seed"
                + "".join(f", {key} {value:.4g}" for key, value in changes.items())
                + f" (attempt {attempt} of {RETRIES + 1})")

    @torch.no_grad()
    def test(self, held_out):
        """The objective's numbers on held-out images, as means."""
        self.module.eval()
        sums = {}
        with self.gathered(), self.average.in_place() if self.average else nullcontext():
            for x, y in zip(held_out.x.split(250), held_out.y.split(250)):
                for key, value in self.module.test(x.float() / 255, y).items():
                    sums[key] = sums.get(key, 0) + value
        return {key: float(value) / len(held_out) for key, value in sums.items()}

    @property
    def sharded(self):
        return type(self.fabric.strategy).__name__ == "FSDPStrategy"

    def gathered(self):
        """The whole weights on every process, where FSDP spreads them out."""
        if not self.sharded:
            return nullcontext()
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel.summon_full_params(self.objective._forward_module, writeback=False)

    def save(self):
        """Keep the state, and the epoch's snapshot if the run has them. The state counts once its file is renamed."""
        now = time.perf_counter()
        self.state["seconds"] += now - self.began
        self.began = now
        own = self.module.state()
        if own is not None and self.fabric.world_size > 1:
            own = self.fabric.all_gather(own).flatten(0, 1)
        self.state["memory"] = own
        new = self.file.with_name(f".tmp-{self.file.name}")
        self.fabric.save(new, self.state)
        if self.fabric.is_global_zero:
            if self.run.snapshots and self.state["epochs"]:
                self.export(new, f".epoch={self.state['epochs']}")
            os.replace(new, self.file)
        self.fabric.barrier()

    def export(self, file, suffix=""):
        """Write the model's weights out of a state file."""
        state = torch.load(file, map_location="cpu", weights_only=True)
        weights = state.get("average") or {key.removeprefix("model."): value
                                           for key, value in state["objective"].items()}
        save_weights(weights, self.path.parent / f"{self.path.name}{suffix}.safetensors", self.run.model,
                     getattr(torch, self.run.weights), **({"start": self.parent.record} if self.parent else {}))

    def close(self):
        """Write what a finished net leaves behind."""
        if self.fabric.is_global_zero:
            self.export(self.file)
            state, run = self.state, self.run
            seen = run.epochs * (len(self.images) // run.batch) * run.batch
            paths.write_text(self.path.parent / f"{self.path.name}.json", json.dumps({
                "history": state["history"], "retries": state["retries"], "settings": asdict(run),
                "start": self.parent and self.parent.record,
                "environment": environment(self.fabric, self.compiled), "seconds": round(state["seconds"], 1),
                "images_per_second": round(seen / state["seconds"], 1)}, indent=1) + "\n")
            self.file.unlink()


def check_run(run, source):
    """Raise ValueError, in one sentence, if a net's settings cannot be what they say. Nothing is allocated."""
    with torch.device("meta"):
        objective = build_objective(build_model(**run.model, initialisation=run.initialisation, source=source),
                                    **run.objective, source=source)
    _named("optimizer", OPTIMIZERS, run.optimizer, source)(objective.parameters())
    _named("schedule", SCHEDULES, run.schedule, source)(1.0)


def _named(kind, table, settings, source):
    """The entry of `table` that settings name, with its other settings as arguments."""
    settings = dict(settings)
    make = table[known(kind, settings.pop("name", None), table, f"{source}: ")]

    def call(*args):
        try:
            return make(*args, **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {kind}: {error}") from None
    return call
