"""A campaign of kills: `make chaos [ARGS="--seed 1 --kills 2 training data"]`.

In a copy of the repository, profile test, each target is run once undisturbed. Then, again and again from the same
beginning, it is killed at a moment drawn uniformly from the time which that took, with SIGKILL and its whole process
group, and called a second time. What is counted: epochs that had to be trained again, files that the kill has left
half-written, and second calls whose files are not those of the undisturbed run.

With all targets the table goes into docs/reliability.md. The tests run a part of this: tests/test_chaos.py.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from conftest import ROOT, Copy

PAGE = ROOT / "docs/reliability.md"
HALF = "half-written"
TIMES = {"seconds", "images_per_second", "environment"}   # of a record: no two runs agree in them


@dataclass(frozen=True)
class Target:
    """Something to kill: a shell command, what it makes, and what is in the way of making it anew."""

    title: str
    command: str
    makes: tuple      # files and folders, patterns in the copy
    kept: tuple = ()  # further ones which the command changes: they are put back before each kill
    settled: str = "true"   # a command that fails as long as something is left to do
    kills: int = 4


MNIST = ("mnist-standard", "mnist-robust", "mnist-l2")
STAGE, CACHE = "results/test/spectral_mnist", ".dvc/cache"   # DVC would take from its cache what it is to make
TARGETS = {
    "data": Target("`make data`: `robustgen data`, `dvc commit`", "robustgen data && dvc commit data.dvc",
                   ("data", CACHE), settled="dvc status --quiet data.dvc", kills=8),
    "training": Target("`robustgen train`: JEAT with its replay buffer, 2 nets × 8 epochs",
                       "robustgen train chaos --profile test",
                       ("results/test/checkpoints/chaos*", "results/test/training/chaos*"), kills=6),
    "repro": Target("`dvc repro`: checks of data, three trainings, a notebook", "dvc repro spectral_mnist@test",
                    (STAGE, CACHE, "results/data", *(f"results/test/*/{run}*" for run in MNIST)), ("dvc.lock",),
                    settled="dvc status --quiet --with-deps spectral_mnist@test", kills=3),
    "notebook": Target("a notebook's stage: `dvc repro --single-item`", "dvc repro --single-item spectral_mnist@test",
                       (STAGE, CACHE), ("dvc.lock",), settled="dvc status --quiet spectral_mnist@test"),
}


def copy_to_kill(home):
    """A copy of the repository with data/ and a run `chaos` of profile test: JEAT, as its state is the largest."""
    copy = Copy(home).make()
    source = home / "params/test/train.yaml"
    run = yaml.safe_load(source.read_text())["mnist-jeat"] | {"over": {"seed": [0, 1]}, "epochs": 8, "images": 400,
                                                              "snapshots": True}
    source.write_text(f"{source.read_text()}\n{yaml.safe_dump({'chaos': run})}")
    copy.run("robustgen", "profile", "test")
    copy.fetch()
    return copy


class Campaign:
    """The kills of one target in a copy."""

    def __init__(self, copy, target):
        self.copy, self.target = copy, target
        self.kept = {file: (copy.home / file).read_bytes() for file in target.kept}
        self.anew()
        began = time.perf_counter()
        self.call()
        self.seconds = time.perf_counter() - began
        self.whole = self.files() | {"settled": True}
        assert self.settled(), f"{target.settled} fails after {target.command}"

    def anew(self):
        """Put everything back to where the target has not run."""
        made = [path for pattern in self.target.makes for path in self.copy.home.glob(pattern)]
        for path in [*made, *self.temporary()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for file, content in self.kept.items():
            (self.copy.home / file).write_bytes(content)

    def call(self, kill_after=None):
        """Run the command; return (whether it was killed, the epochs that it has begun)."""
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(self.target.command, shell=True, cwd=self.copy.home, env=self.copy.environment(),
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(kill_after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                with contextlib.suppress(ProcessLookupError):   # DVC waits for no process that the system still lists
                    while True:
                        os.killpg(process.pid, 0)
                        time.sleep(0.05)
            output.seek(0)
            text = output.read()
        killed = process.returncode == -signal.SIGKILL
        assert killed or not process.returncode, f"{self.target.command}\n{text[-3000:]}"
        return killed, set(re.findall(r"([\w-]+ \w+=\S+), epoch (\d+)/", text))

    def settled(self):
        """Whether nothing is left to do."""
        return not self.copy.run("sh", "-c", self.target.settled, check=False).returncode

    def files(self):
        """{path: content} of what the target makes. Work in progress is named as what it becomes."""
        found = {}
        for pattern in self.target.makes:
            for path in self.copy.home.glob(pattern):
                for file in [path] if path.is_file() else path.rglob("*"):
                    name = file.relative_to(self.copy.home).as_posix()
                    if file.is_file() and ".tmp-" not in name and not name.endswith((".lock", ".tmp")):
                        found[name.replace("/training/", "/checkpoints/")] = content(file)
        return {name: value for name, value in found.items() if value is not None}

    def temporary(self):
        """What was in the making and is left."""
        found = [path for folder in ("data", "results") for path in (self.copy.home / folder).rglob(".tmp-*")]
        return found + [path for path in (self.copy.home / CACHE).rglob(".*.tmp")]   # DVC's

    def kill(self, moment):
        """Kill the command after so many seconds and call it again; return what came of it as a row."""
        self.anew()
        killed, begun = self.call(moment)
        after = self.files()
        damaged = [name for name, value in after.items() if value == HALF or value != self.whole.get(name, value)]
        _, again = self.call()
        second = self.files() | {"settled": self.settled()}
        return {"moment": round(moment, 1), "killed": killed, "epochs": len(begun & again), "damaged": damaged,
                "differ": sorted(name for name in {*self.whole, *second} if self.whole.get(name) != second.get(name)),
                "left": len(self.temporary())}


def content(file):
    """What must be the same in every run: a file's bytes, a record without its times, only whether it can be read, or
    None for what is not ours to write at once."""
    if file.suffix == ".ipynb" or "/.dvc/cache/runs/" in file.as_posix():
        return None   # papermill's, cell by cell; and DVC's memory of commands
    try:
        if file.suffix == ".state":
            torch.load(file, weights_only=True, map_location="cpu")
            return None   # work in progress, and whole
        if file.suffix == ".json":
            return {key: value for key, value in json.loads(file.read_text()).items() if key not in TIMES}
    except (ValueError, RuntimeError, EOFError):
        return HALF
    digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    if "/.dvc/cache/files/" in file.as_posix():   # named by their content, which has times
        return None if digest == f"{file.parent.name}{file.stem}" else HALF
    return digest


def row(target, campaign, kills):
    """A target's line of the table."""
    lost, n = max(kill["epochs"] for kill in kills), len(kills)
    return (f"| {target.title} | {campaign.seconds:.0f} s | {n} | {sum(kill['killed'] for kill in kills)} | {lost} | "
            f"{sum(len(kill['damaged']) for kill in kills)} | {sum(kill['left'] for kill in kills)} | "
            f"{sum(not kill['differ'] for kill in kills)} of {n} |")


def processor():
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--kills", type=int, help="of each target (default: 8, 6, 3 and 4)")
    args = parser.parse_args()
    names = [name for name in TARGETS if name in args.targets or not args.targets]
    if unknown := {*args.targets} - {*TARGETS}:
        parser.error(f"target {min(unknown)!r} does not exist; there are: {', '.join(TARGETS)}")
    lines, bad = ["| killed | undisturbed | kills | while it ran | most epochs trained twice | files half-written | "
                  "temporary files left after the second call | second calls with the same result |",
                  "|---|---:|---:|---:|---:|---:|---:|---:|"], 0
    with tempfile.TemporaryDirectory(prefix="robustgen-chaos-") as folder:
        copy = copy_to_kill(Path(folder) / "robustgen")
        if "notebook" in names and "repro" not in names:   # which leaves its nets
            copy.run("dvc", "repro", *(f"train@test-{run}" for run in MNIST))
        for name in names:
            target, moments = TARGETS[name], random.Random(f"{args.seed} {name}")
            campaign, kills = Campaign(copy, target), []
            for _ in range(args.kills or target.kills):
                kills.append(campaign.kill(moments.uniform(0, campaign.seconds)))
                print(name, kills[-1], flush=True)
            bad += sum(kill["epochs"] > 1 or bool(kill["damaged"] or kill["differ"]) for kill in kills)
            lines.append(row(target, campaign, kills))
    note = (f"Made by `make chaos`, seed {args.seed}, on {datetime.date.today()}, {processor()}, "
            f"{os.cpu_count()} cores, one thread a process.")
    table = "\n".join([*lines, "", note])
    print(f"\n{table}")
    if len(names) == len(TARGETS):
        text = PAGE.read_text()
        PAGE.write_text(re.sub(r"(?ms)^\| killed \|.*?^Made by.*?$", lambda _: table, text))
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
