"""The conventions of every public function: what the caller's grad mode, types, layout, device and model may be."""

import copy
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch
from torch import nn

import devices
from public_calls import CALLS, OTHERS, setting, tensors
from robustgen import attacks
from robustgen.core import images
from robustgen.data import datasets
from robustgen.models.builders import build_model
from robustgen.training.registry import OBJECTIVES, build_objective

# They take a model's layers by name, or more of it than its answer.
WITH_MODULES = ("perceptual.", "manifold.encoded_basis")
TAKES_JOINT = ("scores.log_density", "scores.denoise", "scores.score", "scores.smoothed", "diffusion.",
               "smoothing.withstood")
TAKES_NO_NET = ("gradient_based.random", "bayes_optimal.", "scores.noisy_images", "jacobian.krylov",
                "labels", "manifold.orthonormal", "manifold.principal_angles", "manifold.directions", "frechet.frechet",
                "perceptual.cosine", "similarity.", "statistics.")


def check(found, expected, rtol=0.0, atol=0.0):
    found, expected = tensors(found), tensors(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        a, b = (v.here if isinstance(v, devices.Elsewhere) else v for v in (a, b))
        assert a.shape == b.shape and not a.requires_grad
        assert torch.allclose(a.double(), b.double(), rtol, atol, equal_nan=True), (a, b)


@pytest.fixture(scope="module")
def expected():
    """What each call returns by default."""
    return {name: call(setting()) for name, call in CALLS.items()}


def test_every_public_function_is_called_or_named():
    found = set()
    for package in ("attacks", "probes", "sampling", "metrics"):
        whole = importlib.import_module(f"robustgen.{package}")
        for module in pkgutil.iter_modules(whole.__path__):
            for name, value in vars(importlib.import_module(f"robustgen.{package}.{module.name}")).items():
                if (inspect.isfunction(value) or inspect.isclass(value)) and not name.startswith("_") \
                        and value.__module__.endswith(f".{module.name}"):
                    found.add(f"{module.name}.{name}")
    others = {f"{module}.{name}" for module, names in (line.split(": ") for line in OTHERS.strip().splitlines())
              for name in names.split()}
    called = {name.partition(",")[0] for name in CALLS}
    assert found - called - others == set() and others <= found and not others & called


@pytest.mark.parametrize("name", CALLS)
def test_the_callers_grad_mode_does_not_matter(name, expected):
    """Nor that of images and weights: results hold no graph. In inference mode the reason is said."""
    check(CALLS[name](setting()), expected[name])
    with torch.no_grad():
        check(CALLS[name](setting()), expected[name])
    asking = setting()
    for whole in (asking.x, asking.large):
        whole.requires_grad_()
    check(CALLS[name](asking), expected[name])
    if not name.startswith(("statistics", "labels", "frechet", "perceptual.cosine", "perceptual.feature",
                            "jacobian.krylov", "jacobian.gram",
                            "manifold", "gradient_based.random_targets", "smoothing.defended", "dynamics",
                            "similarity.nearest_features", "similarity.two", "fisher.exact", "evaluation.batched")):
        s = setting()
        with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode.. forbids"):
            CALLS[name](s)


@pytest.mark.parametrize("name", CALLS)
def test_a_model_is_left_as_it_was(name):
    s = setting()
    s.net.net[3].weight.requires_grad_(False)
    s.net.net[2].train()   # what has no train mode may be in it
    nets = (s.net, s.joint, s.coder)
    before = [_state(net) for net in nets]
    CALLS[name](s)
    for net, old in zip(nets, before):
        new = _state(net)
        assert new[1:] == old[1:] and all(map(torch.equal, new[0], old[0]))


def _state(net):
    """All that a caller could miss: tensors, modes, flags, gradients, hooks."""
    return (copy.deepcopy(list(net.state_dict().values())), [m.training for m in net.modules()],
            [p.requires_grad for p in net.parameters()], [p.grad is None for p in net.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()])


UNCHECKED = ("fisher.exact_trace", "dynamics.sgld", "manifold.encoded_basis", "manifold.rho_off",
             "jacobian.gram_matvec", "scores.den")   # they take a function, or another net


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith((*TAKES_NO_NET, *TAKES_JOINT, *UNCHECKED))])
def test_train_mode_is_refused_before_it_does_harm(name):
    s = setting()
    s.net.train()
    before = _state(s.net)
    with pytest.raises(ValueError, match="in train mode; call model.eval.. first"):
        CALLS[name](s)
    assert all(map(torch.equal, _state(s.net)[0], before[0]))


class Wobbling(nn.Module):
    """A net whose dropout is a function, so that no module of it is a dropout."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(300, 5)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x.flatten(1)), 0.5, self.training)


@pytest.mark.parametrize("wrap", [torch.jit.script, lambda net: torch.compile(net, backend="eager"), nn.DataParallel],
                         ids=["scripted", "compiled", "parallel"])
def test_train_mode_is_seen_through_wrappers(wrap):
    s = setting()
    s.net = wrap(s.net.net.train())
    with pytest.raises(ValueError, match="in train mode; call model.eval.. first"):
        CALLS["evaluation.accuracy"](s)
    s.net.eval()
    CALLS["evaluation.accuracy"](s)


def test_train_mode_is_seen_by_what_it_does():
    s = setting()
    s.net = Wobbling()
    with pytest.raises(ValueError, match="change from call to call, as some of its layers are in train mode"):
        CALLS["evaluation.accuracy"](s)
    s.net.eval()
    CALLS["evaluation.accuracy"](s)


@pytest.mark.parametrize("name", CALLS)
def test_numpy_numbers_are_as_good(name, expected):
    check(CALLS[name](setting(i=np.int64, f=np.float64, seed=np.int64(3))), expected[name])
    CALLS[name](setting(f=np.float32))
    CALLS[name](setting(seed=np.random.default_rng(0)))


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith((*WITH_MODULES, *TAKES_JOINT, *TAKES_NO_NET))])
def test_a_function_is_a_model(name, expected):
    s, net = setting(), setting().net
    s.net = lambda x: net(x)
    check(CALLS[name](s), expected[name])


LAYOUTS = {
    "channels last": lambda v: v.contiguous(memory_format=torch.channels_last),
    "turned": lambda v: v.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "a part": lambda v: torch.stack([v, v], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_any_layout_of_the_images(name, layout):
    """In float64, as other kernels round otherwise, and signs of gradients would not be told."""
    plain, turned = (setting(**_doubled(setting())) for _ in range(2))
    turned.x, turned.large = LAYOUTS[layout](turned.x), LAYOUTS[layout](turned.large)
    check(CALLS[name](turned), CALLS[name](plain), rtol=1e-6, atol=1e-8)


def _doubled(s):
    return {key: getattr(s, key).double() for key in ("net", "joint", "coder", "x", "large")}


def test_images_that_left_their_range_by_rounding_are_clamped(expected):
    s = setting()
    s.x[0, 0, 0, 0], s.x[0, 0, 0, 1] = 1, 0
    inside = CALLS["gradient_based.pgd"](s)
    s.x[0, 0, 0, 0], s.x[0, 0, 0, 1] = 1 + 1.2e-7, -6e-8
    check(CALLS["gradient_based.pgd"](s), inside)
    s.x[0, 0, 0, 0] = 1 + 1.2e-5
    with pytest.raises(ValueError, match="these reach from -6e-08 to 1.000012. Undo the normalisation"):
        CALLS["gradient_based.pgd"](s)


def test_inference_tensors_are_copied(expected):
    with torch.inference_mode():
        s = setting()
        x, y = s.x + 0, s.y + 0
    check(CALLS["gradient_based.pgd"](setting(x=x)), expected["gradient_based.pgd"])
    with pytest.raises(ValueError, match="labels come from torch.inference_mode.., which forbids"):
        CALLS["gradient_based.pgd"](setting(y=y))


# Devices

@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith(("similarity.nearest", "external"))])
@pytest.mark.parametrize("float64", [True, False], ids=["CUDA", "Apple"])
def test_every_call_works_on_another_device(name, float64, monkeypatch):
    """Nothing of the CPU may meet the images, and where the device has no float64 the CPU helps out.

    SSIM is torchmetrics', foolbox is a library of its own: what they do is not ours.
    """
    if not float64:
        monkeypatch.setattr(images, "has_double", lambda device: torch.device(device).type == "cpu")
    s = setting()
    s.joint = build_model("gradresnet", width=8, blocks=[1, 1, 1, 1], norm="batch", generator=0, channels_last=False)
    s.joint.eval()   # the emulation cannot differentiate group norm three times
    usual = CALLS[name](s)
    with devices.device(float64) as move:
        s.moved = move
        for key in ("net", "joint", "coder", "x", "y", "seen", "large"):
            setattr(s, key, move(getattr(s, key)))
        found = CALLS[name](s)
    check(found, usual, rtol=1e-3, atol=1e-5)


STEPS = {
    "CrossEntropy": {},
    "NoisyCE": {"sigma": 0.1},
    "GradNorm": {"lam": 0.1},
    "Smoothness": {"lam": 0.1, "sigma": 0.1},
    "AdversarialCE": {"norm": "l2", "eps": [0.5, 1.0], "step_size": 0.5, "steps": 2, "random_start": True},
    "PreJEAT": {"eps": 0.1, "step_size": 0.1, "steps": 1, "random_start": True},
    "JEM": {"sigma": 0.03, "sgld_steps": 2, "sgld_step": 0.25, "sgld_noise": 0.01, "buffer": 20, "reinit": 0.5,
            "start": "class_gaussian"},
    "JEAT": {"eps": 0.1, "sgld_steps": 2, "sgld_step": 0.25, "sgld_noise": 0.01, "buffer": 20, "reinit": 0.5,
             "start": "uniform"},
    "DualAT": {"weight": 0.2, "start": "class_gaussian", "contrast_steps": 2, "contrast_step": 0.3, "norm": "linf",
               "eps": 0.1, "step": 1.25, "steps": 1, "random_start": True},
    "Denoising": {"sigma": [1, 100]},
    "Autoencoding": {},
    "JointDenoising": {"task": "joint", "sigma_classification": [0, 20], "sigma_denoising": [1, 100], "margin": 1,
                       "mixed": True, "every": 1},
    "ProgressiveJointDenoising": {"task": "joint", "sigma_classification": [0, 20], "sigma_denoising": [1, 100],
                                  "mixed": True, "side": 10, "stages": [{"until": 1, "images": 0.5, "side": 8}]},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_step_stays_on_its_device(name):
    """With float64 refused, too: a step on Apple's GPU. Loss and gradients are the CPU's."""
    def step(move=lambda value: value):
        s = setting()
        s.net.net[6].p = 0   # dropout draws from torch's generator
        model = {"Denoising": s.joint, "JointDenoising": s.joint, "ProgressiveJointDenoising": s.joint,
                 "Autoencoding": s.coder}.get(name, s.net)
        if model is s.joint:
            model = build_model("gradresnet", width=8, blocks=[1, 1, 1, 1], norm="batch", generator=0,
                                channels_last=False)
        x = s.large if model is s.coder else s.x
        pool = datasets.Images((torch.cat([x, x.flip(0)]) * 255).byte(), s.y.repeat(2), tuple("abcde"))
        objective = move(build_objective(model, name, **STEPS[name]))
        objective.prepare(datasets.Images(move(pool.x), move(pool.y), pool.classes), 0, 6, 6, 0)
        objective.train()
        objective.on_epoch_start(0.0)
        objective.progress = 0.9
        loss, log = objective(move(x), move(s.y), generator=move(torch.arange(6)))
        loss.backward()
        return [loss.detach(), *[p.grad for p in objective.parameters() if p.grad is not None]]

    usual = step()
    with devices.device(float64=False) as move:
        found = step(move)
    check(found, usual, rtol=1e-3, atol=1e-5)


# Types of 16 bits

HALVES = [torch.float16, torch.bfloat16]
ATTACKS = [name for name in CALLS if name.startswith(("auto_pgd", "gradient_based.pgd", "gradient_based.random_noise",
                                                      "gradient_based.he_pgd", "gradient_based.fgsm", "square",
                                                      "drift.pgdd"))]
RADII = {"gradient_based.he_pgd": 8 / 255, "linf": 0.1, "l2": 1.0, "drift": 1.0}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ATTACKS)
def test_images_of_16_bits_stay_in_their_ball(name, dtype):
    """Exactly: the distance is taken in float64."""
    s = setting()
    s.net, s.x = s.net.to(dtype), s.x.to(dtype)
    s.seen = s.net(s.x).argmax(1)
    found = tensors(CALLS[name](s))[0]
    assert found.dtype == dtype and found.min() >= 0 and found.max() <= 1
    move = (found.double() - s.x.double()).flatten(1)
    two = "l2" in name or "random_noise" in name
    size = move.norm(dim=1) if two else move.abs().amax(1)
    eps = RADII.get(name, RADII["l2" if two else "drift" if "drift" in name else "linf"])
    assert (size <= eps * (1 + 1e-7)).all() and (size > eps / 20).any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_zero_gradient_moves_nothing(norm, dtype):
    x = setting().x.to(dtype)

    def flat(x):
        nothing = 0 * x.flatten(1)[:, :1]
        return torch.cat([nothing - 3, nothing], 1)

    found = attacks.gradient_based.pgd(flat, x, torch.zeros(6, dtype=torch.long), norm=norm, eps=0.5, step_size=0.1,
                                       steps=3)
    assert torch.equal(found, x)
