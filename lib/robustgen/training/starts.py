"""Nets that begin with the weights of another one: which it is, whether it is trained, whether it is still the same."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..models.checkpoints import load_weights, read_checkpoint
from ..utils import paths
from ..utils.arguments import known
from ..utils.paths import shown
from .runs import load_run, run_names, stamp, stamped


@dataclass(frozen=True)
class Parent:
    """A net that another begins with, as it was when the work began."""

    name: str       # such as "cifar10-standard seed=0"
    file: Path
    sha256: str

    @property
    def record(self):
        """What the child's files tell of it."""
        return {"name": self.name, "file": shown(self.file), "sha256": self.sha256}

    def weights(self, architecture):
        """Its state dict. Raises ValueError if the file is no longer what it was."""
        if not self.file.exists() or checksum(self.file) != self.sha256:
            raise ValueError(f"{shown(self.file)} has changed since the training that starts from it began; run the "
                             "command once more: it begins anew")
        return load_weights(self.file, architecture).state_dict()


def checksum(file):
    """SHA-256 of a file, as hexadecimal digits."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find_parents(profile, name):
    """The net that each of a run's nets begins with: {member: Parent}, without those that begin with fresh weights.

    Raises FileNotFoundError for one that is not trained, ValueError for one that does not fit, each with the remedy.
    """
    run, where = load_run(profile, name), f"params/{profile}/train.yaml, {name}"
    sums, found = functools.cache(checksum), {}
    for member, settings in run.members().items():
        if settings.start is None:
            continue
        if settings.start.file:
            file = paths.ROOT / settings.start.file
            found[member] = Parent(settings.start.file, file, sums(_checked_file(file, settings, where)))
            continue
        other = settings.start.run
        folder = paths.RESULTS / profile / "checkpoints" / other
        label = _parent_member(profile, member, settings, where)
        snapshot = f".epoch={settings.start.snapshot}" if settings.start.snapshot else ""
        file = folder / f"{label}{snapshot}.safetensors"
        remedy = f"robustgen train {other} --profile {profile}"
        if not file.exists():
            raise FileNotFoundError(f"{where}: it starts from {shown(file)}, which is missing; make it with: {remedy}")
        if not stamped(folder, stamp(load_run(profile, other)), but=("precision", "parents")):
            raise ValueError(f"{where}: it starts from {other}, whose nets were trained with other settings than it "
                             f"has now; train it again: {remedy}")
        found[member] = Parent(f"{other} {label}{snapshot}", file, sums(file))
    return found


def parents_first(profile, names):
    """These runs and those that they start from, each before those that start from it, else in the order given.

    Raises ValueError for a start that cannot be: a run or net that does not exist, another architecture, a circle.
    """
    order = {}

    def visit(name, chain):
        if name in chain:
            circle = " -> ".join([*chain[chain.index(name):], name])
            raise ValueError(f"params/{profile}/train.yaml: the starts of its runs go in a circle, {circle}; let one "
                             "of them begin with fresh weights")
        if name not in order:
            for other in parent_runs(profile, name):
                visit(other, [*chain, name])
            order[name] = True

    for name in names:
        visit(name, [])
    return list(order)


def parent_runs(profile, name):
    """Names of the runs that a run's nets start from; each net's start is checked as far as that goes untrained."""
    where, found = f"params/{profile}/train.yaml, {name}", {}
    for member, settings in load_run(profile, name).members().items():
        if settings.start and settings.start.file:
            _checked_file(paths.ROOT / settings.start.file, settings, where)
        elif settings.start:
            _parent_member(profile, member, settings, where)
            found[settings.start.run] = True
    return list(found)


def _parent_member(profile, member, settings, where):
    """Name of the net of another run that a net begins with: of the same name, else the first of the same seed."""
    start = settings.start
    known("run", start.run, run_names(profile), f"{where}, start: ")
    other = load_run(profile, start.run)
    nets = other.members()
    fitting = other.fitting(start.member, f"{where}, start") if nets else []
    if not fitting:
        raise ValueError(f"{where}: it starts from {start.run}, which has no such nets in this profile; give it some")
    same = [name for name in fitting if nets[name].seed == settings.seed]
    if not same and len({nets[name].seed for name in fitting}) > 1:
        raise ValueError(f"{where}: it starts from {start.run}, which has no net of seed {settings.seed} (there are: "
                         f"{', '.join(fitting)}); train one, or name another 'member'")
    chosen = member if member in fitting else (same or fitting)[0]
    parent = nets[chosen]
    if start.snapshot and not (parent.snapshots and start.snapshot <= parent.epochs):
        raise ValueError(f"{where}: it starts from {start.run} after epoch {start.snapshot}, and that run "
                         + (f"has {parent.epochs} epochs" if parent.snapshots else "keeps no snapshots")
                         + "; change its 'snapshots' or 'epochs', or start from the final net")
    _check_architecture(f"{start.run} {chosen}", parent.model, settings, where)
    return chosen


def _checked_file(file, settings, where):
    """The checkpoint file that a net begins with, if it is one of its architecture."""
    if not file.exists():
        raise FileNotFoundError(f"{where}: it starts from {shown(file)}, which is missing; put it there, or name "
                                "another")
    architecture, _ = read_checkpoint(file, "get it again")
    _check_architecture(shown(file), architecture, settings, where)
    return file


def _check_architecture(label, theirs, settings, where):
    if theirs != settings.model:
        raise ValueError(f"{where}: its nets are {settings.model}, but {label}, from which they start, is {theirs}; "
                         "give both the same 'model'")
