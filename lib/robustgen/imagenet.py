"""ImageNet (ILSVRC 2012) as squares of 256 pixels, packed once into one file a split that is mapped, not loaded.

    python -m robustgen.imagenet FOLDER     # FOLDER/{train,val}/<wnid>/*.JPEG, as unpacked for torchvision's ImageFolder

1,281,167 + 50,000 photographs are 252 + 10 GB. They go into the folder named by ROBUSTGEN_DATA, else into the user's cache.
"""

import os
from pathlib import Path

import numpy as np

from . import paths, sources

SIDE = 256   # pixels of the square: the centre of an image whose shorter side is resized to it
SPLITS = {"train": "train", "test": "val"}   # in the folders, the held-out images are called val


def read(split):
    """The packed images of a split, "train" or "test": a memory map uint8 (N, 3, 256, 256), labels int64 (N,), the classes' names.

    Raises FileNotFoundError, naming the command that packs them, where they are missing.
    """
    for folder in sources.folders():
        x, y, names = files(folder, split)
        if x.is_file() and y.is_file() and names.is_file():
            return np.load(x, mmap_mode="r"), np.load(y), tuple(names.read_text().split())
    raise FileNotFoundError("imagenet is not packed; ask image-net.org for ILSVRC2012, unpack it into FOLDER/train/<wnid>/ and FOLDER/val/<wnid>/, "
                            "and run: python -m robustgen.imagenet FOLDER")


def files(folder, split):
    """Where a split's images, labels and class names lie in `folder`."""
    return tuple(Path(folder) / f"imagenet-{SIDE}-{SPLITS[split]}{end}" for end in (".x.npy", ".y.npy", ".classes.txt"))


def pack(source, target, split):
    """Write the packed files of a split into the folder `target`. Classes are the folders' names (wnids) in order.

    Raises OSError for a source without class folders, or an image that cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    folder = Path(source) / SPLITS[split]
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    found = [(path, y) for y, name in enumerate(names) for path in sorted((folder / name).iterdir()) if path.suffix.lower() in (".jpeg", ".jpg", ".png")]
    if not found:
        raise FileNotFoundError(f"{folder} has no images in class folders; unpack ILSVRC2012 there as <wnid>/*.JPEG")
    at_x, at_y, at_names = files(target, split)
    with paths.atomic(at_x) as new:
        x = np.lib.format.open_memmap(new, "w+", np.uint8, (len(found), 3, SIDE, SIDE))

        def put(row):
            x[row] = square(found[row][0])

        with ThreadPoolExecutor(os.cpu_count()) as workers:   # decoding runs outside of Python's lock
            for _ in tqdm(workers.map(put, range(len(found))), total=len(found), desc=f"packing {split}", unit="image"):
                pass
        x.flush()
    with paths.atomic(at_y) as new, open(new, "wb") as file:
        np.save(file, np.array([y for _, y in found]))
    paths.write(at_names, "\n".join(names) + "\n")


def square(path):
    """An image file as uint8 (3, 256, 256): shorter side resized to 256, then the centre. OSError names a file that cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error}); put a good copy in its place") from None


def main():
    import argparse

    parser = argparse.ArgumentParser(prog="python -m robustgen.imagenet", description="Pack ImageNet into one file of 256-pixel squares a split.")
    parser.add_argument("folder", help="has train/<wnid>/*.JPEG and val/<wnid>/*.JPEG")
    try:
        for split in SPLITS:
            pack(parser.parse_args().folder, sources.folders()[0], split)
    except OSError as problem:
        parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
