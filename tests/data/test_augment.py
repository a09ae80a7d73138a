"""Batched augmentation: what it does to an image, and that it is the same image by image."""

import pytest
import torch

from robustgen.core import rng
from robustgen.data import augment
from robustgen.utils.torchvision_import import torchvision

SEEDS = rng.seeds(0, 400)


@pytest.fixture
def x():
    return torch.randint(256, (400, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_flips_are_torchvisions_and_half_of_all(x):
    flipped = augment.flip(x, SEEDS)
    turned = torch.tensor([torch.equal(a, torchvision.transforms.functional.hflip(b)) for a, b in zip(flipped, x)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, x)])
    assert (turned ^ kept).all() and 150 < turned.sum() < 250


def test_crops_are_windows_of_the_padded_image_and_all_of_them_come_up(x):
    cropped = augment.crop(x, SEEDS, 1)
    padded = torch.nn.functional.pad(x, [1] * 4)
    windows = torch.stack([padded[:, :, i:i + 8, j:j + 6] for i in range(3) for j in range(3)], 1)
    which = (windows == cropped[:, None]).flatten(2).all(2)
    assert which.any(1).all() and (which.sum(0) > 20).all()


def test_mixing_takes_the_stated_share_of_each_image(x):
    own, other = torch.zeros(400, 1, 8, 6, dtype=torch.float64), torch.arange(400) ^ 1
    own[::2] = 1   # so a mixed pixel of an even image is the weight of the image itself
    mixed, share, partners = augment.mix(own, SEEDS)
    weight = torch.where((torch.arange(400) % 2 == 0).view(-1, 1, 1, 1), mixed, 1 - mixed)
    assert torch.equal(partners, other) and torch.allclose(weight.mean((1, 2, 3)), share)
    cut = ((weight == 0) | (weight == 1)).flatten(1).all(1)
    blended = weight.flatten(1).std(1) < 1e-9
    assert (cut | blended).all() and 120 < cut.sum() < 280
    assert share[~cut].mean() == pytest.approx(0.5, abs=0.08)   # uniform: Beta(1, 1)


def test_cutmix_cuts_a_box(x):
    mixed, share, _ = augment.mix((torch.arange(400) % 2).double().view(-1, 1, 1, 1).expand(-1, 1, 8, 6), SEEDS)
    for image, kept in zip(mixed[::2, 0], share[::2]):
        if set(image.unique().tolist()) == {0, 1}:
            rows, columns = image.any(1), image.any(0)
            assert torch.equal(image.bool(), rows[:, None] & columns) and image.mean() == pytest.approx(1 - float(kept))


@pytest.mark.parametrize("change", [augment.flip, lambda x, s: augment.crop(x, s, 2),
                                    lambda x, s: augment.mix(x.double(), s)[0]])
def test_an_image_is_augmented_alike_in_any_batch(x, change):
    whole = change(x, SEEDS)
    parts = torch.cat([change(a, b) for a, b in zip(x.split(50), SEEDS.split(50))])
    assert torch.equal(whole, parts) and not torch.equal(whole, x.to(whole.dtype))


def test_mixing_refuses_an_odd_batch(x):
    with pytest.raises(ValueError, match="3 is odd; choose a batch that is a multiple of 2"):
        augment.mix(x[:3].double(), SEEDS[:3])
