"""ImageNet (ILSVRC 2012) as squares of 256 pixels, or another side: packed once into a file a split, mapped, not
loaded.

    robustgen pack FOLDER              # FOLDER/{train,val}/<wnid>/*.JPEG, as unpacked for torchvision's ImageFolder
    robustgen pack FOLDER --side 64    # ImageNet-64 of the off-manifold paper

1,281,167 + 50,000 photographs are 252 + 10 GB, 15.7 + 0.6 GB with a side of 64. They go into the folder named by
ROBUSTGEN_DATA, else into the user's cache.
"""

import os
from pathlib import Path

import numpy as np

from ..utils import download, paths

# pixels of the square where nothing else is asked for: the centre of an image whose shorter side is resized to it
SIDE = 256
SPLITS = {"train": "train", "test": "val"}   # in the folders, the held-out images are called val


def read_imagenet(split, side=SIDE):
    """The packed images of a split, "train" or "test": a memory map uint8 (N, 3, side, side), labels int64 (N,), the
    classes' names.

    Raises FileNotFoundError, naming the command that packs them, where they are missing.
    """
    for folder in download.folders():
        x, y, names = packed_files(folder, split, side)
        if x.is_file() and y.is_file() and names.is_file():
            return np.load(x, mmap_mode="r"), np.load(y), tuple(names.read_text().split())
    raise FileNotFoundError("imagenet is not packed; ask image-net.org for ILSVRC2012, unpack it into "
                            "FOLDER/train/<wnid>/ and FOLDER/val/<wnid>/, "
                            f"and run: robustgen pack FOLDER{'' if side == SIDE else f' --side {side}'}")


def packed_files(folder, split, side=SIDE):
    """Where a split's images, labels and class names lie in `folder`."""
    return tuple(Path(folder) / f"imagenet-{side}-{SPLITS[split]}{end}" for end in (".x.npy", ".y.npy", ".classes.txt"))


def pack_imagenet(source, target, split, side=SIDE):
    """Write the packed files of a split, squares of `side` pixels, into the folder `target`. Classes are the folders'
    names (wnids) in order.

    Raises OSError for a source without class folders, or an image that cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    folder = Path(source) / SPLITS[split]
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    found = [(path, y) for y, name in enumerate(names) for path in sorted((folder / name).iterdir())
             if path.suffix.lower() in (".jpeg", ".jpg", ".png")]
    if not found:
        raise FileNotFoundError(f"{folder} has no images in class folders; unpack ILSVRC2012 there as <wnid>/*.JPEG")
    at_x, at_y, at_names = packed_files(target, split, side)
    with paths.atomic(at_x) as new:
        x = np.lib.format.open_memmap(new, "w+", np.uint8, (len(found), 3, side, side))

        def put(row):
            x[row] = resized_square(found[row][0], side)

        with ThreadPoolExecutor(os.cpu_count()) as workers:   # decoding runs outside of Python's lock
            for _ in tqdm(workers.map(put, range(len(found))), total=len(found), desc=f"packing {split}", unit="image"):
                pass
        x.flush()
    with paths.atomic(at_y) as new, open(new, "wb") as file:
        np.save(file, np.array([y for _, y in found]))
    paths.write_text(at_names, "\n".join(names) + "\n")


def resized_square(path, side=SIDE):
    """An image file as uint8 (3, side, side): shorter side resized to `side`, then the centre. OSError names a file
    that cannot be read.

    256 pixels are made with a bilinear filter, other sides with a box filter, as in the downsampled ImageNet of
    Chrabaszcz et al. 2017; they squeeze the whole image into the square.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            resampling = Image.Resampling.BILINEAR if side == SIDE else Image.Resampling.BOX
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), resampling)).transpose(2, 0, 1)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error}); put a good copy in its place") from None
