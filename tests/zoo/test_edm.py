"""EDM's nets against a reference in float64 that reads the names of their files, and files as their authors' code
writes them, with random weights."""

import math
import pickle
import re
import sys
import types
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustgen.probes import scores
from robustgen.utils import paths
from robustgen.zoo.edm import ADM, DDPMPP, EDM, MODELS, load_edm
from robustgen.zoo.pickles import _Container, read_pickle

UNCONDITIONAL, CONDITIONAL, IMAGENET = MODELS
SMALL = {   # the published nets, with fewer and narrower levels
    UNCONDITIONAL: DDPMPP | {"side": 8, "width": 16, "multipliers": (2, 2), "blocks": 1, "attention": (4,),
                             "classes": 0},
    CONDITIONAL: DDPMPP | {"side": 8, "width": 16, "multipliers": (1, 2), "blocks": 2, "attention": (8,),
                           "classes": 10},
    IMAGENET: ADM | {"side": 4, "width": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "classes": 5},
}
SIGMA = torch.tensor([2.0, 40.0, 900.0], dtype=torch.float64)


def small(name, seed=0):
    torch.manual_seed(seed)
    net = EDM(**SMALL[name]).eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):   # torch's 1 and 0 would hide a mistake
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return net


def noisy(name, dtype=torch.float64):
    side = SMALL[name]["side"]
    noise = torch.randn(3, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return 0.5 + SIGMA.to(dtype).view(-1, 1, 1, 1) / 255 * noise


def in_file(net, taps=(1, 1)):
    """The weights by the names of the file, which also has the filters of what resamples, and DDPM++'s last layers in
    its decoder."""
    end = "model.out_" if net.model.adm else f"model.dec.{net.side}x{net.side}_aux_"
    state = {key.replace("model.out_", end): value for key, value in net.state_dict().items()}
    filters = torch.outer(*2 * [torch.tensor(taps, dtype=torch.float32)])[None, None] / sum(taps) ** 2
    blocks = {match[0] for key in state if (match := re.match(r".*_(down|up)\b", key))}
    return state | {f"{block}.{layer}.resample_filter": filters for block in blocks for layer in ("conv0", "skip")}


def reference(w, x, noise, label, adm):
    """F(x; noise, label) from weights by the names of the file, with torch's functions."""
    gain = 1 if adm else 0.5**0.5

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def conv(name, x):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    def norm(name, x):
        groups = x.unflatten(1, (min(32, x.shape[1] // 4), -1))
        var, mean = torch.var_mean(groups, (2, 3, 4), correction=0, keepdim=True)
        normal = ((groups - mean) / (var + (1e-5 if adm else 1e-6)).sqrt()).reshape(x.shape)
        return normal * w[f"{name}.weight"].view(-1, 1, 1) + w[f"{name}.bias"].view(-1, 1, 1)

    def resampled(name, x):   # the filter [1, 1] in both directions, its sum 1 down, and 1 on each of four pixels up
        f = torch.full((x.shape[1], 1, 2, 2), 0.25, dtype=x.dtype)
        if name.endswith("_down"):
            return F.conv2d(x, f, stride=2, groups=x.shape[1])
        return F.conv_transpose2d(x, 4 * f, stride=2, groups=x.shape[1]) if name.endswith("_up") else x

    def block(name, x, e):
        z = conv(f"{name}.conv0", resampled(name, F.silu(norm(f"{name}.norm0", x))))
        e = linear(f"{name}.affine", e)[:, :, None, None]
        if adm:
            z = (e[:, :z.shape[1]] + 1) * norm(f"{name}.norm1", z) + e[:, z.shape[1]:]
        else:
            z = norm(f"{name}.norm1", z + e)
        x = conv(f"{name}.skip", resampled(name, x)) if f"{name}.skip.weight" in w else resampled(name, x)
        x = (x + conv(f"{name}.conv1", F.silu(z))) * gain
        if f"{name}.qkv.weight" in w:
            heads = x.shape[1] // 64 if adm else 1
            qkv = conv(f"{name}.qkv", norm(f"{name}.norm2", x)).reshape(len(x), heads, x.shape[1] // heads, 3, -1)
            q, k, v = qkv.permute(3, 0, 1, 4, 2)
            x = (x + conv(f"{name}.proj", F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))) * gain
        return x

    half = w["model.map_layer0.weight"].shape[1] // 2
    angles = [[t * math.exp(-math.log(10000) * i / (half if adm else half - 1)) for i in range(half)]
              for t in noise.tolist()]
    cos, sin = (torch.tensor([[f(angle) for angle in row] for row in angles], dtype=x.dtype)
                for f in (math.cos, math.sin))
    e = torch.cat([cos, sin] if adm else [sin, cos], 1)
    labels = 0 if label is None else linear("model.map_label", label * (1 if adm else label.shape[1] ** 0.5))
    e = F.silu(linear("model.map_layer0", e + (0 if adm else labels)))
    e = F.silu(linear("model.map_layer1", e) + (labels if adm else 0))
    skips = []
    names = dict.fromkeys(".".join(key.split(".")[:3]) for key in w
                          if key.startswith(("model.enc", "model.dec")) and "_aux_" not in key)
    for name in names:
        if name.endswith("_conv"):
            x = conv(name, x)
        else:
            if x.shape[1] != len(w[f"{name}.norm0.weight"]):
                x = torch.cat([x, skips.pop()], 1)
            x = block(name, x, e)
        if ".enc." in name:
            skips.append(x)
    last, = {key.removesuffix("norm.weight") for key in w
             if re.fullmatch(r"model\.(out|dec\.\d+x\d+_aux)_norm\.weight", key)}
    assert not skips
    return conv(f"{last}conv", F.silu(norm(f"{last}norm", x)))


# of Nvidia's own copies of both architectures, in PhysicsNeMo 2.2; papers say 55.7M and 295.9M
@pytest.mark.parametrize("name, parameters", [
    (UNCONDITIONAL, 55_733_891), (CONDITIONAL, 55_735_299), (IMAGENET, 295_899_267)])
def test_the_published_nets_have_their_number_of_parameters(name, parameters):
    with torch.device("meta"):
        net = MODELS[name].build()
        assert net.denoise(torch.rand(2, 3, net.side, net.side), torch.ones(2)).shape == (2, 3, net.side, net.side)
    assert sum(p.numel() for p in net.parameters()) == parameters and not list(net.buffers())


# as EDM's networks.py names and sizes them for the options that its README trains with
@pytest.mark.parametrize("name, shapes", [
    (UNCONDITIONAL, {"map_augment.weight": (128, 9), "map_layer0.weight": (512, 128),
                     "enc.32x32_conv.weight": (128, 3, 3, 3), "enc.32x32_block0.conv0.weight": (256, 128, 3, 3),
                     "enc.16x16_down.skip.weight": (256, 256, 1, 1),
                     "enc.16x16_block3.qkv.weight": (768, 256, 1, 1), "enc.8x8_block3.norm1.bias": (256,),
                     "dec.8x8_in0.proj.bias": (256,), "dec.8x8_block4.affine.weight": (256, 512),
                     "dec.32x32_up.conv0.bias": (256,), "dec.32x32_block4.norm0.weight": (384,),
                     "out_conv.weight": (3, 256, 3, 3), "map_label.weight": None, "dec.16x16_block3.qkv.weight": None,
                     "dec.8x8_in1.qkv.weight": None, "enc.8x8_block0.skip.weight": None,
                     "enc.8x8_block0.qkv.weight": None}),
    (CONDITIONAL, {"map_label.weight": (128, 10), "map_label.bias": (128,), "dec.16x16_block4.norm2.weight": (256,)}),
    (IMAGENET, {"map_label.weight": (768, 1000), "map_label.bias": None, "map_augment.weight": None,
                "map_layer1.bias": (768,), "enc.64x64_conv.bias": (192,), "enc.32x32_down.affine.weight": (384, 768),
                "enc.32x32_down.skip.weight": None, "enc.8x8_block0.skip.weight": (768, 576, 1, 1),
                "dec.8x8_in0.qkv.bias": (2304,), "dec.8x8_block0.conv0.weight": (768, 1536, 3, 3),
                "dec.32x32_block0.qkv.weight": (1152, 384, 1, 1), "dec.64x64_block3.norm0.bias": (384,),
                "dec.64x64_block0.qkv.weight": None, "out_norm.weight": (192,)})])
def test_parameters_are_named_as_in_the_files(name, shapes):
    with torch.device("meta"):
        state = MODELS[name].build().state_dict()
    assert {key: tuple(state[f"model.{key}"].shape) if f"model.{key}" in state else None for key in shapes} == shapes


@pytest.mark.parametrize("name", SMALL)
def test_nets_are_the_reference(name):
    net, x = small(name).double(), noisy(name)
    label = F.one_hot(torch.tensor([0, 2, 4]), net.classes).double() if net.classes else None
    noise = torch.tensor([-1.2, 0.1, 0.9], dtype=torch.float64)
    ours = net.model(x, noise, label)
    assert torch.allclose(ours, reference(in_file(net), x, noise, label, name == IMAGENET), rtol=1e-9, atol=1e-10)
    others = [net.model(x.flip(3), noise, label), net.model(x, noise + 0.1, label)]
    if net.classes:
        others.append(net.model(x, noise, label.roll(1, 1)))
    for other in others:
        assert (ours - other).abs().max() > 1e-4   # all inputs matter


@pytest.mark.parametrize("name", SMALL)
def test_a_zero_network_leaves_the_shrunk_images(name):
    """D = c_skip x in [-1, 1]: the best linear guess of an image of variance 1/4 around grey."""
    net, y = small(name).double(), noisy(name)
    for p in net.model.out_conv.parameters():
        p.zero_()
    s = 2 * SIGMA.view(-1, 1, 1, 1) / 255
    assert torch.allclose(2 * net.denoise(y, SIGMA) - 1, 0.25 / (0.25 + s**2) * (2 * y - 1))


@pytest.mark.parametrize("c", [None, torch.tensor([1, 0, 9])])
def test_the_preconditioning_is_equation_7(c):
    net, y = small(CONDITIONAL).double(), noisy(CONDITIONAL)
    told = []
    net.model.register_forward_hook(lambda module, args, output: told.append((*args, output)))
    found = 2 * net.denoise(y, SIGMA, c) - 1
    x, noise, label, f = told[0]
    for i, sigma in enumerate(SIGMA.tolist()):
        s = sigma / 127.5   # images of 0 to 255 are divided by 127.5
        assert torch.allclose(x[i], (2 * y[i] - 1) / math.hypot(0.5, s))
        assert noise[i].item() == pytest.approx(0.25 * math.log(s))
        assert label[i].tolist() == [float(c is not None and k == c[i]) for k in range(10)]
        assert torch.allclose(found[i], 0.5**2 / (0.5**2 + s**2) * (2 * y[i] - 1) + s * 0.5 / math.hypot(0.5, s) * f[i])


@pytest.mark.parametrize("name, c", [(UNCONDITIONAL, None), (CONDITIONAL, None), (CONDITIONAL, [1, 0, 9]),
                                     (IMAGENET, [4, 0, 1])])
def test_scores_are_the_denoisers(name, c):
    net, y, c = small(name).double(), noisy(name), None if c is None else torch.tensor(c)
    denoised = scores.denoise(net, y, SIGMA, c)
    assert torch.equal(denoised, net.denoise(y, SIGMA, c))
    assert c is None or not torch.allclose(denoised, net.denoise(y, SIGMA))
    assert torch.allclose(scores.score(net, y, SIGMA, c), (denoised - y) / (SIGMA.view(-1, 1, 1, 1) / 255) ** 2)
    assert torch.allclose(net.denoise(y[1:2], SIGMA[1:2], None if c is None else c[1:2]), denoised[1:2])


@pytest.mark.parametrize("name", [UNCONDITIONAL, IMAGENET])
def test_the_jacobian_has_products_from_both_sides(name):
    net, y = small(name).double(), noisy(name)
    u, v = torch.randn(2, *y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    jv, ju = scores.denoiser_matvec(net, y, SIGMA, v), scores.denoiser_matvec(net, y, SIGMA, u, transposed=True)
    assert torch.allclose((u * jv).sum((1, 2, 3)), (ju * v).sum((1, 2, 3)))
    difference = (net.denoise(y + 1e-6 * v, SIGMA) - net.denoise(y - 1e-6 * v, SIGMA)) / 2e-6
    assert torch.allclose(jv, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda net, y: scores.denoise(small(UNCONDITIONAL).double(), y, SIGMA, torch.tensor([0, 1, 2])),
     "has no density .* or to denoise a conditional edm"),
    (lambda net, y: small(UNCONDITIONAL).double().denoise(y, SIGMA, torch.tensor([0, 1, 2])),
     "unconditional; leave out the classes, or load .* 'cond'"),
    (lambda net, y: scores.denoise(net, y, SIGMA, torch.tensor([0, 1, 10])), r"labels must lie in 0..9"),
    (lambda net, y: scores.denoise(net, y, SIGMA, torch.tensor([0])), r"labels must be int64 of shape .3,."),
    (lambda net, y: net.denoise(y[..., :4], SIGMA),
     r"^this net takes images of shape \(3, 8, 8\); these are \(3, 8, 4\)$"),
    (lambda net, y: scores.log_density(net, y), "has no density"),
    (lambda net, y: load_edm("edm-cifar10-32x32-uncond-ve"),
     f"EDM model 'edm-cifar10-32x32-uncond-ve' does not exist; did you mean '{UNCONDITIONAL}'"),
])
def test_bad_input_is_told_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(small(CONDITIONAL).double(), noisy(CONDITIONAL))


class Persistent:
    """A module that is pickled as torch_utils.persistence does it, with its source; `state` has its weights by name."""

    def __init__(self, source, state):
        self.source, own, inner = source, {}, {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            inner.setdefault(first, {}).update({rest: value}) if rest else own.update({first: value})
        buffers = {"resample_filter": own.pop("resample_filter", None)}
        parameters = {key: nn.Parameter(value, False) for key, value in own.items()} or {"weight": None, "bias": None}
        modules = {name: Persistent(source, part) for name, part in inner.items()}
        for name in {"enc", "dec"} & set(modules):   # torch's own containers
            modules[name], container = nn.ModuleDict(), modules[name]
            modules[name].__dict__.update(container.state)
        self.state = {"training": False, "_parameters": OrderedDict(parameters), "_buffers": OrderedDict(buffers),
                      "_modules": OrderedDict(modules), "_non_persistent_buffers_set": set(),
                      "_backward_hooks": OrderedDict(), "skip": None, "sigma_data": 0.5,
                      "skip_scale": np.sqrt(0.5), "_init_args": (),
                      "_init_kwargs": sys.modules["dnnlib.util"].EasyDict(up=False)}

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": "Net", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


class EasyDict(dict):
    pass


def _reconstruct_persistent_obj(meta):
    exec(meta["module_src"], {})   # as the original


@pytest.fixture
def place(tmp_path, monkeypatch, offline):
    """place(name, net) writes the file of a small net where ROBUSTGEN_DATA points, with a source that leaves a proof if
    run; returns its path."""
    for name, thing in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        module = types.ModuleType(name)
        setattr(module, thing.__name__, thing)
        monkeypatch.setattr(thing, "__module__", name)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)

    def put(name, net, taps=(1, 1), checksum=None):
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], build=partial(EDM, **SMALL[name]), checksum=checksum))
        file = tmp_path / "given" / f"{name}.pkl"
        file.parent.mkdir(exist_ok=True)
        if net is not None:
            source = f"open({str(tmp_path / 'proof')!r}, 'w')"
            data = {"ema": Persistent(source, in_file(net, taps)), "loss_fn": Persistent(source, {}),
                    "augment_pipe": None, "dataset_kwargs": {"path": "x"}}
            file.write_bytes(pickle.dumps(data))
        return file
    return put


@pytest.mark.parametrize("name", SMALL)
def test_the_net_in_a_file_is_loaded_and_its_source_is_not_run(place, tmp_path, name):
    theirs, y = small(name), noisy(name, torch.float32)
    file = place(name, theirs)
    ours = load_edm(name)
    assert torch.equal(ours.denoise(y, SIGMA.float()), theirs.denoise(y, SIGMA.float()))
    assert not ours.training and all(p.dtype == torch.float32 and not p.requires_grad for p in ours.parameters())
    assert not (tmp_path / "proof").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "proof").exists()   # the file is one that would


def test_a_file_is_trusted_on_first_use_or_by_its_published_checksum(place):
    file = place(CONDITIONAL, small(CONDITIONAL))
    load_edm(CONDITIONAL), load_edm(CONDITIONAL)
    place(CONDITIONAL, small(CONDITIONAL, 1))
    with pytest.raises(OSError, match=f"^{file} is not the file that was first used"):
        load_edm(CONDITIONAL)
    place(UNCONDITIONAL, small(UNCONDITIONAL), checksum=("sha256", "4d5dcc1f"))
    with pytest.raises(OSError, match="is damaged .wrong checksum."):
        load_edm(UNCONDITIONAL)


@pytest.mark.parametrize("name, net, taps, reason", [
    (UNCONDITIONAL, UNCONDITIONAL, (1, 3, 3, 1), r"it resamples with another filter than \[1, 1\]"),
    (UNCONDITIONAL, CONDITIONAL, (1, 1), r"Error.* Missing key.*enc\.8x8_block0\.skip.*"),
    (IMAGENET, UNCONDITIONAL, (1, 1), "Error.* Missing key.*")])
def test_a_file_of_another_net_is_refused_in_one_sentence(place, name, net, taps, reason):
    file = place(name, small(net), taps)
    with pytest.raises(ValueError, match=f"^{file} does not hold the weights of {name} .({reason}).; put that of "
                                         f"https.*{name}.pkl in its place$"):
        load_edm(name)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", pickle.dumps({"ema": {}}), pickle.dumps([1, 2])])
def test_a_file_of_another_kind_is_refused(place, content):
    file = place(CONDITIONAL, None)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file} does not hold the weights of {CONDITIONAL} "):
        load_edm(CONDITIONAL)


@pytest.mark.parametrize("name", SMALL)
def test_missing_weights_name_the_file_its_address_and_the_remedy(place, name):
    place(name, None)
    message = (f"^{name}.pkl is missing, and could not be had from "
               f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{name}.pkl "
               "[(]no route to host[)]; put it in the folder named by ROBUSTGEN_DATA$")
    with pytest.raises(FileNotFoundError, match=message):
        load_edm(name)
    assert list(paths.cache_folder().iterdir()) == []


@pytest.mark.parametrize("name",
                         ["torch.storage _load_from_bytes", "torch_utils.persistence _reconstruct_persistent_obj",
                          "dnnlib.util EasyDict"])
def test_a_pickle_cannot_change_what_it_is_given(tmp_path, name):
    file = tmp_path / "file"
    file.write_bytes(b"\x80\x02c" + name.replace(" ", "\n").encode()
                     + b"\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b.")
    with pytest.raises((AttributeError, TypeError)):
        read_pickle(file)


def test_a_container_in_a_pickle_keeps_its_class(tmp_path):
    """Setting a state on the class itself, not on an object, does nothing."""
    before = dict(vars(_Container))
    for state in (b"}X\x06\x00\x00\x00updateK\x01s", b"N}X\x06\x00\x00\x00updateK\x01s\x86"):
        (tmp_path / "file").write_bytes(b"\x80\x02ctorch.nn.modules.container\nModuleDict\n" + state + b"b.")
        try:
            read_pickle(tmp_path / "file")
        except TypeError:
            pass
    assert dict(vars(_Container)) == before
