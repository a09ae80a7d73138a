"""Imagenette, on small archives made here; the last test reads the real ones where there are any."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustgen.data import imagenette
from robustgen.data.datasets import CLASSES, load_data
from robustgen.utils import download, paths
from robustgen.utils.torchvision_import import torchvision

FASTAI, TRAIN_A, TRAIN_B, VAL = imagenette.CHECKSUMS
SIZES = [(160, 213), (161, 160), (160, 160), (175, 160), (170, 163)]   # height, width
# in order
KEYS = [f"{wnid}/{stem}" for wnid in imagenette.CLASSES for stem in ("ILSVRC2012_val_7", f"{wnid}_1", f"{wnid}_10")]
REAL = Path(os.environ.get("ROBUSTGEN_DATA", "unset"))
REMEDY = "put imagenette2-160.tgz or the three imagenette-160-\\*.tar in the folder named by ROBUSTGEN_DATA"


def photograph(number, part):
    """Ramps down and across, which show where a crop begins, and a blue of the photograph's own."""
    row, column = np.mgrid[:SIZES[number % 5][0], :SIZES[number % 5][1]]
    return np.stack([row, column, np.full_like(row, 8 * number + 4 * (part == "val"))], -1).astype(np.uint8)


def pack(path, entries, ending):
    """Write an archive of the photographs (key, number, part), under its own top folder."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in [("noise_imagenette.csv", b"path"),
                              *((f"{part}/{key}.{ending}", jpeg(photograph(n, part))) for key, n, part in entries)]:
            member = tarfile.TarInfo(f"{'imagenette2-160' if ending == 'JPEG' else 'imagenette-160'}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of archives of both forms that hold the same photographs, fast.ai's in reverse."""
    folder = tmp_path_factory.mktemp("archives")
    train, val = ([(key, n, part) for n, key in enumerate(KEYS)] for part in ("train", "val"))
    pack(folder / TRAIN_A, train[::2], "jpg")
    pack(folder / TRAIN_B, train[1::2], "jpg")
    pack(folder / VAL, val, "jpg")
    pack(folder / FASTAI, (train + val)[::-1], "JPEG")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """place(folder, names) puts archives into `given`, which ROBUSTGEN_DATA names, or into `cache`; there is no
    network."""
    def put(folder, *names):
        folders[folder].mkdir(parents=True, exist_ok=True)
        for name in names:
            (folders[folder] / name).write_bytes((made / name).read_bytes())
        return folders[folder]

    folders = {"given": tmp_path / "given", "cache": tmp_path / "cache/robustgen"}
    folders["given"].mkdir()
    monkeypatch.setenv("ROBUSTGEN_DATA", str(folders["given"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in imagenette.CHECKSUMS:
        monkeypatch.setitem(imagenette.CHECKSUMS, name, ("sha256", download.digest(made / name, "sha256")))
    serve(monkeypatch, None)
    return put


def serve(monkeypatch, body):
    """The address answers with `body`, or not at all; returns the list of what was asked for."""
    def urlopen(url, timeout):
        asked.append(url)
        if body is None:
            raise OSError("no route to host")
        reply = io.BytesIO(body)
        reply.headers = {"Content-Length": str(len(body))}
        return reply

    asked = []
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


@pytest.mark.parametrize("where, names", [("given", [FASTAI]), ("given", [TRAIN_A, TRAIN_B, VAL]), ("cache", [FASTAI]),
                                          ("cache", [VAL, TRAIN_B, TRAIN_A])])
@pytest.mark.parametrize("split, part", [("train", "train"), ("test", "val")])
def test_images_are_centre_crops_in_order_of_class_and_name(place, where, names, split, part):
    """Whatever archive they are from, in whatever order; torchvision's crop is the reference."""
    place(where, *names)
    images = load_data("imagenette", split)
    crop = torchvision.transforms.CenterCrop(150)
    expected = torch.stack([crop(torch.from_numpy(photograph(n, part)).permute(2, 0, 1)) for n in range(len(KEYS))])
    assert images.x.shape == (30, 3, 150, 150) and images.x.dtype == torch.uint8 and images.x.is_contiguous()
    change = images.x.float() - expected
    # JPEG's; a crop one pixel beside its place differs by 1 on average
    assert change.abs().max() <= 5 and change.mean((2, 3)).abs().max() < 0.5
    assert images.y.tolist() == [n // 3 for n in range(30)]


def test_the_classes_are_named_in_order_of_their_ids():
    theirs = torchvision.datasets.Imagenette
    assert list(imagenette.CLASSES) == sorted(imagenette.CLASSES)
    assert imagenette.CLASSES == {wnid: names[0] for wnid, names in theirs._WNID_TO_CLASS.items()}
    assert (imagenette.URL, imagenette.CHECKSUMS[FASTAI][1]) == theirs._ARCHIVES["160px"]
    assert CLASSES["imagenette"][0] == "tench" and CLASSES["imagenette"][9] == "parachute"


@pytest.mark.parametrize("names", [[FASTAI], [TRAIN_A, TRAIN_B]])
def test_a_subset_is_of_the_whole_and_decodes_no_more(place, monkeypatch, names):
    place("given", *names)
    whole, decoded = load_data("imagenette", "train"), []
    monkeypatch.setattr(imagenette, "centre_square",
                        lambda file, square=imagenette.centre_square: decoded.append(file.name) or square(file))
    part = load_data("imagenette", "train", 7, seed=3)
    drawn = torch.randperm(30, generator=torch.Generator().manual_seed(3))[:7]
    assert torch.equal(part.x, whole.x[drawn]) and torch.equal(part.y, whole.y[drawn]) and len(decoded) == 7


@pytest.mark.parametrize("pixels", [np.tile(np.uint8([[[200, 100, 50]]]), (100, 140, 1)),
                                    np.full((160, 149), 90, np.uint8)])
def test_small_images_are_enlarged_and_grey_ones_coloured(pixels):
    square = imagenette.centre_square(io.BytesIO(jpeg(pixels)))
    assert square.shape == (150, 150, 3) and np.abs(square.astype(int) - pixels[0, 0]).max() <= 2


def test_a_damaged_archive_is_refused_with_the_remedy(place):
    file = place("given", VAL) / VAL
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OSError, match=f"{file} is damaged .*put a good copy in its place, or delete it to have "
                                      f"that of .*{FASTAI}"):
        load_data("imagenette", "test")


def test_missing_data_names_the_remedy(place):
    place("given", TRAIN_A)   # a half is nothing
    with pytest.raises(FileNotFoundError, match=f"imagenette is missing, and could not be had from .*{FASTAI} "
                                                f"\\(no route to host\\); {REMEDY}$"):
        load_data("imagenette", "train")


def test_a_download_goes_to_the_cache_once(place, made, monkeypatch):
    asked = serve(monkeypatch, (made / FASTAI).read_bytes())
    images = load_data("imagenette", "train")
    assert [file.name for file in paths.cache_folder().iterdir()] == [FASTAI] and asked == [imagenette.URL]
    assert torch.equal(load_data("imagenette", "train").x, images.x)
    assert len(load_data("imagenette", "test")) == 30 and len(asked) == 1


def test_a_bad_download_leaves_nothing(place, made, monkeypatch):
    serve(monkeypatch, (made / FASTAI).read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=f"wrong checksum\\); {REMEDY}$"):
        load_data("imagenette", "train")
    assert list(paths.cache_folder().iterdir()) == []


def test_without_the_variables_the_cache_is_in_the_home_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert paths.cache_folder() == Path.home() / ".cache/robustgen"


@pytest.mark.skipif(not any(all((REAL / name).is_file() for name in form)
                            for form in ([FASTAI], [TRAIN_A, TRAIN_B, VAL])),
                    reason=f"the real Imagenette is not here; to have it read, {REMEDY.replace(chr(92), '')}")
def test_the_real_archives_have_the_published_counts():
    for split, count in [("train", 9469), ("test", 3925)]:
        photos, y = imagenette.read_imagenette(split)
        assert len(photos) == len(y) == count and len(np.unique(y)) == 10
        assert photos[np.array([0, count - 1])].std((1, 2, 3)).min() > 10
        assert load_data("imagenette", split, 4).x.shape == (4, 3, 150, 150)
