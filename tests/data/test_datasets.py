import json

import numpy as np
import pytest
import torch

from robustgen.data import distractor
from robustgen.data.datasets import CLASSES, Images, fit_images, load_data
from robustgen.utils import paths
from robustgen.utils.mirrors import CHECKSUMS, dataset_problems


@pytest.mark.parametrize("name, shape, classes", [("mnist", (1, 28, 28), 10), ("cifar10", (3, 32, 32), 10)])
def test_the_files_are_the_official_ones_and_load_as_bytes(name, shape, classes):
    assert dataset_problems(name, paths.DATA / name) == []
    train, test = load_data(name, "train"), load_data(name, "test")
    assert train.x.dtype == torch.uint8 and train.x.shape[1:] == shape and len(test) == 10000
    assert len(train) == {"mnist": 60000, "cifar10": 50000}[name] and len(train.classes) == classes
    assert torch.bincount(test.y).sum() == 10000 and test.y.max() == classes - 1
    assert test[:5].unit.max() <= 1 and test[:5].unit.dtype == torch.float32


def test_cifar_images_are_upright_and_in_colour():
    """CIFAR-10's first test images are a cat, two ships and an airplane; the mean colours are the published ones."""
    assert [CLASSES["cifar10"][y] for y in load_data("cifar10", "test").y[:4]] == ["cat", "ship", "ship", "airplane"]
    mean = load_data("cifar10", "train").x.double().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=1e-4)


def test_a_subset_is_drawn_once_without_replacement():
    a, b, c = (load_data("mnist", "test", 500, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)
    assert len(torch.unique(a.x.flatten(1), dim=0)) == 500


@pytest.mark.parametrize("call, error, message", [
    (lambda: load_data("mnits", "test"), ValueError, "dataset 'mnits' does not exist; did you mean 'mnist'"),
    (lambda: load_data("mnist", "tets"), ValueError, "split 'tets' does not exist; did you mean 'test'"),
    (lambda: load_data("mnist", "test", 10001), ValueError, "10001 cannot be drawn. Choose 1 to 10000"),
])
def test_bad_requests_are_refused_in_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_missing_data_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match="data/mnist is missing; fetch it with: make data"):
        load_data("mnist", "test")


def test_the_lock_of_the_data_agrees_with_the_checksums():
    """data.dvc's folder hash is the MD5 of DVC's listing of the files."""
    import hashlib

    import yaml

    listing = sorted(({"md5": md5, "relpath": f"{name}/{file}"}
                      for name, files in CHECKSUMS.items() for file, md5 in files.items()),
                     key=lambda entry: entry["relpath"])
    expected = hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    assert yaml.safe_load((paths.ROOT / "data.dvc").read_text())["outs"][0]["md5"] == f"{expected}.dir"


def test_the_distractor_set_has_a_digit_in_one_half_and_the_letter_in_the_other():

    plain, images = load_data("mnist", "test", 200, seed=3), load_data("mnist-distractor", "test", 200, seed=3)
    a = torch.from_numpy(distractor.letter())
    upper, lower = images.x[:, 0, :28], images.x[:, 0, 28:]
    on_top = (lower == a).flatten(1).all(1)
    assert torch.equal(images.y, plain.y) and images.x.shape == (200, 1, 56, 28) and 70 < on_top.sum() < 130
    assert torch.equal(torch.where(on_top[:, None, None], upper, lower), plain.x[:, 0])
    assert ((upper == a).flatten(1).all(1) ^ on_top).all()


def test_where_the_digit_is_does_not_depend_on_what_else_is_drawn():
    whole = load_data("mnist-distractor", "test")
    part = load_data("mnist-distractor", "test", 5, seed=1)
    assert all((whole.x == image).flatten(1).all(1).any() for image in part.x)


def test_images_are_fitted_to_anothers_shape():
    grey = Images(torch.randint(256, (2, 1, 5, 3), dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    fitted = fit_images(grey, (3, 8, 8))
    assert fitted.x.shape == (2, 3, 8, 8) and fitted.classes == grey.classes and torch.equal(fitted.y, grey.y)
    assert torch.equal(fitted.x[:, :, 1:6, 2:5], grey.x.expand(-1, 3, -1, -1)) and fitted.x.sum() == 3 * grey.x.sum()
    large = Images(torch.randint(256, (2, 3, 16, 24), dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    mean = large.x.numpy().astype(float).reshape(2, 3, 4, 4, 4, 6).mean((3, 5))
    assert np.abs(fit_images(large, (3, 4, 4)).x.numpy() - mean).max() <= 0.5
    with pytest.raises(ValueError, match="images of shape .1, 5, 3. cannot be fitted to .3, 4, 4."):
        fit_images(grey, (3, 4, 4))
