"""CIFAR-100 (Krizhevsky 2009): 50000 + 10000 images of 100 classes, 3 x 32 x 32, from its archive outside the
repository.

The archive is looked for in the folder named by ROBUSTGEN_DATA, then in the user's cache, to which the official one is
downloaded where both lack it.
"""

import tarfile

import numpy as np

from ..utils import download

ARCHIVE = "cifar-100-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"   # and its MD5
CLASSES = tuple("apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
                "camel can castle caterpillar cattle "
                "chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
                "forest fox girl hamster house "
                "kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain "
                "mouse mushroom oak_tree orange orchid "
                "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
                "road rocket rose sea seal shark shrew "
                "skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
                "television tiger tractor train trout "
                "tulip turtle wardrobe whale willow_tree wolf woman worm".split())
CHECKSUM = ("md5", "03b5dce01913d631647c71ecec9e9cb8")


def read_cifar100(split):
    """Images (N, 3072) and fine labels (N,) of a split, "train" or "test", both uint8.

    Raises OSError, naming the remedy, where the archive is damaged, or missing and not to be had.
    """
    path, = download.obtain("cifar100", URL, {ARCHIVE: CHECKSUM}, put=ARCHIVE)
    with tarfile.open(path) as archive:
        packed = archive.extractfile(f"cifar-100-binary/{split}.bin").read()
    rows = np.frombuffer(packed, np.uint8).reshape(-1, 3074)   # coarse label, fine label, pixels
    return rows[:, 2:], rows[:, 1]
