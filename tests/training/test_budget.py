"""Several runs in a given time, and nets on their way between machines."""

import fcntl
import json
import shutil
import subprocess
import sys
import time

import pytest

from robustgen.training import budget, export
from robustgen.training.budget import train_runs
from robustgen.training.export import export_run, restore_runs
from robustgen.training.family import train
from robustgen.training.trainer import Job

ONE = {"over": {"seed": [0]}, "epochs": 1}


@pytest.fixture
def clock(monkeypatch):
    """An epoch takes a minute, all else takes no time."""
    real, now = Job.epoch, [0.0]

    def epoch(self, *args):
        real(self, *args)
        now[0] += 60

    monkeypatch.setattr(Job, "epoch", epoch)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])


def epochs_of(home, run, seed=0):
    record = home / run / f"seed={seed}.json"
    return len(json.loads(record.read_text())["history"]) if record.exists() else 0


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_all_runs_are_trained_in_the_profiles_order_parents_first(runs, monkeypatch):
    runs(child=ONE | {"start": "parent"}, parent=ONE, other=ONE)
    order, real = [], budget.train

    def noted(name, *args, **kwargs):
        order.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(budget, "train", noted)
    assert train_runs([], "p", 10) == []
    assert order == ["parent", "child", "other"]
    order.clear()
    assert train_runs(["child"], "p", 10) == [] and order == ["parent", "child"]


def test_when_the_time_is_up_it_stops_after_a_whole_epoch_and_goes_on_the_next_time(runs, clock, capsys):
    home = runs(first={"epochs": 2}, second=ONE)
    assert train_runs([], "p", 3) == ["first", "second"]   # two epochs of seed 0, one of seed 1
    assert capsys.readouterr().out.splitlines() == ["left: first, 1 of 2 nets trained",
                                                    "left: second, 0 of 1 nets trained"]
    assert (home.parent / "training/first/seed=1.state").exists() and not home.exists()
    assert train_runs([], "p", 1) == ["second"]
    assert epochs_of(home, "first", 0) == epochs_of(home, "first", 1) == 2
    assert train_runs([], "p", 1) == []
    assert epochs_of(home, "second") == 1


def test_wrong_runs_are_told_before_the_first_is_trained(runs):
    home = runs(good=ONE, bad=ONE | {"objective": {"name": "CrossEntropi"}})
    with pytest.raises(ValueError, match="train.yaml, bad: objective 'CrossEntropi' does not exist"):
        train_runs([], "p", 10)
    assert not home.exists()


@pytest.mark.parametrize("harm, sentence", [({"bound": 1.0e-9}, "train.yaml, wild: training has diverged 4 times"),
                                            ({"data": "imagenet"}, "imagenet is not packed")])
def test_a_run_that_fails_is_passed_over_with_those_that_start_from_it(runs, offline, capsys, harm, sentence):
    home = runs(wild=ONE | harm, child=ONE | {"start": "wild"}, grandchild=ONE | {"start": "child"}, tame=ONE)
    assert train_runs([], "p", 10) == ["wild", "child", "grandchild"]
    assert epochs_of(home, "tame") == 1
    told = capsys.readouterr().out
    assert sentence in told and all(f"left: {name}, 0 of 1 nets trained, passed over" in told
                                    for name in ("wild", "child", "grandchild"))


def test_a_run_that_another_process_trains_is_left_to_it(runs, monkeypatch):
    home = runs(busy=ONE, free=ONE)
    lock = home.parent / "training/busy.lock"
    lock.parent.mkdir(parents=True)
    monkeypatch.setattr(budget, "PAUSE", 0.01)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="^'busy' is being trained by another process; wait until it ends"):
            train("busy", "p")
        assert train_runs([], "p", 0.05) == ["busy"]
        assert epochs_of(home, "free") == 1
    assert train_runs([], "p", 10) == []


def test_two_processes_share_the_runs(runs, tmp_path):
    home = runs(a=ONE, b=ONE, c=ONE | {"start": "a"})
    code = ("import pathlib, sys; from robustgen.utils import paths; paths.ROOT = pathlib.Path(sys.argv[1]); "
            "paths.PARAMS, paths.RESULTS = paths.ROOT / 'params', paths.ROOT / 'results'; "
            "from robustgen.training import budget; budget.PAUSE = 0.05; assert budget.train_runs([], 'p', 10) == []")
    workers = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stderr=subprocess.PIPE, text=True)
               for _ in range(2)]
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    trained = [{run for run in "abc" if f"{run} seed=0, epoch 1/1" in text} for text in told]
    assert trained[0] | trained[1] == set("abc") and not trained[0] & trained[1]   # none of them twice
    assert [epochs_of(home, run) for run in "abc"] == [1, 1, 1]
    before = contents(home)
    assert train_runs([], "p", 10) == [] and contents(home) == before   # c began with a's final weights


def test_under_torchrun_minutes_are_refused(runs, monkeypatch):
    runs(run=ONE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--minutes trains runs in one process; start it several times instead"):
        train_runs([], "p", 10)


# There and back

def test_what_comes_back_is_what_training_left(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PART", 9_000)   # so that there are parts
    home = runs(parent={"snapshots": True}, child={"start": "parent"})
    assert train_runs([], "p", 10, export=tmp_path / "out") == []
    before = contents(home)
    parts = list((tmp_path / "out").glob("p-parent.tar.*"))
    assert len(parts) > 1 and max(part.stat().st_size for part in parts) <= 9_000
    shutil.rmtree(home.parent)
    restored = restore_runs(tmp_path / "out")
    assert restored == [home / "child", home / "parent"] and contents(home) == before
    assert {name.partition("/")[0] for name in before} == {"parent", "parent.csv", "child", "child.csv"}
    assert train_runs([], "p", 10) == [] and contents(home) == before   # nothing is trained again


def test_the_parts_can_be_unpacked_and_checked_by_hand(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PART", 9_000)
    home = runs(run=ONE)
    train("run", "p")
    export_run("run", "p", tmp_path / "out")
    before = contents(home)
    shutil.rmtree(home.parent)
    done = subprocess.run("sha256sum --check p-run.sha256 && cat p-run.tar.* | tar --extract --directory ../results",
                          shell=True, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0 and contents(home) == before


def test_finished_nets_of_an_unfinished_run_come_back_and_training_goes_on(runs, tmp_path, clock):
    home = runs(run={"epochs": 2})
    train_runs([], "p", 3, export=tmp_path / "out")
    shutil.rmtree(home.parent)
    work, = restore_runs(tmp_path / "out")
    assert sorted(file.name for file in work.iterdir()) == ["seed=0.json", "seed=0.safetensors", "settings.json"]
    finished = (work / "seed=0.json").read_bytes()
    assert train_runs([], "p", 2) == []
    assert (home / "run/seed=0.json").read_bytes() == finished and epochs_of(home, "run", 1) == 2


@pytest.mark.parametrize("harm, error, message", [
    (lambda part: part.unlink(), FileNotFoundError,
     "p-run.tar.01of01 is missing; p-run.sha256 names it: copy it again"),
    (lambda part: part.write_bytes(part.read_bytes()[:-1] + b"x"), ValueError,
     "p-run.tar.01of01 is damaged, as its SHA-256 is not that of p-run.sha256; copy it again"),
])
def test_a_missing_or_damaged_part_is_told_and_nothing_is_changed(runs, tmp_path, harm, error, message):
    home = runs(run=ONE)
    train("run", "p")
    part, = export_run("run", "p", tmp_path / "out")
    before = contents(home)
    harm(part)
    with pytest.raises(error, match=message):
        restore_runs(tmp_path / "out")
    assert contents(home) == before
