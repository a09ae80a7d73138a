"""What a run may ask of its training: initialisation, batch norm, averages, clipping, precision, attack steps."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from conftest import NET, RUN
from robustgen.core import ascent
from robustgen.core.energy import log_odds
from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.models.inference import evaluating
from robustgen.training import classification, hardware, trainer
from robustgen.training.averaging import WeightAverage
from robustgen.training.family import _fabric, train
from robustgen.training.registry import build_objective
from robustgen.training.runs import Run
from robustgen.training.schedules import SCHEDULES
from robustgen.training.trainer import Job, load_images
from robustgen.utils.fields import checked_settings

ADVERSARIAL = {"name": "AdversarialCE", "norm": "l2", "eps": 0.5, "step": 2.5, "steps": 2, "random_start": True}


def statistics(folder, name="seed=0"):
    return {key: value for key, value in load_file(folder / f"{name}.safetensors").items() if "running" in key}


# Initialisation

def test_he_initialisation_has_its_variance_and_no_bias():
    net = build_model("mnist_cnn", width=16, hidden=50, generator=0, initialisation="he")
    assert net[9].weight.std().item() == pytest.approx((2 / net[9].in_features) ** 0.5, rel=0.02)
    assert all((layer.bias == 0).all() for layer in net if hasattr(layer, "bias"))


def test_fresh_weights_are_torchs_unless_the_run_says_he(runs):
    home = runs(torch={"epochs": 1, "optimizer": {"name": "SGD", "lr": 0.0}, "weights": "float32"},
                he={"epochs": 1, "optimizer": {"name": "SGD", "lr": 0.0}, "weights": "float32", "initialisation": "he"})
    for name in ("torch", "he"):
        weights = load_file(train(name, "p") / "seed=1.safetensors")
        assert torch.equal(weights["0.weight"], build_model(**NET, generator=1, initialisation=name)[0].weight)
    assert not torch.equal(load_file(home / "torch/seed=1.safetensors")["0.weight"], weights["0.weight"])


# Batch norm

@pytest.mark.parametrize("objective", [{"name": "CrossEntropy"}, ADVERSARIAL])
def test_frozen_batch_norms_keep_their_statistics_and_train_their_weights(runs, objective):
    """An attack inside the step, which runs in eval mode, must not wake them."""
    home = runs(parent={}, frozen={"start": "parent", "batch_norm": "frozen", "objective": objective},
                moving={"start": "parent", "objective": objective})
    for name in ("parent", "frozen", "moving"):
        train(name, "p")
    parent, frozen, moving = (statistics(home / name) for name in ("parent", "frozen", "moving"))
    assert parent and all(torch.equal(parent[key], frozen[key]) for key in parent)
    assert not any(torch.equal(parent[key], moving[key]) for key in parent)
    before, after = (load_file(home / name / "seed=0.safetensors") for name in ("parent", "frozen"))
    scales = [key for key in before if key.replace("weight", "running_mean") in before]   # of batch norms
    assert not all(torch.equal(before[key], after[key]) for key in scales)


def test_evaluating_leaves_each_module_in_its_mode():
    net = build_model(**NET, generator=0).train()
    net[1].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert net.training and net[0].training and not net[1].training


# The average of the weights

def test_the_average_is_the_recursion_it_says():
    net, decay = torch.nn.Linear(1, 1, bias=False), 0.5
    average = WeightAverage(net, decay)
    expected = net.weight.item()
    for step in range(1, 6):
        net.weight.data += 1
        average.update(step)
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * net.weight.item()
    assert average.state["weight"].item() == pytest.approx(expected)
    own = net.weight.clone()
    with average.in_place():
        assert torch.equal(net.weight, average.state["weight"])
    assert torch.equal(net.weight, own)


def test_the_average_is_what_is_tested_and_kept(runs, monkeypatch):
    home = runs(run={"ema": 0.5, "weights": "float32", "snapshots": True, "over": {"seed": [0]}},
                plain={"weights": "float32", "over": {"seed": [0]}})
    seen, real = [], Job.test

    def test(self, held_out):
        found = real(self, held_out)
        with self.average.in_place():
            seen.append(self.module.model.state_dict()["0.weight"].clone())
        # the average as any other net: the same accuracy
            self.module.eval()
            right = (self.module.model(held_out.unit).argmax(1) == held_out.y).float().mean()
        assert found["test_accuracy"] == pytest.approx(right.item())
        return found

    monkeypatch.setattr(Job, "test", test)
    train("run", "p")
    monkeypatch.undo()
    kept = load_file(home / "run/seed=0.safetensors")["0.weight"]
    assert torch.equal(kept, seen[-1])
    assert torch.equal(load_file(home / "run/seed=0.epoch=1.safetensors")["0.weight"], seen[0])


def test_the_average_goes_on_after_a_kill_as_if_there_had_been_none(runs, monkeypatch):
    home = runs(run={"ema": 0.9, "clip": 0.5, "over": {"seed": [0]}, "epochs": 3})
    train("run", "p")
    whole = load_file(home / "run/seed=0.safetensors")
    shutil.rmtree(home)
    real, calls = Job.epoch, []

    def killed(self, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(real(self, *args))

    monkeypatch.setattr(Job, "epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train("run", "p")
    monkeypatch.setattr(Job, "epoch", real)
    train("run", "p")
    again = load_file(home / "run/seed=0.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


# Clipping

@pytest.mark.parametrize("clip, length", [(1e-3, 1e-3), (None, None), (1e6, None)])
def test_a_gradient_longer_than_clip_is_scaled_down(tmp_path, clip, length):
    settings = checked_settings(Run, RUN | {"clip": clip, "optimizer": {"name": "SGD", "lr": 1.0}}, "run")
    images = load_images("mnist", "train", 50, 0, "cpu")   # one step
    work = Job(settings, tmp_path / "net", _fabric("32-true", "ddp"), images, "run")
    before = [p.detach().clone() for p in work.module.parameters()]
    work.epoch(images, "net")
    moved = sum((a - b).square().sum() for a, b in zip(before, work.module.parameters())).sqrt().item()
    assert moved == pytest.approx(length, rel=1e-3) if length else moved > 0.1


# Attack steps, label smoothing, schedules

@pytest.fixture(scope="module")
def small():
    images = load_images("mnist", "train", 20, 0, "cpu")
    return build_model(**NET, generator=0).eval(), images.unit, images.y


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.2, [0.1, 0.4]])
def test_steps_relative_to_eps_are_those_of_the_same_length(small, norm, eps):
    net, x, y = small
    largest = max(eps) if isinstance(eps, list) else eps
    common = dict(norm=norm, eps=eps, steps=3, random_start=False)
    a, b = (build_objective(net, "AdversarialCE", **common, **size)(x, y, generator=torch.arange(20))[0]
            for size in ({"step": 2.5}, {"step_size": 2.5 * largest / 3}))
    assert torch.equal(a, b)


def test_a_step_relative_to_eps_has_the_length_that_it_says(small):
    net, x, y = small
    grey = x.clamp(0.3, 0.7)   # far from black and white, at which images are clamped
    attack = build_objective(net, "AdversarialCE", norm="l2", eps=0.2, step=1.5, steps=3, random_start=False).attack
    moved = ascent.ascend_in_ball(grey, lambda x: log_odds(net(x), y), **attack | {"steps": 1}) - grey
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.tensor(0.1), atol=1e-4)


@pytest.mark.parametrize("name, settings", [("AdversarialCE", {"norm": "l2"}), ("PreJEAT", {})])
@pytest.mark.parametrize("size", [{}, {"step": 2.5, "step_size": 0.1}])
def test_exactly_one_size_of_a_step_is_wanted(small, name, settings, size):
    with pytest.raises(ValueError, match="run: an attack needs either 'step_size', a length, or 'step', in units of "):
        build_objective(small[0], name, source="run", eps=0.5, steps=2, random_start=True, **settings, **size)


def test_label_smoothing_spreads_the_target(small):
    net, x, y = small
    loss, _ = build_objective(net, "CrossEntropy", label_smoothing=0.2)(x, y)
    log_p = net(x).log_softmax(1)
    assert torch.allclose(loss, 0.8 * cross_entropy(net(x), y) - 0.2 * log_p.mean(), atol=1e-5)


def test_the_cosine_may_warm_up_and_the_line_need_not():
    assert SCHEDULES["cosine"](0.1, warmup=0.2) == pytest.approx(0.5) and SCHEDULES["cosine"](0.2, warmup=0.2) == 1
    assert SCHEDULES["cosine"](0.6, warmup=0.2) == pytest.approx(0.5)
    assert SCHEDULES["linear"](0.0, warmup=0.0) == 1
    assert SCHEDULES["linear"](1.0, warmup=0.0) == pytest.approx(0.01 / 1.01)


# Precision and compilation

@pytest.fixture
def machine(monkeypatch):
    """machine(units=..., compiler=...): one that has bf16 units, or a compiler, or not."""
    def is_a(units, compiler=True):
        monkeypatch.setattr(hardware, "has_bf16_units", lambda device: units)
        monkeypatch.setattr(hardware, "_compiler_fails", lambda device: "" if compiler else "no compiler")
    return is_a


@pytest.mark.parametrize("units, wanted, precision", [
    (True, "auto", "bf16-mixed"), (False, "auto", "32-true"), (True, "32-true", "32-true"),
    (True, "bf16-mixed", "bf16-mixed")])
def test_precision_is_chosen_by_the_machine_and_written_beside_the_weights(runs, machine, units, wanted, precision):
    machine(units)
    runs(run={"precision": wanted, "epochs": 1, "over": {"seed": [0]}})
    record = json.loads((train("run", "p") / "seed=0.json").read_text())
    assert record["environment"]["precision"] == precision and record["settings"]["precision"] == wanted
    assert record["environment"]["compiled"] is False and record["environment"]["processor"]


def test_bf16_without_its_units_is_refused(runs, machine):
    machine(False)
    runs(run={"precision": "bf16-mixed"})
    with pytest.raises(ValueError, match="train.yaml, run: precision 'bf16-mixed' needs bf16 matrix units, which this "
                                         "c.* lacks: it would take longer than in float32; choose 'auto' or '32-true'"):
        train("run", "p")


@pytest.mark.parametrize("units, compiler, wanted, steps, compiled", [
    (True, True, "auto", hardware.WORTH, True), (True, True, "auto", hardware.WORTH - 1, False),
    (False, True, "auto", 10**6, False), (True, False, "auto", 10**6, False), (True, True, False, 10**6, False),
    (False, True, True, 1, True), (False, False, True, 1, False)])
def test_what_is_compiled(machine, units, compiler, wanted, steps, compiled):
    machine(units, compiler)
    told = []
    assert hardware.choose_compile(wanted, "cpu", steps, told.append) == compiled
    assert told == ([] if compiler else ["not compiled, as torch.compile does not work here (no compiler)"])


def test_a_compiler_that_fails_is_told_in_its_first_line(monkeypatch):
    def broken(function):
        raise RuntimeError("No working C++ compiler found\nin a long list of places")

    monkeypatch.setattr(torch, "compile", broken)
    hardware._compiler_fails.cache_clear()
    assert hardware._compiler_fails("cpu") == "No working C++ compiler found"
    hardware._compiler_fails.cache_clear()


def test_without_a_compiler_training_goes_on(runs, machine, capsys):
    machine(False, compiler=False)
    runs(run={"compile": True, "epochs": 1, "over": {"seed": [0]}})
    record = json.loads((train("run", "p") / "seed=0.json").read_text())
    assert record["environment"]["compiled"] is False and "not compiled, as torch.compile" in capsys.readouterr().out


def test_the_nets_of_a_family_load_their_images_once(runs, monkeypatch):
    loaded = []
    monkeypatch.setattr(trainer, "load_data", lambda *args, **kwargs: loaded.append(args) or load_data(*args, **kwargs))
    runs(run={"over": {"optimizer.lr": [0.01, 0.02, 0.03]}, "epochs": 1})
    train("run", "p")
    assert [split for _, split, _ in loaded] == ["train", "test"]


def test_an_objective_is_told_how_far_the_training_has_come(runs, monkeypatch):
    seen, real = [], classification.CrossEntropy.forward

    def forward(self, *args, **kwargs):
        seen.append(self.progress)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(classification.CrossEntropy, "forward", forward)
    runs(run={"over": {"seed": [0]}})   # two epochs of two steps
    train("run", "p")
    assert seen == [0, 0.25, 0.5, 0.75]
