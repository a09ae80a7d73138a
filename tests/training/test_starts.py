"""Nets that begin with the weights of another: which, what is written of it, and what is refused."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import NET, RUN
from robustgen.models.builders import build_model
from robustgen.models.checkpoints import save_weights
from robustgen.training import family
from robustgen.training.family import _fabric, train
from robustgen.training.runs import Run, load_run, stamp, stamped
from robustgen.training.starts import checksum, find_parents, parents_first
from robustgen.training.trainer import Job, load_images
from robustgen.utils.fields import checked_settings

STILL = {"epochs": 1, "optimizer": {"name": "SGD", "lr": 0.0}}   # weights stay where they began
FROZEN = STILL | {"batch_norm": "frozen"}


def same(a, b):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a if "num_batches" not in key)


def test_a_child_begins_with_the_weights_of_the_parents_net_of_its_seed(runs):
    home = runs(parent={}, child=FROZEN | {"start": "parent"})
    train("parent", "p")
    train("child", "p")
    for seed in (0, 1):
        assert same(home / f"parent/seed={seed}.safetensors", home / f"child/seed={seed}.safetensors")
    assert not same(home / "parent/seed=0.safetensors", home / "child/seed=1.safetensors")


def test_the_childs_files_tell_whose_weights_it_began_with(runs):
    home = runs(parent={}, child={"start": {"run": "parent"}, "epochs": 1})
    train("parent", "p")
    train("child", "p")
    file = home / "parent/seed=1.safetensors"
    expected = {"name": "parent seed=1", "file": "results/p/checkpoints/parent/seed=1.safetensors",
                "sha256": checksum(file)}
    assert json.loads((home / "child/seed=1.json").read_text())["start"] == expected
    with safe_open(home / "child/seed=1.safetensors", "pt") as checkpoint:
        assert json.loads(checkpoint.metadata()["start"]) == expected
    assert json.loads((home / "parent/seed=1.json").read_text())["start"] is None


@pytest.mark.parametrize("over, start, expected", [
    ({"optimizer.momentum": [0.0, 0.5], "seed": [1]}, "parent", "lr=0.05,seed=1"),   # other axes: the same seed
    ({"optimizer.lr": [0.1], "seed": [1]}, "parent", "lr=0.05,seed=1"),                     # no net of the same name
    ({"optimizer.lr": [0.5], "seed": [1]}, "parent", "lr=0.5,seed=1"),                      # net by net
    ({"seed": [1]}, {"run": "parent", "member": {"lr": 0.5}}, "lr=0.5,seed=1"),
    ({"seed": [7]}, {"run": "alone"}, "lr=0.05"),                                           # it has no seeds
    ({"seed": [0]}, {"run": "parent", "snapshot": 1}, "lr=0.05,seed=0.epoch=1"),
])
def test_of_a_family_the_net_that_fits_is_the_start(runs, over, start, expected):
    runs(parent={"over": {"optimizer.lr": [0.05, 0.5], "seed": [0, 1]}, "snapshots": True, "epochs": 1},
         alone={"over": {"optimizer.lr": [0.05]}, "epochs": 1}, child={"over": over, "start": start, "epochs": 1})
    other = "parent" if start == "parent" else start["run"]
    train(other, "p")
    folder = train("child", "p")
    begun = {json.loads(file.read_text())["start"]["file"] for file in folder.glob("*[0-9].json")}
    assert begun == {f"results/p/checkpoints/{other}/{expected}.safetensors"}


def test_a_checkpoint_file_may_be_the_start(runs, tmp_path):
    home = runs(child=FROZEN | {"start": {"file": "given.safetensors"}, "weights": "float32"})
    save_weights(build_model(**NET, generator=5).state_dict(), tmp_path / "given.safetensors", NET)
    train("child", "p")
    assert same(tmp_path / "given.safetensors", home / "child/seed=1.safetensors")


def test_optimiser_and_schedule_begin_anew(runs, tmp_path):
    runs(parent={}, child={"start": "parent"})
    train("parent", "p")
    settings = load_run("p", "child").members()["seed=0"]
    images = load_images("mnist", "train", 100, 0, "cpu")
    work = Job(settings, tmp_path / "net", _fabric("32-true", "ddp"), images, "run",
               find_parents("p", "child")["seed=0"])
    assert work.state["epochs"] == 0 and work.optimizer.optimizer.state_dict()["state"] == {}


def test_a_changed_parent_makes_the_child_train_anew_and_an_unchanged_one_does_not(runs):
    home = runs(parent={}, child=STILL | {"start": "parent"})
    train("parent", "p")
    train("child", "p")
    record = home / "child/seed=0.json"
    before = record.stat().st_mtime_ns
    train("child", "p")
    assert record.stat().st_mtime_ns == before
    save_weights(build_model(**NET, generator=9).state_dict(), home / "parent/seed=0.safetensors", NET, torch.float16)
    train("child", "p")
    assert record.stat().st_mtime_ns != before
    assert json.loads(record.read_text())["start"]["sha256"] == checksum(home / "parent/seed=0.safetensors")


def test_work_in_progress_begins_anew_if_its_parent_has_changed(runs):
    home = runs(parent={}, child=STILL | {"start": "parent"})
    train("parent", "p")
    work = home.parent / "training/child"
    assert train("child", "p", until=0.0) is None and (work / "settings.json").exists()
    (work / "seed=0.json").write_text("{}")   # as if this net were finished
    save_weights(build_model(**NET, generator=9).state_dict(), home / "parent/seed=0.safetensors", NET)
    train("child", "p")
    assert json.loads((home / "child/seed=0.json").read_text())["start"]


def test_a_parent_that_changes_meanwhile_ends_the_training(runs, monkeypatch):
    home = runs(parent={}, child={"start": "parent"})
    train("parent", "p")
    real = family.train_net

    def meddled(settings, *args, **kwargs):
        done = real(settings, *args, **kwargs)
        save_weights(build_model(**NET, generator=9).state_dict(), home / "parent/seed=1.safetensors", NET)
        return done

    monkeypatch.setattr(family, "train_net", meddled)
    message = "results/p/checkpoints/parent/seed=1.safetensors has changed since the training that starts from it began"
    with pytest.raises(ValueError, match=message):
        train("child", "p")


@pytest.mark.parametrize("child, message", [
    ({"start": "parnet"}, "train.yaml, child, start: run 'parnet' does not exist; did you mean 'parent'?"),
    ({"start": {"run": "parent", "model": 1}}, "train.yaml, child: parameter 'start.model' does not exist"),
    ({"start": {}}, "train.yaml, child: 'start' is {}: value error, 'start' should name either a 'run' or a 'file'"),
    ({"start": {"file": "a", "snapshot": 1}}, "'start' has a file: 'member' and 'snapshot' are of a run"),
    ({"start": "parent", "model": {**NET, "width": 4}},
     "child: its nets are {'name': 'resnet10', 'width': 4, 'channels': 1}, but parent seed=0, from which they start, "
     "is {'name': 'resnet10', 'width': 2, 'channels': 1}; give both the same 'model'"),
    ({"start": "parent", "over": {"seed": [2]}},
     "child: it starts from parent, which has no net of seed 2 (there are: seed=0, seed=1); train one, or name "),
    ({"start": {"run": "parent", "member": {"eps": 1}}}, "child, start: member 'eps=1' does not exist"),
    ({"start": {"run": "parent", "snapshot": 1}}, "parent after epoch 1, and that run keeps no snapshots; change its"),
    ({"start": "empty"}, "child: it starts from empty, which has no such nets in this profile; give it some"),
    ({"start": "child"}, "train.yaml: the starts of its runs go in a circle, child -> child; let one of them begin"),
    ({"start": "grandchild"}, "in a circle, child -> grandchild -> child; let one of them begin with fresh weights"),
    ({"batch_norm": "frozen"}, "child: 'batch_norm' is 'frozen', at the statistics of fresh weights; set it to "),
])
def test_a_start_that_cannot_be_is_one_sentence(runs, child, message):
    home = runs(parent={}, empty={"over": {"seed": []}}, child=child, grandchild={"start": "child"})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train("child", "p")
    assert "\n" not in str(caught.value) and not home.parent.exists()


def test_a_start_that_is_not_trained_or_not_there_names_the_remedy(runs):
    runs(parent={}, child={"start": "parent"}, lost={"start": {"file": "lost.safetensors"}})
    missing = "it starts from results/p/checkpoints/parent/seed=0.safetensors, which is missing; make it with: "
    with pytest.raises(FileNotFoundError, match=f"child: {missing}robustgen train parent --profile p$"):
        train("child", "p")
    with pytest.raises(FileNotFoundError, match="lost: it starts from lost.safetensors, which is missing; put it "):
        train("lost", "p")


def test_a_start_that_was_trained_with_other_settings_is_refused(runs):
    runs(parent={"epochs": 1}, child={"start": "parent"})
    train("parent", "p")
    runs(parent={"epochs": 2}, child={"start": "parent"})
    message = "it starts from parent, whose nets were trained with other settings than it has now; train it again"
    with pytest.raises(ValueError, match=f"child: {message}: robustgen train parent --profile p$"):
        train("child", "p")


def test_parents_come_first(runs):
    runs(c={"start": "b"}, a={}, b={"start": "a"})
    assert parents_first("p", ["c", "a", "b"]) == ["a", "b", "c"]
    assert parents_first("p", ["b"]) == ["a", "b"]


# What was trained before a setting existed

def test_checkpoints_older_than_a_setting_stay_current_where_it_has_its_default(runs):
    home = runs(run={"epochs": 1})
    train("run", "p")
    file = home / "run/settings.json"
    old = {key: value for key, value in json.loads(file.read_text()).items() if key in RUN}
    assert len(old) == len(RUN)
    file.write_text(json.dumps(old, indent=1))
    before = (home / "run/seed=0.json").stat().st_mtime_ns
    train("run", "p")
    assert (home / "run/seed=0.json").stat().st_mtime_ns == before
    runs(run={"epochs": 1, "ema": 0.9})
    train("run", "p")
    assert (home / "run/seed=0.json").stat().st_mtime_ns != before


@pytest.mark.parametrize("initialisation, current", [("he", True), ("torch", False)])
def test_an_mnist_cnn_older_than_the_setting_was_initialised_by_he(tmp_path, initialisation, current):
    cnn = RUN | {"model": {"name": "mnist_cnn", "width": 2, "hidden": 4}}
    (tmp_path / "settings.json").write_text(json.dumps(cnn, indent=1))
    now = checked_settings(Run, cnn | {"initialisation": initialisation}, "run")
    assert stamped(tmp_path, stamp(now)) == current
