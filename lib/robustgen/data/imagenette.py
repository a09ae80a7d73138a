"""Imagenette at 160 px (fast.ai): photographs of ten ImageNet classes, 9469 + 3925, of variable size with shorter side
160.

They stay in their archives, outside the repository. Nothing is unpacked on disk: an index of the archive says where
each photograph is, and only those asked for are decoded. Archives are looked for in the folder named by ROBUSTGEN_DATA,
then in the user's cache, to which fast.ai's is downloaded where both lack it.
"""

import re
import tarfile

import numpy as np

from ..utils import download

SIDE = 150   # pixels of the square cut from an image's centre (Beadini & Masi 2023)
CLASSES = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}
ARCHIVE = "imagenette2-160.tgz"
URL = f"https://s3.amazonaws.com/fast-ai-imageclas/{ARCHIVE}"   # and its MD5: from torchvision.datasets.Imagenette
CHECKSUMS = {
    ARCHIVE: ("md5", "e793b78cc4c9e9a4ccc0c1155377a412"),
    "imagenette-160-train-a.tar": ("sha256", "644683c23fe01cd2776d636eb4c4dc9d8a72f8c8b254f82742d5b94dd05e4032"),
    "imagenette-160-train-b.tar": ("sha256", "794f787431b438f6e8cd77a38ac78657527f2e8ab7cbe1fcccf0e16b3cda1ea1"),
    "imagenette-160-val.tar": ("sha256", "69e02faa1c0d2106f572af4ad1e9006c3208644a60b2e6ba165e5eb462bf47b2"),
}
FORMS = {   # the archives that hold a split: fast.ai's, or uncompressed ones
    "train": ((ARCHIVE,), ("imagenette-160-train-a.tar", "imagenette-160-train-b.tar")),
    "test": ((ARCHIVE,), ("imagenette-160-val.tar",)),
}


def read_imagenette(split):
    """The images and labels of a split, "train" or "test" (which the archives call val), in order of class and file
    name.

    Returns Photos and int64 (N,). Raises OSError, naming the remedy, where archives are damaged, or missing and not to
    be had.
    """
    part = {"train": "train", "test": "val"}[split]
    found = []
    for path in imagenette_archives(split):
        with tarfile.open(path) as archive:
            for member in archive:
                if place := re.search(rf"/{part}/(n\d+)/([^/.]+)\.jpe?g$", member.name, re.IGNORECASE):
                    found.append((*place.groups(), path, member))
    found.sort(key=lambda entry: entry[:2])   # without the ending, in which the archives differ
    position = {wnid: y for y, wnid in enumerate(CLASSES)}
    return Photos([entry[2:] for entry in found]), np.array([position[entry[0]] for entry in found])


class Photos:
    """Images in archives, decoded when indexed: photos[positions] is uint8 (n, 3, 150, 150)."""

    def __init__(self, files):
        self.files = files   # pairs of an archive's path and a member

    def __len__(self):
        return len(self.files)

    def __getitem__(self, positions):
        from tqdm import tqdm

        x = np.empty((len(positions), 3, SIDE, SIDE), np.uint8)
        rows = {}   # of `x`, by archive
        for row, position in enumerate(positions):
            path, member = self.files[position]
            rows.setdefault(path, []).append((row, member))
        with tqdm(total=len(x), desc="decoding imagenette", delay=1) as bar:
            for path, members in rows.items():
                with tarfile.open(path) as archive:
                    # a compressed archive can only be read forwards
                    for row, member in sorted(members, key=lambda entry: entry[1].offset):
                        x[row] = centre_square(archive.extractfile(member)).transpose(2, 0, 1)
                        bar.update()
        return x


def centre_square(file):
    """The centre of an image file, as uint8 (150, 150, 3); where a side is below 150, the image is enlarged until it is
    150."""
    from PIL import Image, ImageOps

    image = Image.open(file).convert("RGB")
    if min(image.size) < SIDE:
        return np.asarray(ImageOps.fit(image, (SIDE, SIDE)))
    left, top = (round((side - SIDE) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def imagenette_archives(split):
    """Paths of the archives that hold a split, each with the right checksum; downloads fast.ai's where there are
    none."""
    forms = [{file: CHECKSUMS[file] for file in form} for form in FORMS[split]]
    return download.obtain("imagenette", URL, *forms, put=f"{ARCHIVE} or the three imagenette-160-*.tar")
