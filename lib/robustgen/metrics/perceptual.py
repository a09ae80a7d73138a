"""How alike two maps look: LPIPS, the same distance with the features of our own nets, and the cosine as a plain
reference.

A map is the picture of a gradient or a score. `alignment` is the off-manifold paper's number (section 4.2, appendix
B.10): 1 - LPIPS of a net's input gradient and the score at the same image. All values are per image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file

from ..models.layers import features
from ..utils import download, mirrors, paths, sources
from ..utils.arguments import known
from ..utils.validation import check_eval_mode


@dataclass(frozen=True)
class Net:
    """A net of torchvision whose features LPIPS compares."""

    name: str
    taps: tuple       # names in its `features` of the layers that are compared
    smallest: int     # pixels of a map's side with which each of them still has an output


NETS = {
    "alex": Net("alexnet", ("1", "4", "7", "9", "11"), 31),
    "squeeze": Net("squeezenet1_1", ("1", "4", "7", "9", "10", "11", "12"), 17),
}
SQUEEZE_URL = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
SQUEEZE = {   # file: sha256, or the first digits of it, which torchvision has in the name
    "squeezenet1_1-b8a52dc0.pth": "b8a52dc0",
    "lpips/squeezenet1_1_features.pth": "65848f4c678bba05bcc2fc7c35df775d303ffcbc3e24e770a727cb4296e10e84",
}


def load_lpips(net="alex", device="cpu"):
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al. 2018): a function f(a, b, batch=100) ->
    (B,), 0 for equal maps.

    net    "alex", as in the off-manifold paper, for maps of at least 31 pixels a side, or "squeeze", for 17.
    a, b   (B, C, H, W) in [-1, 1] on `device`; C is 3, or 1, which is repeated.

    The weights with "alex" are in data/; SqueezeNet's are looked for in the folder named by ROBUSTGEN_DATA, then in the
    user's cache, to which torchvision's are downloaded where both lack them. Raises FileNotFoundError where they are
    not to be had, OSError for a wrong checksum, ValueError for an unknown net; f, for maps of other shapes or ranges,
    or too small.
    """
    from ..utils.torchvision_import import torchvision

    entry = NETS[known("LPIPS net", net, NETS)]
    state, heads = _alex() if net == "alex" else _squeeze()
    with torch.device("meta"):   # neither time nor random numbers for weights that are replaced
        layers = getattr(torchvision.models, entry.name)().features
    layers.load_state_dict({key.removeprefix("features."): value for key, value in state.items()
                            if key.startswith("features.")}, assign=True)
    layers = layers[:int(entry.taps[-1]) + 1]   # a pooling after the last would need larger maps
    tapped = features(layers.eval().requires_grad_(False).to(device), entry.taps)
    heads = [head.view(-1, 1).to(device) for head in heads]
    # of ImageNet in [-1, 1]
    mean, std = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], device=device)[:, :, None, None]

    def distance(a, b, batch=100):
        _check(a, b)
        if a.shape[1] not in (1, 3) or min(a.shape[2:]) < entry.smallest:
            raise ValueError(f"LPIPS with net {net!r} takes maps of 1 or 3 channels and at least {entry.smallest} x "
                             f"{entry.smallest} pixels, got "
                             f"{tuple(a.shape[1:])}; enlarge smaller ones, or take 'squeeze' (17 x 17) or "
                             "feature_distance")
        # one channel becomes three
        return _distance(lambda x: tapped((x.float() - mean) / std)[0], heads, a, b, batch)
    return distance


def feature_distance(model, layers):
    """LPIPS's formula with the features of a net of ours, all channels alike: f(a, b, batch=100) -> (B,) in [0, 4], 0
    for equal maps.

    model    any net of images in [0, 1], in eval mode; a map in [-1, 1] is shown to it as (map + 1) / 2.
    layers   names of its layers, such as ["layer1", "layer4"]: the mean over them is taken.

    Raises ValueError for unknown layers and a net in train mode; f for maps of other shapes or ranges.
    """
    if isinstance(layers, str) or not layers or None in layers:
        raise ValueError(f"layers must be a list of names, got {layers!r}; one layer is [name]")
    check_eval_mode(model)
    net = features(model, layers)

    def distance(a, b, batch=100):
        _check(a, b)
        return _distance(lambda x: net((x + 1) / 2)[0], [1 / len(layers)] * len(layers), a, b, batch)
    return distance


def _distance(net, heads, a, b, batch):
    """Weighted squared difference of the unit-long features at each position, its mean over positions, the sum over
    layers: (B,)."""
    def unit(h):
        h = h.reshape(*h.shape[:2], -1)   # (B, channels, positions)
        return h / (h.norm(dim=1, keepdim=True) + 1e-10)
    with torch.no_grad():
        return torch.cat([sum(((unit(p) - unit(q)).square() * head).sum(1).mean(1)
                              for p, q, head in zip(net(x), net(y), heads))
                          for x, y in zip(a.split(batch), b.split(batch))])


def max_normalised(maps):
    """Maps (B, C, H, W), each divided by its own largest absolute value: in [-1, 1]. One that is all zero stays so."""
    largest = maps.abs().amax((1, 2, 3), keepdim=True)
    return maps / largest.where(largest != 0, 1)


def cosine(a, b):
    """Cosine similarity of maps (B, C, H, W) of any scale: (B,) in [-1, 1], NaN where either is zero."""
    a, b = (max_normalised(maps).flatten(1) for maps in (a, b))   # so that no square vanishes in float32
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1)


def alignment(gradient: torch.Tensor, score: torch.Tensor, distance: Callable, batch: int = 100) -> torch.Tensor:
    """1 - distance of the normalised maps, (B, C, H, W) of any scale: (B,), 1 for equal ones, NaN where either is zero.

    distance   what `load_lpips`, as in the off-manifold paper, or `feature_distance` returns.
    """
    defined = gradient.flatten(1).any(1) & score.flatten(1).any(1)
    return (1 - distance(max_normalised(gradient), max_normalised(score), batch)).where(defined, torch.nan)


def _check(a, b):
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"maps must be two tensors of one shape (B, C, H, W), got {tuple(a.shape)} and "
                         f"{tuple(b.shape)}")
    if not ((a.abs() <= 1).all() and (b.abs() <= 1).all()):   # so NaN is refused too
        raise ValueError("maps must lie in [-1, 1], without NaN; use perceptual.max_normalised")


def _alex():
    """Weights of AlexNet's features, and of the channels of each tap."""
    mirrors.check_datasets(["lpips"])
    state = load_file(paths.DATA / "lpips/alex.safetensors")
    return state, [state[f"heads.{i}"] for i in range(5)]


def _squeeze():
    """The same of SqueezeNet."""
    theirs, ours = SQUEEZE
    forms = [{file: ("sha256", digits)} for file, digits in SQUEEZE.items()]
    file, = download.obtain(theirs, SQUEEZE_URL, *forms, put=f"it, or its features as {ours},")
    return torch.load(file, map_location="cpu", weights_only=True), sources.lpips_heads("squeeze")
