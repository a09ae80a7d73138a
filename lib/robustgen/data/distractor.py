"""MNIST with a distractor: images of 56 x 28 with a digit in one half and the letter A in the other (off-manifold
paper, B.9)."""

import numpy as np

from ..core import rng

# of the letter A, (column, row) to (column, row)
STROKES = (((4, 24), (14, 3)), ((24, 24), (14, 3)), ((8, 17), (20, 17)))


def letter():
    """The letter A as uint8 (28, 28), drawn with smooth edges: no font is needed."""
    row, column = np.mgrid[:28, :28]
    points = np.stack([column, row], -1).astype(float)
    distance = np.full((28, 28), np.inf)
    for begin, end in np.array(STROKES, float):
        along = np.clip((points - begin) @ (end - begin) / np.sum((end - begin) ** 2), 0, 1)[..., None]
        distance = np.minimum(distance, np.linalg.norm(points - begin - along * (end - begin), axis=-1))
    return (255 * np.clip(2 - distance, 0, 1)).astype(np.uint8)


def on_top(index):
    """Whether the digit is in the upper half: (N,) booleans for the images' positions (N,) in their file."""
    return rng.uniform(rng.fold(index, 0), ()) < 0.5


def compose(digits, index):
    """Digits (N, 1, 28, 28) uint8 and their positions in the file (N,) to images (N, 1, 56, 28) uint8."""
    import torch

    a = torch.from_numpy(letter()).expand_as(digits)
    top = on_top(index).view(-1, 1, 1, 1)
    return torch.cat([torch.where(top, digits, a), torch.where(top, a, digits)], 2)
