"""Inception-v3, against torch-fidelity's extractor used directly, with the same random weights."""

from robustgen.utils.torchvision_import import torchvision  # noqa: F401 (torch-fidelity imports it)

# isort: split
import io
import os
import re
import sys

import pytest
import torch
from torch import nn
from torch_fidelity import FeatureExtractorInceptionV3

from robustgen.utils import download, paths
from robustgen.zoo import inception
from robustgen.zoo.inception import CHECKSUM, URL, load_inception

FILE = "weights-inception-2015-12-05-6726825d.pth"
FEATURES = ["2048", "logits_unbiased"]


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Drawn(FeatureExtractorInceptionV3):
    """Random weights that keep the scale from layer to layer, and statistics that are not those of a fresh batch
    norm."""

    def load_state_dict(self, state):
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.bias, layer.running_mean):
                    nn.init.normal_(tensor, std=0.1)
                nn.init.uniform_(layer.running_var, 0.8, 1.2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of random weights."""
    path, empty = tmp_path_factory.mktemp("inception") / FILE, io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    torch.save(Drawn("drawn", FEATURES, feature_extractor_weights_path=empty).state_dict(), path)
    yield path
    path.unlink()   # pytest keeps its folders, and this is 96 MB


@pytest.fixture
def place(weights, tmp_path, monkeypatch, offline):
    """place(folder) links the file into the folder given or the cache, with a checksum that fits; there is no
    network."""
    def put(folder):
        path = (tmp_path / "given" if folder == "given" else paths.cache_folder()) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(weights, path)
        monkeypatch.setattr(inception, "CHECKSUM", ("sha256", download.digest(path, "sha256")))
        return path
    return put


@pytest.fixture
def small(tmp_path, monkeypatch, offline):
    """small(checkpoint, fits) saves a file that is not the weights; its checksum fits or not."""
    def put(checkpoint, fits=True):
        path = tmp_path / "given" / FILE
        path.parent.mkdir(exist_ok=True)
        torch.save(checkpoint, path)
        if fits:
            monkeypatch.setattr(inception, "CHECKSUM", ("sha256", download.digest(path, "sha256")))
        return path
    return put


def test_features_and_logits_are_torch_fidelitys(place):
    theirs = FeatureExtractorInceptionV3("theirs", FEATURES, feature_extractor_weights_path=place("given"))
    before = torch.get_rng_state()
    net = load_inception()
    assert torch.equal(torch.get_rng_state(), before)
    pixels = (images(2, 3, 32, 40) * torch.tensor([255, 80])[:, None, None, None]).byte()
    off = torch.tensor([0.4, -0.4, 0.4])[:, None, None]
    x = ((pixels + off) / 255).clamp(0, 1)   # to be rounded, not cut off
    features, logits = net(x)
    expected = theirs(pixels)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and not features.requires_grad
    assert torch.equal(features, expected[0]) and torch.equal(logits, expected[1]) and features.std(0).mean() > 1e-2
    for single, both in zip(net(x.flip(0), batch=1), (features, logits)):
        assert torch.allclose(single.flip(0), both, rtol=1e-4, atol=1e-5)   # no image depends on its batch


def test_the_address_is_torch_fidelitys():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert URL == URL_INCEPTION_V3 and CHECKSUM[1].startswith(re.search(r"-(\w{8})\.pth$", URL)[1])


def test_the_cache_is_looked_into_and_other_images_are_refused(place):
    place("cache")
    net = load_inception()
    for x, message in [(images(2, 1, 32, 32),
                        "takes images of 3 channels, got 1; repeat a single one: x.expand.-1, 3, -1, -1.$"),
                       (images(2, 3, 32, 32) * 255, "Divide by 255 first"),
                       (images(3, 32, 32), r"of shape \(B, C, H, W\), got \(3, 32, 32\)")]:
        with pytest.raises(ValueError, match=message):
            net(x)


def test_missing_weights_name_the_file_its_address_and_the_remedy(offline):
    with pytest.raises(FileNotFoundError, match=f"^{FILE} is missing, and could not be had from {re.escape(URL)} .no "
                                                "route to host.; put it in the folder named by ROBUSTGEN_DATA$"):
        load_inception()


def test_a_damaged_file_is_refused_with_the_remedy(small):
    path = small({}, fits=False)
    with pytest.raises(OSError, match=f"^{path} is damaged .wrong checksum.; put a good copy in its place, or delete "
                                      f"it to have that of {URL}$"):
        load_inception()


class Harm:
    def __reduce__(self):
        return exec, ("import sys; sys.harmed = True",)


@pytest.mark.parametrize("checkpoint", [{}, {"fc.bias": torch.zeros(1008)}, {"fc.bias": Harm()}, Harm()])
def test_a_file_of_something_else_is_refused_and_nothing_in_it_is_run(small, checkpoint):
    path = small(checkpoint)
    with pytest.raises(ValueError, match=f"^{path} does not hold the weights of Inception-v3"):
        load_inception()
    assert not hasattr(sys, "harmed")


@pytest.mark.parametrize("library", ["torch_fidelity", "torchvision"])
def test_a_missing_library_is_named_before_anything_is_fetched(offline, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "robustgen.utils.torchvision_import")
    with pytest.raises(ModuleNotFoundError, match=f"^Inception-v3 needs {library}, which is not installed; install it "
                                                  "with: pip install torch-fidelity$"):
        load_inception()
