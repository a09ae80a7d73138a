"""Datasets as resident uint8 tensors.

A dataset is a folder of `data/`, fetched by `utils.mirrors`. Imagenette, ImageNet and CIFAR-100 live outside the
repository: see `imagenette`, `imagenet`, `cifar100`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..utils import paths
from ..utils.arguments import known, non_negative_integer, optional, positive_integer, validated
from ..utils.mirrors import CHECKSUMS
from . import cifar100, imagenet, imagenette

if TYPE_CHECKING:   # torch is loaded where it is used: fetching needs none
    import torch


CLASSES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": cifar100.CLASSES,
    "imagenette": tuple(imagenette.CLASSES.values()),
    "shapes": ("disc", "ring", "bar", "square", "triangle", "cross", "star", "crescent", "dumbbell", "tee"),
}
MAPPED = {"imagenet": imagenet.SIDE, "imagenet64": 64}   # the squares' side in pixels
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "shapes": (3, 32, 32),
          "imagenette": (3, imagenette.SIDE, imagenette.SIDE),
          **{name: (3, side, side) for name, side in MAPPED.items()}}


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


@dataclass(frozen=True)
class Mapped(Images):
    """Images too many for memory: `x` is a memory map on disk, and those asked for are brought to the device."""

    device: str = "cpu"

    def __getitem__(self, index):
        import torch

        rows = index if isinstance(index, slice) else index.cpu().numpy()
        return Images(torch.from_numpy(np.array(self.x[rows])), self.y[rows], self.classes).to(self.device)

    def to(self, device):
        return replace(self, device=device)

    @property
    def unit(self):
        raise MemoryError("all of ImageNet does not fit into memory; index first, such as images[:100].unit")


@validated(n=optional(positive_integer), seed=non_negative_integer)
def load_data(name: str, split: str, n: int | None = None, seed: int = 0) -> Images:
    """Load a dataset from `data/`, or one of photographs from where it lies.

    name   "mnist" (60000 + 10000 images, 1x28x28), "cifar10" and "cifar100" (50000 + 10000, 3x32x32), "imagenette"
           (9469 + 3925, 3x150x150), "imagenet" (1281167 + 50000, 3x256x256), "imagenet64" (the same, 3x64x64),
           "mnist-distractor" (as mnist, 1x56x28, with a letter above or below the digit), or "shapes" (10000 + 2000,
           3x32x32, rendered). The modules of their names have the details.
    split  "train" or "test".
    n      take this many images, drawn without replacement with `seed`; None takes all, in file order. All of ImageNet
           stays on disk (`Mapped`).

    Raises OSError, naming the remedy, where the files are missing (FileNotFoundError) or an archive is damaged.
    """
    import torch

    from . import distractor

    known("dataset", name, (*READERS, *MAPPED, "mnist-distractor"))
    known("split", split, ("train", "test"))
    files = name.removesuffix("-distractor")
    x, y, classes = (imagenet.read_imagenet(split, MAPPED[name]) if name in MAPPED
                     else (*READERS[files](split), CLASSES[files]))
    if name in MAPPED and n is None:
        return Mapped(x, torch.from_numpy(y), classes)
    chosen = torch.arange(len(x))
    if n is not None:
        if n > len(x):
            raise ValueError(f"{name} has {len(x)} {split} images; {n} cannot be drawn. Choose 1 to {len(x)}.")
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    x = torch.from_numpy(x[chosen.numpy()]).view(-1, *SHAPES[files])   # only what is drawn is copied, or decoded
    y = torch.from_numpy(y[chosen.numpy()].astype(np.int64))
    if name != files:
        x = distractor.compose(x, chosen)
    return Images(x, y, classes)


def _folder(name):
    folder = paths.DATA / name
    if not folder.is_dir():
        raise FileNotFoundError(f"data/{name} is missing; fetch it with: make data")
    return folder


def _read_mnist(split):
    folder, part = _folder("mnist"), "train" if split == "train" else "t10k"
    x = np.memmap(folder / f"{part}-images-idx3-ubyte", np.uint8, "r")[16:]   # behind a 16-byte header
    y = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    return x.reshape(-1, 784), y


def _read_cifar10(split):
    folder = _folder("cifar10")
    files = [f for f in CHECKSUMS["cifar10"] if f.startswith("data" if split == "train" else "test")]
    rows = np.concatenate([np.memmap(folder / f, np.uint8, "r") for f in files]).reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]


def _read_shapes(split):
    from .shapes import read_shapes

    return read_shapes(split)


READERS = {"mnist": _read_mnist, "cifar10": _read_cifar10, "cifar100": cifar100.read_cifar100,
           "imagenette": imagenette.read_imagenette, "shapes": _read_shapes}


def fit_images(images, shape):
    """Images as those of another dataset, `shape` (C, H, W): larger ones averaged down, smaller ones amid black, grey
    ones in every channel.

    Raises ValueError for images larger along one side and smaller along the other, or of other colours.
    """
    from torch.nn.functional import adaptive_avg_pool2d, pad

    channels, height, width = shape
    own = images.x.shape[1:]
    if own[0] not in (1, channels) or (own[1] < height) != (own[2] < width):
        raise ValueError(f"images of shape {tuple(own)} cannot be fitted to {tuple(shape)}; crop them or choose "
                         "another dataset")
    x = images.x.expand(-1, channels, -1, -1)
    if x.shape[2] >= height and x.shape[3] >= width:
        x = adaptive_avg_pool2d(x.float(), (height, width)).round().byte()
    else:
        rows, columns = height - x.shape[2], width - x.shape[3]
        x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return replace(images, x=x)
