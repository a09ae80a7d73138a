"""Training on ImageNet: its packed files, random resized crops, and denoised windows that grow."""

import numpy as np
import pytest
import torch
from PIL import Image

from robustgen.__main__ import main
from robustgen.core import rng
from robustgen.data import augment, imagenet
from robustgen.data.datasets import Images, Mapped, load_data
from robustgen.models.builders import build_model
from robustgen.training import denoising, progressive
from robustgen.training.runs import load_run
from robustgen.training.trainer import train_net
from robustgen.utils import paths
from robustgen.utils.torchvision_import import torchvision

STAGES = [{"until": 0.5, "images": 0.5, "side": 8}, {"until": 1, "images": 0.25, "side": 16}]
SEEDS = rng.seeds(0, 8)


@pytest.fixture
def x():
    return torch.rand(8, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def objective(task="joint", stages=STAGES, side=16, **changes):
    model = build_model("gradresnet", width=8, blocks=[1, 1], generator=0).double()
    settings = dict(task=task, sigma_classification=[1, 70], sigma_denoising=[1, 70], mixed=False, side=side,
                    stages=stages)
    return progressive.ProgressiveJointDenoising(model, **(settings | changes))


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of two classes, twice as wide as high, a gradient from left to right."""
    for split, count in (("train", 5), ("val", 1)):
        for wnid in ("n02", "n01"):
            (tmp_path / split / wnid).mkdir(parents=True)
            for i in range(count):
                ramp = np.broadcast_to(np.linspace(0, 255, 600)[None, :, None], (300, 600, 3)).astype(np.uint8)
                Image.fromarray(ramp).save(tmp_path / split / wnid / f"{i}.JPEG", quality=95)
    return tmp_path


def test_a_packed_imagenet_is_mapped_whole_and_drawn_into_memory(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path))
    for split in ("train", "test"):
        imagenet.pack_imagenet(folder, tmp_path, split)
    whole, drawn = load_data("imagenet", "train"), load_data("imagenet", "test", 2)
    assert isinstance(whole, Mapped) and isinstance(whole.x, np.memmap)
    assert len(whole) == 10 and whole.classes == ("n01", "n02")
    assert type(drawn) is Images and drawn.x.shape == (2, 3, 256, 256) and sorted(drawn.y.tolist()) == [0, 1]
    part = whole.to(torch.device("cpu"))[torch.tensor([9, 0])]
    assert type(part) is Images and part.x.dtype == torch.uint8 and part.y.tolist() == [1, 0]
    middle = np.linspace(0, 255, 512)[128:-128]   # the shorter side becomes 256, then the centre is cut
    assert abs(part.x[0].float() - torch.tensor(middle)).max() < 4


def test_imagenet_is_also_packed_at_64_pixels_beside_the_larger_one(folder, tmp_path, monkeypatch):
    """Pixels are averaged, not interpolated: every second column of an image of 128 pixels is white, so that all is
    grey."""
    stripes = np.zeros((128, 160, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(folder / "val/n02/1.png")
    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path)
    assert main(["pack", str(folder), "--side", "64"]) is None
    x, y, names = imagenet.read_imagenet("test", 64)
    assert isinstance(x, np.memmap) and x.shape == (3, 3, 64, 64)
    assert y.tolist() == [0, 1, 1] and names == ("n01", "n02")
    columns = 150 + (np.arange(64) + 0.5) * 300 / 64 - 0.5   # of the ramp, at the middle of each pixel of its centre
    assert abs(x[0] - columns * 255 / 599).max() < 3 and (x[2] == 100).all()
    assert imagenet.read_imagenet("train", 64)[0].shape == (10, 3, 64, 64)
    with pytest.raises(FileNotFoundError, match="FOLDER$"):
        imagenet.read_imagenet("test")   # the other side is not taken for it
    imagenet.pack_imagenet(folder, tmp_path, "test")
    assert imagenet.read_imagenet("test")[0].shape == (3, 3, 256, 256)
    assert imagenet.read_imagenet("test", 64)[0].shape == (3, 3, 64, 64)
    with pytest.raises(SystemExit, match="2"):
        main(["pack", str(folder), "--side", "0"])


def test_an_imagenet_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="imagenet is not packed; .* run: robustgen pack FOLDER$"):
        load_data("imagenet", "train")
    with pytest.raises(FileNotFoundError, match="imagenet is not packed; .* run: robustgen pack FOLDER "
                                                "--side 64$"):
        imagenet.read_imagenet("train", 64)
    with pytest.raises(FileNotFoundError, match="has no images in class folders"):
        imagenet.pack_imagenet(tmp_path, tmp_path, "train")
    (tmp_path / "train/n01").mkdir(parents=True)
    (tmp_path / "train/n01/a.JPEG").write_bytes(b"no picture")
    with pytest.raises(OSError, match="a.JPEG cannot be read"):
        imagenet.pack_imagenet(tmp_path, tmp_path, "train")
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob(".tmp*"))


def test_resized_crops_are_torchvisions_of_the_same_box():
    """A picture of its own coordinates tells which box was taken; torchvision resizes that very box."""
    side, at = 64, torch.arange(64, dtype=torch.float64)
    coordinates = torch.stack([at.expand(side, side), at[:, None].expand(side, side)])[None].expand(400, -1, -1, -1)
    crops = augment.resized_crop(coordinates, rng.seeds(0, 400), 16)
    # pixels of the image a pixel of the crop: across, down
    step = crops[:, [0, 1], [8, 9], [9, 8]] - crops[:, :, 8, 8]
    size = step * 16 / side
    area, ratio = size.prod(1), size[:, 0] / size[:, 1]
    assert 0.08 - 1e-9 <= area.min() < 0.12 and 0.9 < area.max() <= 1
    assert ratio.min() >= 3 / 4 - 1e-9 and ratio.max() <= 4 / 3 + 1e-9
    torch.manual_seed(0)   # torchvision draws from the global generator
    kept = [torchvision.transforms.RandomResizedCrop.get_params(coordinates[0], (0.08, 1), (3 / 4, 4 / 3))
            for _ in range(2000)]
    assert area.mean() == pytest.approx(np.mean([h * w / side**2 for _, _, h, w in kept]), abs=0.03)
    centre = crops[:, :, 7:9, 7:9].mean((2, 3)) / (side - 1) * 2 - 1
    assert centre.abs().mean() > 0.1 and centre.mean().abs() < 0.05
    picture = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = augment.resized_crop(picture, SEEDS[:1], 16, scale=(1, 1), ratio=(1, 1))
    expected = torch.nn.functional.interpolate(picture, (16, 16), mode="bilinear", align_corners=False)
    assert torch.allclose(whole, expected)


def test_a_window_is_a_piece_of_the_image_and_all_of_them_come_up():
    x = torch.arange(400 * 5 * 4).view(400, 1, 5, 4)
    cut = augment.window(x, rng.seeds(0, 400), 3, 3)
    pieces = torch.stack([x[:, :, i:i + 3, j:j + 3] for i in range(3) for j in range(2)], 1)
    which = (pieces == cut[:, None]).flatten(2).all(2)
    assert (which.sum(1) == 1).all() and (which.sum(0) > 30).all()


def test_each_stage_denoises_its_share_in_windows_of_its_side(x, monkeypatch):
    seen = []
    monkeypatch.setattr(denoising.Denoising, "forward",
                        lambda self, x, y, generator: seen.append(x) or (x.new_zeros(()), {}))
    whole = objective()
    for progress in (0, 0.49, 0.5, 0.99):
        whole.on_epoch_start(progress)
        whole(x, torch.zeros(8, dtype=torch.long), SEEDS)
    assert [tuple(part.shape) for part in seen] == [(4, 3, 8, 8)] * 2 + [(2, 3, 16, 16)] * 2


def test_the_loss_is_both_halves_on_views_of_their_own_and_the_same_in_any_batch(x):
    y = torch.arange(8)
    losses = {task: objective(task)(x, y, SEEDS)[0] for task in ("joint", "classification", "denoising")}
    assert torch.allclose(losses["joint"], losses["classification"] + losses["denoising"])
    logits = objective().model(augment.resized_crop(x, rng.fold(SEEDS, 4), 16))
    noisy = objective("classification", sigma_classification=[1e-9, 1e-9])(x, y, SEEDS)[0]
    assert torch.allclose(noisy, torch.nn.functional.cross_entropy(logits, y))
    parts = [objective("classification")(x[i:i + 4], y[i:i + 4], SEEDS[i:i + 4])[0] for i in (0, 4)]
    assert torch.allclose(losses["classification"], sum(parts) / 2)


@pytest.mark.parametrize("stages, message", [
    ([], "'stages' end at .."), ([STAGES[1], STAGES[0]], "should go up"), (STAGES[:1], "the last to 1"),
    ([{"until": 1, "images": 2.0, "side": 8}], "less than or equal to 1")])
def test_wrong_stages_are_told(stages, message):
    with pytest.raises(ValueError, match=message):
        objective(stages=stages)


def test_a_share_or_size_that_does_not_fit_is_told(x):
    images = Images(x, torch.zeros(8), ())
    with pytest.raises(ValueError, match="a stage denoises 0.25 of a batch, and a process has 6 images of it"):
        objective().prepare(images, 0, 6, 6, 0)
    with pytest.raises(ValueError, match="crops of 32 pixels do not fit into images of .20, 20."):
        objective(side=32).prepare(images, 0, 8, 8, 0)
    objective().prepare(images, 0, 8, 8, 0)


def test_the_papers_imagenet_run_trains_and_tells_its_stage_to_the_objective(folder, tmp_path, monkeypatch):
    """The run of profile paper on the packed pictures, with a narrow net, few epochs, and windows an eighth as
    large."""
    from dataclasses import replace

    from lightning_fabric import Fabric

    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path))
    for split in ("train", "test"):
        imagenet.pack_imagenet(folder, tmp_path, split)
    run = load_run("paper", "imagenet-gradresnet").members()["net=joint"]
    assert run.epochs * 0.375 == 150 and run.epochs * 0.65 == 260 and run.epochs * 0.85 == 340
    batches = [(s["images"] * run.batch, s["side"]) for s in run.objective["stages"]]
    assert batches == [(64, 128), (40, 160), (32, 192), (16, 224)]
    stages = [stage | {"images": 0.5, "side": stage["side"] // 8} for stage in run.objective["stages"]]
    run = replace(run, model=run.model | {"width": 8, "classes": 2},
                  objective=run.objective | {"side": 28, "stages": stages}, compile=False, epochs=4, batch=4,
                  test_images=2, precision="32-true")
    seen = []
    original = progressive.ProgressiveJointDenoising.on_epoch_start
    monkeypatch.setattr(progressive.ProgressiveJointDenoising, "on_epoch_start",
                        lambda self, progress: seen.append(progress) or original(self, progress))
    train_net(run, tmp_path / "net", Fabric(accelerator="cpu", devices=1))
    assert seen == [0, 0, 0.25, 0.5, 0.75]   # first when it is built
    assert (tmp_path / "net.safetensors").exists()
