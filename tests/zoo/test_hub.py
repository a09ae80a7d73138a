"""Other people's nets: the one that pip installs as it is, the others' files as made here, with random weights."""

import copy
import io
import os
import pickle
import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustgen.data import imagenette
from robustgen.utils import download, paths
from robustgen.utils.torchvision_import import torchvision
from robustgen.zoo import hub
from robustgen.zoo.pickles import _Tensors, read_pickle

IMAGENET = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ROBUST, PLAIN, MOCO, LITE = "madry-resnet50-l2-3", "torchvision-resnet50", "moco-resnet50", "efficientnet-lite0"
LAYOUTS = {   # of the files: robustness's own nets, others that it wraps once more, MoCo, torchvision
    "robust": (ROBUST, lambda state: {"model": named("module.model.", state) | named("module.attacker.model.", state)
                                      | {"module.normalizer.new_mean": torch.zeros(3, 1, 1)}, "epoch": 105}),
    "wrapped": (ROBUST, lambda state: {"model": named("module.model.model.", state)
                                       | named("module.attacker.model.model.", state), "amp": None}),
    "moco": (MOCO, lambda state: {"epoch": 800, "arch": "resnet50", "state_dict": named("module.encoder_q.", state)
                                  | named("module.encoder_k.", {key: torch.zeros(1) for key in state})
                                  | {"module.queue": torch.zeros(128, 2)}}),
    "plain": (PLAIN, lambda state: state),
}


def named(prefix, state):
    return OrderedDict((prefix + key, value) for key, value in state.items())


def small(seed=0):
    """A net with all that a state dict can hold: weights, statistics, and a count."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net(torch.rand(8, 3, 16, 16))
    return net.eval()


class Calls:
    """A pickle of it calls a function with arguments, and does more with what that gives."""

    def __init__(self, function, *args, then=()):
        self.call = function, args, *then

    def __reduce__(self):
        return self.call


@pytest.fixture
def place(tmp_path, monkeypatch, offline):
    """place(name, checkpoint) saves a file for small nets where ROBUSTGEN_DATA points, and returns its path; there is
    no network."""
    def put(name, checkpoint, checksum=None, build=small, **kwargs):
        model = replace(hub.MODELS[name], build=build, checksum=checksum)
        monkeypatch.setitem(hub.MODELS, name, model)
        (tmp_path / "given").mkdir(exist_ok=True)
        if checkpoint is not None:
            torch.save(checkpoint, tmp_path / "given" / model.file, **kwargs)
        return tmp_path / "given" / model.file
    return put


@pytest.fixture(scope="module")
def resnet50():
    return torchvision.models.resnet50().eval()


@pytest.fixture(scope="module")
def photos():
    """Foolbox's 20 photographs of ImageNet, with their labels; its samples() wants a model only to learn these
    arguments."""
    from foolbox.utils import _samples

    return map(torch.from_numpy, _samples("imagenet", 0, 20, (hub.SIDE, hub.SIDE), "channels_first", (0, 1)))


def test_efficientnet_lite_classifies_photographs_as_installed(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))   # so that the file is the package's
    monkeypatch.delenv("ROBUSTGEN_DATA", raising=False)
    before, net = torch.get_rng_state(), hub.load_hub(LITE)
    x, y = photos
    logits = net(x)
    assert logits.shape == (20, 1000) and not net.training and not any(p.requires_grad for p in net.parameters())
    assert (logits.argmax(1) == y).float().mean() >= 0.6   # measured here: 17 of 20
    assert torch.equal(torch.get_rng_state(), before) and list(tmp_path.iterdir()) == []


def test_classes_are_imagenets_in_order():

    names = hub.hub_classes(LITE)
    positions = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    found = [names[i].lower().replace("chainsaw", "chain saw") for i in positions]
    assert found == [name.lower() for name in imagenette.CLASSES.values()]
    assert all((hub.hub_classes(name) is None) == (name == MOCO) and (name == MOCO or hub.hub_classes(name) == names)
               for name in hub.MODELS)


# torchvision's numbers of parameters; MoCo's head is of 2048·2048 + 2048 + 128·2048 + 128
@pytest.mark.parametrize("name, outputs, parameters", [
    (ROBUST, 1000, "ResNet50"), ("madry-resnet50-l2-5", 1000, "ResNet50"), ("salman-vgg16bn-l2-3", 1000, "VGG16_BN"),
    ("salman-resnext50-l2-3", 1000, "ResNeXt50_32X4D"), (PLAIN, 1000, "ResNet50"),
    (MOCO, 128, 25557032 - 2049000 + 4458624)])
def test_architectures_are_those_of_the_files(name, outputs, parameters):
    with torch.device("meta"):
        net = hub.MODELS[name].build()
        assert net.eval()(torch.rand(1, 3, hub.SIDE, hub.SIDE)).shape == (1, outputs)
    expected = parameters
    if name != MOCO:
        expected = getattr(torchvision.models, f"{parameters}_Weights").IMAGENET1K_V1.meta["num_params"]
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_net_in_a_file_is_loaded_with_its_normalisation(place, layout, zipped):
    name, wrap = LAYOUTS[layout]
    theirs, x = small(), torch.rand(2, 3, 16, 16)
    place(name, wrap(theirs.state_dict()), build=lambda: small(1), _use_new_zipfile_serialization=zipped)
    ours = hub.load_hub(name)
    assert torch.allclose(ours(x), theirs(IMAGENET(x)), atol=1e-6) and not ours.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("layout", ["wrapped", "moco"])
def test_real_architectures_are_loaded_too(place, resnet50, layout):
    name, wrap = LAYOUTS[layout]
    theirs = copy.copy(resnet50)
    theirs._modules = dict(theirs._modules)   # shares the layers, which cost 100 MB
    if name == MOCO:
        theirs.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
    place(name, wrap(theirs.state_dict()), build=hub.MODELS[name].build, _use_new_zipfile_serialization=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(hub.load_hub(name)(x), theirs(IMAGENET(x)), rtol=1e-4, atol=1e-5)


def test_half_precision_becomes_single(place):
    place(PLAIN, small().half().state_dict())
    assert hub.load_hub(PLAIN)(torch.rand(2, 3, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hostile", [
    lambda command, code: Calls(os.system, command),
    lambda command, code: Calls(eval, code),
    lambda command, code: Calls(exec, code),
    lambda command, code: Calls(getattr, Calls(__import__, "os"), "system"),
    # sets a state
    lambda command, code: Calls(Calls, Calls(eval, code), then=({"a": Calls(os.system, command)},)),
    # appends and sets items
    lambda command, code: Calls(list, then=(None, iter([Calls(os.system, command)]), iter([(1, Calls(eval, code))]))),
    lambda command, code: {Calls: small(), "a": torch.float16, "b": slice(0, 1), "c": torch.Size([1])},
])
def test_no_pickle_is_run_and_its_tensors_are_read(place, tmp_path, hostile, zipped):
    proof, theirs, x = tmp_path / "proof", small(), torch.rand(2, 3, 16, 16)
    checkpoint = {"schedule": hostile(f"touch {proof}", f"open({str(proof)!r}, 'w')"),
                  "model": named("module.model.", theirs.state_dict())}
    file = place(ROBUST, checkpoint, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):   # so that it is not torch that reads it
        torch.load(file, weights_only=True)
    assert torch.allclose(hub.load_hub(ROBUST)(x), theirs(IMAGENET(x)), atol=1e-6)
    assert not proof.exists()


def test_the_hostile_pickles_would_work_elsewhere(place, tmp_path):
    proof = tmp_path / "proof"
    torch.load(place(ROBUST, {"schedule": Calls(os.system, f"touch {proof}")}), weights_only=False)
    assert proof.exists()


def test_a_hostile_weight_is_refused(place, tmp_path):
    proof = tmp_path / "proof"
    place(ROBUST, {"model": named("module.model.", small().state_dict())
                   | {"module.model.4.bias": Calls(os.system, f"touch {proof}")}})
    with pytest.raises(ValueError, match=f"does not hold the weights of {ROBUST} .*4.bias.*; put that of https.*in its "
                                         "place$"):
        hub.load_hub(ROBUST)
    assert not proof.exists()


@pytest.mark.parametrize("name", [b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter",
                                  b"collections\nOrderedDict"])
def test_a_pickle_cannot_change_what_it_is_given(name):
    setting = b"\x80\x02c" + name + b"\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
    with pytest.raises((AttributeError, TypeError)):
        _Tensors(io.BytesIO(setting), {}).load()


def test_torchscript_is_not_run(place, monkeypatch):
    file = place(PLAIN, None)
    torch.jit.save(torch.jit.trace(small(), torch.rand(1, 3, 16, 16)), file)
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("TorchScript was run"))
    with pytest.raises(ValueError, match=f"does not hold the weights of {PLAIN} "):
        hub.load_hub(PLAIN)


def test_tensors_that_share_numbers_are_read_as_they_were(tmp_path):
    numbers = torch.arange(12.0)
    kinds = [numbers.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
                                             torch.uint8, torch.bool)]
    saved = [numbers, numbers[3:].view(3, 3).T, numbers[5], nn.Parameter(numbers), torch.empty(0), *kinds]
    for zipped, protocol in [(True, 2), (False, 2), (False, 4)]:
        torch.save(saved, tmp_path / "file", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(read_pickle(tmp_path / "file"), saved))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off_is_refused(place, zipped):
    file = place(PLAIN, small().state_dict(), _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"^{file} does not hold the weights of {PLAIN} "):
        hub.load_hub(PLAIN)


@pytest.mark.parametrize("checkpoint", [
    {}, [1, 2], torch.zeros(3), {"model": {}}, {"module.model.0.weight": 1}, named("other.", small().state_dict()),
    small().state_dict() | {"4.bias": torch.zeros(6)}, small().state_dict() | {"5.bias": torch.zeros(5)},
    {3: torch.zeros(5)}])
def test_a_file_with_other_contents_is_refused_in_one_sentence(place, checkpoint):
    file = place(PLAIN, checkpoint)
    with pytest.raises(ValueError) as error:
        hub.load_hub(PLAIN)
    message = str(error.value)
    assert message.startswith(f"{file} does not hold the weights of {PLAIN} (")
    assert len(message) < 600 and "\n" not in message


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", pickle.dumps(7)])
def test_a_file_of_another_kind_is_refused(place, content):
    file = place(PLAIN, None)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file} does not hold the weights of {PLAIN} "):
        hub.load_hub(PLAIN)


@pytest.mark.parametrize("algorithm, digits", [("sha256", 64), ("sha256", 8), ("md5", 8)])
def test_a_published_checksum_is_checked(place, algorithm, digits):
    file = place(PLAIN, small().state_dict())
    place(PLAIN, None, checksum=(algorithm, download.digest(file, algorithm)[:digits]))
    assert hub.load_hub(PLAIN)(torch.rand(1, 3, 16, 16)).shape == (1, 5) and list(file.parent.iterdir()) == [file]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(OSError, match=f"^{file} is damaged .wrong checksum.; put a good copy in its place, or delete "
                                      "it to have that of https.*pth$"):
        hub.load_hub(PLAIN)


def test_without_a_published_checksum_the_first_use_is_trusted(place):
    file = place(ROBUST, LAYOUTS["robust"][1](small().state_dict()))
    hub.load_hub(ROBUST), hub.load_hub(ROBUST)
    record = file.with_name(f"{file.name}.sha256")
    assert record.read_text().strip() == download.digest(file, "sha256")
    place(ROBUST, LAYOUTS["robust"][1](small(1).state_dict()))
    with pytest.raises(OSError, match=f"^{file} is not the file that was first used .*delete {record} if you trust "
                                      "this one$"):
        hub.load_hub(ROBUST)
    record.unlink()
    assert hub.load_hub(ROBUST) and record.read_text().strip() == download.digest(file, "sha256")


def test_a_download_goes_to_the_cache_once(place, monkeypatch):
    body, asked = io.BytesIO(), []
    torch.save(LAYOUTS["robust"][1](small().state_dict()), body)
    place(ROBUST, None)
    monkeypatch.setattr(download, "retrieve", lambda url: asked.append(url) or body)
    first, second = hub.load_hub(ROBUST), hub.load_hub(ROBUST)
    assert asked == [hub.MODELS[ROBUST].url] and torch.equal(first.net[4].weight, second.net[4].weight)
    names = sorted(file.name for file in paths.cache_folder().iterdir())
    assert names == ["resnet50_l2_eps3.ckpt", "resnet50_l2_eps3.ckpt.sha256"]


@pytest.mark.parametrize("body, reason", [(None, "no route to host"), (b"<html>", "wrong checksum")])
def test_missing_weights_name_the_file_its_address_and_the_remedy(place, monkeypatch, body, reason):
    place(PLAIN, None, checksum=hub.MODELS[PLAIN].checksum)
    if body:
        monkeypatch.setattr(download, "retrieve", lambda url: io.BytesIO(body))
    url = re.escape(hub.MODELS[PLAIN].url)
    with pytest.raises(FileNotFoundError, match=f"^resnet50-0676ba61.pth is missing, .* {url} .{reason}.; put it in "
                                                "the folder named by ROBUSTGEN_DATA$"):
        hub.load_hub(PLAIN)
    assert list(paths.cache_folder().iterdir()) == []


@pytest.mark.parametrize("function", [hub.load_hub, hub.hub_classes])
def test_an_unknown_name_suggests_the_near_one(function):
    with pytest.raises(ValueError, match="hub model 'madry-resnet50-l2-4' does not exist; did you mean "
                                         "'madry-resnet50-l2-[35]'"):
        function("madry-resnet50-l2-4")
