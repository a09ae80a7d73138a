"""CIFAR-100 from an archive made here; the last test reads the real one where there is one."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from robustgen.data import cifar100
from robustgen.data.datasets import CLASSES, load_data
from robustgen.utils import download, paths

REAL = Path(os.environ.get("ROBUSTGEN_DATA", "unset"))
ROWS = {"train": 7, "test": 4}


def row(split, n):
    """A label pair, and an image whose pixels tell their channel, row and column."""
    channel, down, across = np.mgrid[:3, :32, :32]
    return n, 99 - 3 * n, (70 * channel + 5 * n + down + across // 2 + (split == "test")).astype(np.uint8)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The packed archive, whose checksum is the right one, not yet in place."""
    def pack():
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for split, count in ROWS.items():
                body = b"".join(bytes([coarse, fine]) + image.tobytes()
                                for coarse, fine, image in (row(split, n) for n in range(count)))
                member = tarfile.TarInfo(f"cifar-100-binary/{split}.bin")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
        return packed.getvalue()

    body = pack()
    (tmp_path / "made.tar.gz").write_bytes(body)
    monkeypatch.setattr(cifar100, "CHECKSUM", ("md5", download.digest(tmp_path / "made.tar.gz", "md5")))
    return body


def place(folder, body):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cifar100.ARCHIVE).write_bytes(body)
    return folder / cifar100.ARCHIVE


@pytest.mark.parametrize("where", ["given", "cache/robustgen"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_fine_labels_are_read_back(archive, offline, tmp_path, where, split):
    place(tmp_path / where, archive)
    images = load_data("cifar100", split)
    expected = [row(split, n) for n in range(ROWS[split])]
    assert images.x.dtype == torch.uint8 and images.x.shape == (ROWS[split], 3, 32, 32)
    assert images.y.dtype == torch.int64
    assert np.array_equal(images.x.numpy(), np.stack([image for _, _, image in expected]))
    assert images.y.tolist() == [fine for _, fine, _ in expected]
    assert images.classes == cifar100.CLASSES
    part = load_data("cifar100", split, 3, seed=5)
    drawn = torch.randperm(ROWS[split], generator=torch.Generator().manual_seed(5))[:3]
    assert torch.equal(part.x, images.x[drawn]) and torch.equal(part.y, images.y[drawn])


def test_the_folder_named_by_the_variable_comes_first(archive, offline, tmp_path):
    place(tmp_path / "given", archive)
    place(tmp_path / "cache/robustgen", b"another")
    assert len(load_data("cifar100", "test")) == 4


def test_the_classes_are_a_hundred_in_alphabetical_order():
    names = CLASSES["cifar100"]
    assert len(names) == len(set(names)) == 100 and list(names) == sorted(names)
    some = {0: "apple", 19: "cattle", 49: "mountain", 53: "orange", 99: "worm"}
    assert some == {n: names[n] for n in some}


@pytest.mark.parametrize("where", ["given", "cache/robustgen"])
def test_a_damaged_archive_is_refused_with_the_remedy(archive, offline, tmp_path, where):
    file = place(tmp_path / where, archive[:-1])
    with pytest.raises(OSError, match=f"^{file} is damaged .wrong checksum.; put a good copy in its place, or delete "
                                      f"it to have that of {cifar100.URL}$"):
        load_data("cifar100", "test")


def test_missing_data_names_the_remedy(offline):
    message = (r"^cifar100 is missing, and could not be had from https.*cifar-100-binary.tar.gz \(no route to host\); "
               "put cifar-100-binary.tar.gz in the folder named by ROBUSTGEN_DATA$")
    with pytest.raises(FileNotFoundError, match=message):
        load_data("cifar100", "train")
    assert not paths.cache_folder().exists() or not list(paths.cache_folder().iterdir())


def test_a_download_goes_to_the_cache_once_and_a_bad_one_leaves_nothing(archive, offline, monkeypatch):
    asked, bodies = [], [archive[:-1], archive]
    monkeypatch.setattr(download, "retrieve", lambda url: asked.append(url) or io.BytesIO(bodies.pop(0)))
    with pytest.raises(FileNotFoundError, match="could not be had from .* .wrong checksum.; put"):
        load_data("cifar100", "train")
    assert list(paths.cache_folder().iterdir()) == []
    images = load_data("cifar100", "train")
    assert torch.equal(load_data("cifar100", "train").x, images.x) and asked == 2 * [cifar100.URL]
    assert [file.name for file in paths.cache_folder().iterdir()] == [cifar100.ARCHIVE]


@pytest.mark.skipif(not (REAL / cifar100.ARCHIVE).is_file(),
                    reason=f"the real CIFAR-100 is not here; put {cifar100.ARCHIVE} in ROBUSTGEN_DATA")
def test_the_real_archive_has_the_published_counts():
    for split, count in [("train", 50000), ("test", 10000)]:
        images = load_data("cifar100", split)
        assert len(images) == count and (torch.bincount(images.y) == count // 100).all()
