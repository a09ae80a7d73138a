"""Perceptual distances, against torchmetrics with the same weights: random ones made here. The last tests use the real
ones: AlexNet's are in data/, SqueezeNet's where the user has them."""

from robustgen.utils.torchvision_import import torchvision  # before torchmetrics, which imports it

# isort: split
import io
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import _LPIPS

from robustgen.data.datasets import load_data
from robustgen.metrics import perceptual
from robustgen.models.builders import build_model
from robustgen.utils import download, mirrors, paths, sources

ALEX = paths.DATA / "lpips/alex.safetensors"
SQUEEZE = [folder / "lpips/squeezenet1_1_features.pth" for folder in download.folders()]
SIDES = {"alex": 31, "squeeze": 17}
NETS = pytest.mark.parametrize("net", SIDES)


def maps(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def states():
    """torchvision's state dicts, of random features, and a classifier as small as need be, which is not used."""
    torch.manual_seed(0)
    found = {}
    for net, entry in perceptual.NETS.items():
        with torch.device("meta"):
            features = getattr(torchvision.models, entry.name)().features
        features.to_empty(device="cpu")
        for layer in features.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        weights = {f"features.{key}": value for key, value in features.state_dict().items()}
        found[net] = weights | {"classifier.1.bias": torch.zeros(2)}
    return found


@pytest.fixture
def place(states, tmp_path, monkeypatch, offline):
    """place(net) writes a net's weights, SqueezeNet's as the first or second of its files, whose checksum then fits;
    there is no network."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")

    def put(net, which=0, folder="given"):
        file = list(perceptual.SQUEEZE)[which]
        path = (paths.DATA / "lpips/alex.safetensors" if net == "alex"
                else (tmp_path / "given" if folder == "given" else paths.cache_folder()) / file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if net == "alex":
            heads = {f"heads.{i}": head.clone() for i, head in enumerate(sources.lpips_heads("alex"))}
            save_file(states[net] | heads, path)
            monkeypatch.setitem(mirrors.CHECKSUMS["lpips"], path.name, download.digest(path, "md5"))
        else:
            torch.save(states[net], path)
            monkeypatch.setitem(perceptual.SQUEEZE, file, download.digest(path, "sha256")[:8])
        return path
    return put


@pytest.fixture(scope="module")
def theirs(states):
    """theirs(net) is torchmetrics' LPIPS with the weights that `place` writes."""
    def build(net):
        with torch.device("meta"):   # its classifier costs a second
            features = getattr(torchvision.models, perceptual.NETS[net].name)().features
        features.load_state_dict({key.removeprefix("features."): value
                                  for key, value in states[net].items() if "features." in key}, assign=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features",
                          lambda name, pretrained: features)
            return _LPIPS(net=net)
    return build


@pytest.mark.parametrize("net, which, folder", [
    ("alex", None, None), *(("squeeze", which, folder) for which in (0, 1) for folder in ("given", "cache"))])
def test_lpips_agrees_with_torchmetrics(place, theirs, net, which, folder):
    place(net, which or 0, folder)
    a, b = maps(3, 3, 40, 50), maps(3, 3, 40, 50, seed=1) * torch.tensor([1, 0.3, 0.01])[:, None, None, None]
    before = torch.get_rng_state()
    ours = perceptual.load_lpips(net)(a, b)
    assert torch.equal(torch.get_rng_state(), before)
    assert ours.shape == (3,) and not ours.requires_grad and (ours > 1e-4).all()
    assert torch.allclose(ours, theirs(net)(a, b).flatten(), rtol=1e-4)


@NETS
def test_lpips_is_a_symmetric_distance_of_each_pair(place, net):
    place(net)
    distance, a, b = perceptual.load_lpips(net), maps(5, 3, 33, 33), maps(5, 3, 33, 33, seed=1)
    whole = distance(a, b)
    assert torch.allclose(whole, distance(b, a)) and (distance(a, a) == 0).all()
    # float32 convolutions round by batch, and differently on each processor
    assert torch.allclose(whole, distance(a, b, batch=2), rtol=1e-4)
    assert torch.allclose(whole[3:], distance(a[3:], b[3:]), rtol=1e-4)


@NETS
def test_one_channel_is_repeated_and_double_precision_taken(place, net):
    place(net)
    distance, a, b = perceptual.load_lpips(net), maps(2, 1, 31, 31), maps(2, 1, 31, 31, seed=1)
    assert torch.allclose(distance(a, b), distance(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))
    assert torch.allclose(distance(a, b), distance(a.double(), b.double()))


@NETS
def test_the_smallest_side_is_the_smallest_that_torchmetrics_can_do(place, theirs, net):
    place(net)
    distance, reference, side = perceptual.load_lpips(net), theirs(net), SIDES[net]
    enough, less = maps(1, 3, side, 64), maps(1, 3, 64, side - 1)
    assert torch.allclose(distance(enough, -enough), reference(enough, -enough).flatten(), rtol=1e-4)
    with pytest.raises(RuntimeError, match="too small"):
        reference(less, -less)
    with pytest.raises(ValueError, match=f"^LPIPS with net '{net}' takes maps of 1 or 3 channels and at least "
                                         f"{side} x {side} pixels, got .3, 64, {side - 1}.; "
                                         "enlarge smaller ones, or take 'squeeze' .17 x 17. or feature_distance$"):
        distance(less, -less)


def test_maps_that_are_none_are_refused(place):
    place("squeeze")
    distance, a = perceptual.load_lpips("squeeze"), maps(2, 3, 20, 20)
    shapes = r"^maps must be two tensors of one shape \(B, C, H, W\), got "
    for pair, message in [((a[0], a[0]), shapes + r"\(3, 20, 20\) and \(3, 20, 20\)$"), ((a, a[:1]), shapes),
                          ((a, a[0]), shapes),
                          ((a, a * 255), r"^maps must lie in \[-1, 1\], without NaN; use perceptual.max_normalised$"),
                          ((a * torch.nan, a), "without NaN")]:
        with pytest.raises(ValueError, match=message):
            distance(*pair)
    with pytest.raises(ValueError, match="1 or 3 channels .*, got .2, 20, 20."):
        distance(a[:, :2], a[:, :2])


@pytest.mark.parametrize("body, reason", [(None, "no route to host"), (b"<html>", "wrong checksum")])
def test_missing_weights_name_the_file_its_address_and_the_remedy(place, monkeypatch, body, reason):
    if body:
        monkeypatch.setattr(download, "retrieve", lambda url: io.BytesIO(body))
    with pytest.raises(FileNotFoundError, match="^squeezenet1_1-b8a52dc0.pth is missing, and could not be had from "
                                                f"{re.escape(perceptual.SQUEEZE_URL)} .{reason}.; put it, or its "
                                                "features as lpips/squeezenet1_1_features.pth, in the folder named by "
                                                "ROBUSTGEN_DATA$"):
        perceptual.load_lpips("squeeze")
    assert list(paths.cache_folder().iterdir()) == []


def test_alexnets_weights_that_are_missing_or_damaged_name_the_remedy(place):
    with pytest.raises(FileNotFoundError, match="^data/lpips: alex.safetensors is missing; fetch it with: make data$"):
        perceptual.load_lpips()
    path = place("alex")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="^data/lpips: alex.safetensors has a wrong checksum .*; fetch it with"):
        perceptual.load_lpips()


@pytest.mark.parametrize("which, file", enumerate(perceptual.SQUEEZE))
def test_damaged_weights_are_refused_with_the_remedy(place, which, file):
    path = place("squeeze", which)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=f"^{path} is damaged .wrong checksum.; put a good copy in its place, or delete "
                                      "it to have that of "
                                      "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth$"):
        perceptual.load_lpips("squeeze")


def test_a_download_goes_to_the_cache_once(place, monkeypatch):
    path, asked = place("squeeze", 0, "cache"), []
    body = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(download, "retrieve", lambda url: asked.append(url) or io.BytesIO(body))
    x = maps(1, 3, 20, 20)
    assert torch.equal(perceptual.load_lpips("squeeze")(x, -x), perceptual.load_lpips("squeeze")(x, -x))
    assert asked == [f"https://download.pytorch.org/models/{path.name}"]
    assert list(paths.cache_folder().iterdir()) == [path]


def test_the_addresses_are_torchvisions_and_an_unknown_net_is_told():
    assert sources.ALEXNET_URL == torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    assert perceptual.SQUEEZE_URL == torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    with pytest.raises(ValueError, match="LPIPS net 'alexx' does not exist; did you mean 'alex'"):
        perceptual.load_lpips("alexx")


def test_each_map_is_normalised_by_its_own_largest_value():
    x = maps(3, 3, 8, 8) * torch.tensor([1e-30, 7, 0])[:, None, None, None]
    ours = perceptual.max_normalised(x)
    assert ours.abs().amax((1, 2, 3)).tolist() == [1, 1, 0] and torch.allclose(ours[1], x[1] / x[1].abs().max())
    assert torch.allclose(perceptual.max_normalised(-1e5 * x[:2]), -ours[:2])


def test_cosine_agrees_with_torchs_and_is_undefined_at_zero():
    a, b = maps(5, 2, 6, 6), maps(5, 2, 6, 6, seed=1)
    ours, theirs = perceptual.cosine(a, b), torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(perceptual.cosine(1e-30 * a, 1e30 * b), theirs, atol=1e-6)
    assert torch.allclose(perceptual.cosine(a, -3 * a), -torch.ones(5)) and perceptual.cosine(a, a).max() <= 1
    a[0], b[1] = 0, 0
    assert perceptual.cosine(a, b).isnan().tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("layers", [["1"], ["1", "5"], ["9", "3", "10"]])
def test_feature_distance_is_the_mean_over_layers_of_that_of_unit_features(layers):
    """Layers 9 and 10 give vectors: one position."""
    net = build_model("mnist_cnn", width=4, hidden=6, generator=0).eval()
    a, b = maps(4, 1, 28, 28), maps(4, 1, 28, 28, seed=1)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    ours = perceptual.feature_distance(net, layers)(a, b)
    assert len(calls) == 2 and not ours.requires_grad   # one forward pass for all layers
    expected = torch.zeros(4)
    for layer in layers:
        p, q = (torch.nn.functional.normalize(net[:int(layer) + 1]((x + 1) / 2), dim=1) for x in (a, b))
        expected += (p - q).square().sum(1).reshape(4, -1).mean(1) / len(layers)
    assert torch.allclose(ours, expected, atol=1e-6) and (ours > 0).all()
    distance = perceptual.feature_distance(net, layers)
    assert torch.allclose(distance(b, a, batch=3), ours, atol=1e-6) and (distance(a, a) == 0).all()


def test_feature_distance_wants_layers_that_exist_and_a_frozen_net():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="batch norms or dropouts in train mode"):
        perceptual.feature_distance(net, ["0"])
    with pytest.raises(ValueError, match="layer '7' does not exist; near ones: 0, 1"):
        perceptual.feature_distance(net.eval(), ["0", "7"])
    for layers in ("0", [], [None], ["0", None]):
        with pytest.raises(ValueError, match="layers must be a list of names"):
            perceptual.feature_distance(net, layers)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        perceptual.feature_distance(net, ["0"])(maps(1, 1, 8, 8), 2 + maps(1, 1, 8, 8))


def test_alignment_is_one_minus_the_distance_whatever_the_scales(place):
    place("squeeze")
    distance, g, s = perceptual.load_lpips("squeeze"), maps(5, 3, 20, 20), maps(5, 3, 20, 20, seed=1)
    expected = 1 - distance(g / g.abs().amax((1, 2, 3), keepdim=True), s / s.abs().amax((1, 2, 3), keepdim=True))
    g[3], s[4] = 0, 0
    ours = perceptual.alignment(1e-6 * g, 400 * s, distance, batch=2)
    assert torch.allclose(ours[:3], expected[:3], atol=1e-5)
    assert ours.isnan().tolist() == [False, False, False, True, True]
    assert torch.allclose(perceptual.alignment(g[:3], 5 * g[:3], distance), torch.ones(3))


# With the real weights

def formula(a, b):
    """Section 3 of Zhang et al. 2018, written anew in double precision: (B,)."""
    weights = {name: tensor.double() for name, tensor in load_file(ALEX).items()}
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double().view(2, 1, 3, 1, 1)

    def layers(x):
        x = (x.double() - shift) / scale
        for place, stride, padding, pooled in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.conv2d(x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], stride, padding)
            x = x.clamp(min=0)
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    return sum(torch.einsum("bchw,c->bhw", (p - q) ** 2, weights[f"heads.{i}"]).mean((1, 2))
               for i, (p, q) in enumerate(zip(layers(a), layers(b))))


def test_lpips_with_alexnet_is_that_of_the_package_lpips_and_of_the_formula():
    """The values are those of lpips 0.1.4, LPIPS(net="alex", version="0.1") in double precision, with its own heads
    and torchvision's AlexNet."""
    a, b = (load_data("cifar10", "test")[part].unit * 2 - 1 for part in (slice(4), slice(4, 8)))
    ours = perceptual.load_lpips()(a, b)
    assert ours.tolist() == pytest.approx([0.1377385, 0.2369277, 0.2881715, 0.2930648], rel=1e-5)
    assert ours.tolist() == pytest.approx(formula(a, b).tolist(), rel=1e-5)


@pytest.mark.skipif(not any(path.is_file() for path in SQUEEZE),
                    reason="SqueezeNet's real features are not here; put them as lpips/squeezenet1_1_features.pth into "
                           "the folder named by ROBUSTGEN_DATA")
def test_lpips_with_squeezenet_is_as_torchmetrics_documents_it():
    """The values are in the docstrings of learned_perceptual_image_patch_similarity: of release 1.9, and of earlier
    ones (the mean, seed 123)."""
    distance, generator = perceptual.load_lpips("squeeze"), torch.Generator().manual_seed(42)
    a, b = (torch.rand(2, 3, 100, 100, generator=generator) * 2 - 1 for _ in "ab")
    assert distance(a, b).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)
    generator = torch.Generator().manual_seed(123)
    a, b = (torch.rand(10, 3, 100, 100, generator=generator) * 2 - 1 for _ in "ab")
    assert distance(a, b).mean().item() == pytest.approx(0.1008, abs=5e-5)
