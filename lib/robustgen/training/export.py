"""Finished nets on their way from one machine to another: a tar archive a run, in parts of at most 15 MB.

    cat laptop-cifar10-linf.tar.* | tar --extract --directory results    # what `robustgen restore` does, with checks

An archive has the files of `results/` as training left them, in the precision that the run's `weights` says: whole runs
under <profile>/checkpoints/, the finished nets of others under <profile>/training/, where training goes on with them.
`<profile>-<run>.sha256` lists the parts as `sha256sum --check` reads them.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from ..utils import paths
from ..utils.arguments import known
from ..utils.profiles import profile_names
from .family import run_folders
from .starts import checksum

PART = 15_000_000   # bytes


def export_run(name, profile, folder):
    """Write a run's finished nets into `folder`; return the files, none if no net is finished.

    What an earlier export of this run has left there goes.
    """
    folder = Path(folder)
    work, target = run_folders(name, profile)
    if target.exists() and not work.exists():
        files = [target.with_name(f"{name}.csv"), *sorted(target.iterdir())]
    else:
        done = [record.stem for record in work.glob("*.json") if record.name != "settings.json"]
        files = sorted(file for file in work.glob("*") if file.name == "settings.json"
                       or file.suffix in (".json", ".safetensors") and _net(file) in done) if done else []
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{profile}-{name}"
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as nest:
        archive = Path(nest) / "archive"
        with tarfile.open(archive, "w") as tar:
            for file in files:
                tar.add(file, file.relative_to(paths.RESULTS).as_posix(), filter=_anonymous)
        parts = _split(archive, Path(nest), stem) if files else []
        for old in [*folder.glob(f"{stem}.tar.*"), *folder.glob(f"{stem}.sha256")]:
            old.unlink(missing_ok=True)   # another process may export the same run
        if parts:
            paths.write_text(folder / f"{stem}.sha256", "".join(f"{checksum(part)}  {part.name}\n" for part in parts))
        return [part.replace(folder / part.name) for part in parts]


def restore_runs(folder):
    """Put exported runs back into `results/`; return their folders there. What is there of these runs goes.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a strange archive: nothing of that run
    is then changed.
    """
    folder, restored = Path(folder), []
    lists = sorted(folder.glob("*.sha256"))
    if not lists:
        raise FileNotFoundError(f"{folder} has no exported runs (<profile>-<run>.sha256); make some with: robustgen "
                                "train RUN --minutes M --export FOLDER")
    for listed in lists:
        parts = [line.split("  ", 1) for line in listed.read_text(encoding="utf-8").splitlines()]
        for digest, part in parts:
            if not (folder / part).exists():
                raise FileNotFoundError(f"{folder / part} is missing; {listed.name} names it: copy it again")
            if checksum(folder / part) != digest:
                raise ValueError(f"{folder / part} is damaged, as its SHA-256 is not that of {listed.name}; copy it "
                                 "again")
        paths.RESULTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-restore-", dir=paths.RESULTS) as nest:
            with open(archive := Path(nest) / "archive", "wb") as whole:
                for _, part in parts:
                    with open(folder / part, "rb") as content:
                        shutil.copyfileobj(content, whole)
            with tarfile.open(archive) as tar:
                tar.extractall(Path(nest) / "results", filter="data")
            restored.append(_put(Path(nest) / "results", listed))
    return restored


def _put(unpacked, listed):
    """Move an unpacked archive to its place."""
    runs = [file.parent.relative_to(unpacked) for file in unpacked.glob("*/*/*/settings.json")]
    if len(runs) != 1 or runs[0].parts[1] not in ("checkpoints", "training"):
        raise ValueError(f"{listed} is no exported run: its archive should have one settings.json, in "
                         "<profile>/checkpoints/<run>/ or <profile>/training/<run>/; export the run again")
    found, (profile, _, name) = runs[0], runs[0].parts
    known("profile", profile, profile_names(), f"{listed}: ")
    work, target = run_folders(name, profile)
    shutil.rmtree(work, ignore_errors=True)
    place = paths.RESULTS / found
    with paths.atomic(place) as new:
        shutil.move(unpacked / found, new)
    table = unpacked / profile / "checkpoints" / f"{name}.csv"
    if table.exists():
        with paths.atomic(target.with_name(f"{name}.csv")) as new:
            shutil.move(table, new)
    return place


def _net(file):
    """The net that a file of a run belongs to."""
    return file.name.removesuffix(file.suffix).partition(".epoch=")[0]


def _anonymous(entry):
    """An archive's entry without owner and time: the same nets, the same archive."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.mode = 0o644
    entry.uname = entry.gname = ""
    return entry


def _split(file, folder, stem):
    count = -(-file.stat().st_size // PART)
    parts = [folder / f"{stem}.tar.{number:02}of{count:02}" for number in range(1, count + 1)]
    with open(file, "rb") as whole:
        for part in parts:
            part.write_bytes(whole.read(PART))
    return parts
