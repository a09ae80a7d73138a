"""Equation 15 along a training run: by closed forms, and step by step on nets trained here for a moment."""

import copy

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from robustgen.attacks.gradient_based import pgd
from robustgen.core import rng
from robustgen.data.datasets import load_data
from robustgen.experiments.jeat import energy_changes, energy_course, learning_rate, updated_model
from robustgen.models.builders import build_model
from robustgen.training.family import train
from robustgen.utils import paths
from robustgen.zoo.trained import load_net

ATTACKS = {
    "adversarial": {"name": "AdversarialCE", "norm": "l2", "eps": 1.0, "step_size": 0.6, "steps": 2,
                    "random_start": True},
    "prejeat": {"name": "PreJEAT", "eps": 0.05, "step_size": 0.05, "steps": 1, "random_start": False}}
LOSSES = {"adversarial": lambda logits, y: cross_entropy(logits, y, reduction="none"),
          "prejeat": lambda logits, y: -logits[range(len(y)), y]}
RUN = {"data": "mnist", "images": 300, "flip": False, "crop": 0,
       "model": {"name": "mnist_cnn", "width": 4, "hidden": 16},
       "objective": {"name": "CrossEntropy"}, "over": {"seed": [0]}, "seed": 0, "epochs": 3, "batch": 50,
       "optimizer": {"name": "SGD", "lr": 0.03, "momentum": 0.9}, "schedule": {"name": "linear", "warmup": 0.1},
       "bound": 1000.0, "test_images": 20, "snapshots": True, "weights": "float32", "precision": "32-true",
       "compile": False, "channels_last": True}
RUNS = {
    "attacked": RUN | {"over": {"objective": {name: {"objective": objective} for name, objective in ATTACKS.items()}}},
    "plain": RUN | {"epochs": 2},
    "single": RUN | {"objective": ATTACKS["prejeat"], "epochs": 1},
    "unkept": RUN | {"objective": ATTACKS["prejeat"], "epochs": 2, "snapshots": False}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root of its own, whose profile test has those runs, trained; and the training images of the first."""
    root = tmp_path_factory.mktemp("shaping")
    (root / "params/test").mkdir(parents=True)
    (root / "params/test/train.yaml").write_text(yaml.safe_dump(RUNS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        patch.setattr(paths, "PARAMS", root / "params")
        patch.setattr(paths, "RESULTS", root / "results")
        for run in RUNS:
            train(run, "test")
        images = load_data("mnist", "train", 300, seed=0)[:75]   # a batch and a half
        yield images.unit, images.y


class Linear:
    """Logits x' W of two-pixel images."""

    def __init__(self, *rows):
        self.W = torch.tensor(rows, dtype=torch.float64)

    def __call__(self, x):
        return x.flatten(1) @ self.W


def test_changes_of_linear_models_are_eq_15():
    before, after = Linear([1, 0, 2], [0, 3, 0]), Linear([2, 0, 2], [0, 1, 0])
    x = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    found = energy_changes(before, after, x, x / 2, torch.tensor([0, 1]))
    assert found["attack"]["joint"].tolist() == [0.5, 1.5]    # -f_y: -1 to -0.5, -3 to -1.5
    assert found["update"]["joint"].tolist() == [-0.5, 1.0]   # then to -1, and to -0.5
    assert found["clean"]["joint"].tolist() == [-1, 2]        # meanwhile -1 to -2, -3 to -1

    def E(*f):
        return -torch.tensor(f, dtype=torch.float64).exp().sum().log()

    clean, low, high = ([E(1, 0, 2), E(0, 3, 0)], [E(0.5, 0, 1), E(0, 1.5, 0)], [E(1, 0, 1), E(0, 0.5, 0)])
    assert torch.allclose(found["attack"]["marginal"], torch.stack(low) - torch.stack(clean))
    assert torch.allclose(found["update"]["marginal"], torch.stack(high) - torch.stack(low))


def test_an_update_is_a_gradient_step_of_a_copy():
    """W <- W - rate (softmax f - one-hot y) x' / B, by hand."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).double().eval().requires_grad_(False)
    weight, bias = (p.clone() for p in model.parameters())
    x, y = torch.rand(6, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    with torch.no_grad():
        found = updated_model(model, x, y, 0.3)
    slope = ((x.flatten(1) @ weight.T + bias).softmax(1) - torch.eye(3)[y]) / 6
    assert torch.allclose(found[1].weight, weight - 0.3 * slope.T @ x.flatten(1))
    assert torch.allclose(found[1].bias, bias - 0.3 * slope.sum(0))
    assert torch.equal(model[1].weight, weight) and torch.equal(model[1].bias, bias) and found is not model
    for net in (model, found):
        assert not net.training and not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_an_update_is_in_train_mode_and_leaves_the_originals_batch_norms_alone():
    model = build_model("resnet10", width=4, generator=0).eval().requires_grad_(False)
    state, x, y = copy.deepcopy(model.state_dict()), torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    twin = copy.deepcopy(model).train().requires_grad_(True)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    cross_entropy(twin(x), y).backward()
    optimizer.step()
    found = updated_model(model, x, y, 0.1)
    pairs = zip(found.state_dict().values(), twin.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_course_of_a_run_is_eq_15_at_its_snapshots(trained, kind):
    """Snapshot by snapshot: the attack as in training, a step of SGD on a batch, and the next snapshot."""
    x, y = trained
    seeds = torch.arange(75)
    found = energy_course("attacked", "test", x, y, generator=seeds, objective=kind)
    assert set(found) == {"attack", "step", "epoch", "clean, epoch"}
    assert all(set(energies) == {"joint", "marginal"} and all(values.shape == (2, 75) for values in energies.values())
               for energies in found.values())
    assert (found["attack"]["joint"].mean(1) > 0).all() and (found["step"]["joint"].mean(1) < 0).all()
    settings = {key: value for key, value in ATTACKS[kind].items() if key != "name"}
    for epoch in (1, 2):
        before, later = (load_net("attacked", "test", epoch=e, objective=kind) for e in (epoch, epoch + 1))
        for rows in (slice(0, 50), slice(50, 75)):
            attacked = pgd(before, x[rows], y[rows], **{"norm": "linf"} | settings, loss=LOSSES[kind],
                           generator=rng.fold(seeds[rows], epoch))
            twin = copy.deepcopy(before).train().requires_grad_(True)
            optimizer = torch.optim.SGD(twin.parameters(), 0.03 * (1.01 - epoch / 3) / 0.91)
            cross_entropy(twin(attacked), y[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                outputs = {"clean": before(x[rows]), "low": before(attacked), "step": twin.eval()(attacked),
                           "epoch": later(attacked), "later": later(x[rows])}
            energies = {"joint": {key: -f[range(len(f)), y[rows]] for key, f in outputs.items()},
                        "marginal": {key: -f.logsumexp(1) for key, f in outputs.items()}}
            for energy, E in energies.items():
                for change, expected in (("attack", E["low"] - E["clean"]), ("step", E["step"] - E["low"]),
                                         ("epoch", E["epoch"] - E["low"]), ("clean, epoch", E["later"] - E["clean"])):
                    values = found[change][energy][epoch - 1, rows]
                    assert torch.allclose(values, expected, atol=1e-4), (change, energy, epoch)


@pytest.mark.parametrize("run, error, message", [
    ("plain", ValueError,
     "plain was trained by CrossEntropy for 2 epochs; choose a run that attacks its images, of 2 epochs or more"),
    ("single", ValueError, "single was trained by PreJEAT for 1 epochs; choose a run that attacks"),
    ("unkept", ValueError, "unkept has kept no snapshots; set 'snapshots: true' in params/test/train.yaml"),
    ("untrained", ValueError, "run 'untrained' does not exist"),
])
def test_runs_without_attacks_epochs_or_snapshots_are_refused(trained, run, error, message):
    with pytest.raises(error, match=message):
        energy_course(run, "test", *trained)


def test_the_rate_is_the_schedules_at_the_epochs_end():
    settings = {"epochs": 10, "optimizer": {"name": "SGD", "lr": 0.2}, "schedule": {"name": "linear", "warmup": 0.2}}
    assert learning_rate(settings, 1) == pytest.approx(0.1) and learning_rate(settings, 2) == pytest.approx(0.2)
    assert learning_rate(settings, 6) == pytest.approx(0.2 * 0.41 / 0.81)
    assert settings["schedule"] == {"name": "linear", "warmup": 0.2}
    steps = settings | {"schedule": {"name": "step", "at": [0.5], "factor": 0.1}}
    assert learning_rate(steps, 5) == pytest.approx(0.2) and learning_rate(steps, 6) == pytest.approx(0.02)
