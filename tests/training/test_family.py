import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.models.checkpoints import save_weights
from robustgen.models.wrappers import Normalized
from robustgen.training.family import _fabric, train
from robustgen.training.registry import OBJECTIVES
from robustgen.training.runs import Run
from robustgen.training.schedules import SCHEDULES
from robustgen.training.trainer import Diverged, Job, train_net
from robustgen.utils import locks, paths
from robustgen.utils.fields import checked_settings
from robustgen.zoo.trained import family_axes, family_values, load_net, net_table, print_nets, training_record

ROOT = Path(__file__).resolve().parents[2]
RUN = "family"

TINY = {   # what a run needs, at its smallest
    "data": "mnist", "images": 300, "flip": False, "crop": 0, "model": {"name": "mnist_cnn", "width": 4, "hidden": 16},
    "objective": {"name": "CrossEntropy"}, "over": {"seed": [0, 1]}, "seed": 0, "epochs": 5, "batch": 50,
    "optimizer": {"name": "SGD", "lr": 0.03, "momentum": 0.9}, "schedule": {"name": "linear", "warmup": 0.1},
    "bound": 1000.0, "test_images": 100, "snapshots": True, "weights": "float32", "precision": "32-true",
    "compile": False, "channels_last": True}
ADVERSARIAL = {"name": "AdversarialCE", "norm": "l2", "eps": 0.2, "step_size": 0.2, "steps": 2, "random_start": True}
JEAT = {"name": "JEAT", "eps": 0.05, "sgld_steps": 2, "sgld_step": 0.25, "sgld_noise": 0.005, "buffer": 100,
        "reinit": 0.2, "start": "class_gaussian"}
JOINT = {"name": "JointDenoising", "task": "joint", "sigma_classification": [0, 20], "sigma_denoising": [1, 100],
         "margin": 2, "mixed": True, "every": 2}
GRADRESNET = {"name": "gradresnet", "width": 8, "blocks": [1, 1], "channels": 1}
# Few steps for two processes: in float32 a ReLU's kink magnifies the last bit of a sum within ten steps or so; in
# float64 it stays at 1e-16.
FOUR = {"objective": {
    "CrossEntropy": {}, "AdversarialCE": {"objective": ADVERSARIAL}, "JEAT": {"objective": JEAT},
    "JointDenoising": {"objective": JOINT, "model": GRADRESNET, "flip": True,
                       "optimizer": {"name": "AdamW", "lr": 1.0e-3}}}}
PROFILES = {
    "whole": {}, "killed": {}, "broken": {},
    "whole-jeat": (jeat := {"over": {"objective": {"JEAT": {"objective": JEAT}}},
                            "optimizer": {"name": "Adam", "lr": 1.0e-3}, "weights": "float16"}),
    "killed-jeat": jeat,
    "littered": {"over": {"seed": [0]}, "epochs": 1}, "locked": {"over": {"seed": [0]}, "epochs": 10_000},
    "alone": (few := {"epochs": 2, "images": 150, "batch": 48, "over": FOUR, "snapshots": False}), "shared": few}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A root of its own with one short run in each of its profiles."""
    root = tmp_path_factory.mktemp("project")
    (root / "lib").symlink_to(ROOT / "lib")
    (root / "data").symlink_to(ROOT / "data")
    for profile, change in PROFILES.items():
        (root / "params" / profile).mkdir(parents=True)
        (root / "params" / profile / "train.yaml").write_text(yaml.safe_dump({"_for_others": {}, RUN: TINY | change}))
    return root


def start(project, profile, *launcher):
    """The training command, its paths turned to `project`."""
    code = (f"import pathlib; from robustgen.utils import paths; root = pathlib.Path({str(project)!r}); "
            "paths.ROOT, paths.PARAMS, paths.DATA, paths.RESULTS = "
            "root, root / 'params', root / 'data', root / 'results'; "
            "from robustgen.__main__ import main; raise SystemExit(main())")
    script = project / "run.py"
    script.write_text(code)
    env = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *launcher, str(script), "train", RUN, "--profile", profile], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def whole(project):
    finish(start(project, "whole"))
    return project / "results/whole/checkpoints" / RUN


@pytest.fixture
def zoo_of(project, monkeypatch):
    for name in ("params", "results"):
        monkeypatch.setattr(paths, name.upper(), project / name)
    monkeypatch.setattr(paths, "ROOT", project)


def weights(folder):
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def test_a_run_writes_weights_snapshots_history_and_settings(whole):
    assert len(weights(whole)) == 2 * (1 + 5)
    record = json.loads((whole / "seed=1.json").read_text())
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3, 4, 5]
    assert record["settings"]["seed"] == 1 and record["environment"]["processes"] == 1 and record["seconds"] > 0
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    assert record["retries"] == [] and record["images_per_second"] > 0
    table = whole.with_suffix(".csv").read_text().splitlines()
    assert table[0] == "member,epoch,loss,accuracy,test_accuracy" and len(table) == 11
    assert not list(whole.parents[1].glob(f"training/{RUN}"))


@pytest.mark.parametrize("kind, begun",
                         [("", ["seed=0.epoch=2", "seed=1.epoch=3"]),
                          ("-jeat", ["objective=JEAT.epoch=2", "objective=JEAT.epoch=4"])])
def test_after_kill_9_the_weights_are_bitwise_those_of_an_unbroken_run(project, whole, kind, begun):
    """Momentum, Adam's moments, the schedule, the noise and the replay buffer all go on where they were."""
    if kind:
        finish(start(project, f"whole{kind}"))
    work = project / f"results/killed{kind}/training" / RUN
    for snapshot in begun:
        process = start(project, f"killed{kind}")
        while not (work / f"{snapshot}.safetensors").exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
    process = start(project, f"killed{kind}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "epoch 1/5" not in output   # what was done is not done again
    ours, theirs = (weights(project / f"results/{profile}{kind}/checkpoints" / RUN) for profile in ("whole", "killed"))
    assert ours.keys() == theirs.keys()
    for file in ours:
        assert all(torch.equal(ours[file][key], theirs[file][key]) for key in ours[file]), file
    listings = [sorted(file.name for file in (project / f"results/{profile}{kind}/checkpoints" / RUN).iterdir())
                for profile in ("whole", "killed")]
    assert listings[0] == listings[1]


def test_what_a_kill_leaves_behind_is_not_shipped_and_a_finished_run_is_not_run_again(project):
    work = project / "results/littered/training" / RUN
    work.mkdir(parents=True)
    settings = checked_settings(Run, TINY | PROFILES["littered"], "run")
    (work / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=1))
    (work / "seed=7.state").write_text("half")
    (work / ".tmp-seed=7.safetensors-x").mkdir()
    finish(start(project, "littered"))
    home = project / "results/littered/checkpoints" / RUN
    names = sorted(file.name for file in home.iterdir())
    assert names == ["seed=0.epoch=1.safetensors", "seed=0.json", "seed=0.safetensors", "settings.json"]
    before = (home / "seed=0.json").stat().st_mtime_ns
    finish(start(project, "littered"))
    assert (home / "seed=0.json").stat().st_mtime_ns == before


def test_a_second_training_of_a_run_is_refused_until_the_first_one_ends_even_by_kill_9(project, zoo_of):
    work = project / "results/locked/training" / RUN
    process = start(project, "locked")
    while not (work / "seed=0.epoch=1.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    with pytest.raises(OSError, match="^'family' is being trained by another process; wait until"):
        train(RUN, "locked")
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert (work / "seed=0.epoch=1.safetensors").exists()
    with locks.exclusive(work.with_name(f"{RUN}.lock"), "the lock is still held"):
        pass


def test_two_processes_reach_the_weights_of_one(project):
    """Cross-entropy, adversarial training, JEAT with its replay buffer, joint denoising with its second derivatives."""
    finish(start(project, "alone"))
    finish(start(project, "shared", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"))
    ours, theirs = (weights(project / "results" / profile / "checkpoints" / RUN) for profile in ("alone", "shared"))
    assert len(ours) == 4
    for file in ours:
        for key in ours[file]:
            change = (ours[file][key] - theirs[file][key]).abs().max()
            assert torch.allclose(ours[file][key], theirs[file][key], atol=1e-5), (file, key, change)
    record = json.loads((project / "results/shared/checkpoints" / RUN / "objective=JEAT.json").read_text())
    assert record["environment"]["processes"] == 2


# Divergence

@pytest.fixture
def one(tmp_path, monkeypatch):
    """one(objective, **changes) trains a net in this process and returns (weights, record); steps may be made to go
    wrong."""
    def fit(objective=JEAT, sabotage=None, **changes):
        settings = checked_settings(Run, TINY | {"objective": objective, "epochs": 3, "over": {"seed": [0]}} | changes,
                                "run")
        if sabotage:
            real = OBJECTIVES[objective["name"]].forward
            calls = iter(range(10**6))
            monkeypatch.setattr(OBJECTIVES[objective["name"]], "forward",
                                lambda self, *a, **k: sabotage(next(calls), real(self, *a, **k)))
        train_net(settings, tmp_path / "net", _fabric(settings.precision, "ddp"), label="net", source="params, run")
        return load_file(tmp_path / "net.safetensors"), json.loads((tmp_path / "net.json").read_text())
    return fit


def poisoned(value, at, key="loss"):
    def sabotage(call, result):
        loss, log = result
        if call in at:
            loss, log = (loss * value, log) if key == "loss" else (loss, log | {key: torch.tensor(value)})
        return loss, log
    return sabotage


@pytest.mark.parametrize("value, key", [(float("nan"), "loss"), (float("inf"), "loss"), (-5000.0, "energy"),
                                        (5000.0, "energy_sampled")])
def test_training_that_diverges_goes_back_with_another_seed_and_a_lower_sgld_step(one, value, key, capsys):
    weights, record = one(sabotage=poisoned(value, at={8}, key=key))   # the third step of epoch 2, of 6 each
    retry, = record["retries"]
    assert retry["back_to_epoch"] == 1 and retry["sgld_step"] == JEAT["sgld_step"] / 2
    assert retry["diverged"].startswith("epoch 2, step 3: ") and "bound 1000" in retry["diverged"]
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert "back to epoch 1 with another seed, sgld_step 0.125 (attempt 2 of 4)" in capsys.readouterr().out


def test_divergence_in_the_first_epoch_begins_anew(one):
    _, record = one(sabotage=poisoned(float("nan"), at={2, 5}))
    assert [retry["back_to_epoch"] for retry in record["retries"]] == [0, 0]
    assert [retry["sgld_step"] for retry in record["retries"]] == [0.125, 0.0625]


def test_training_goes_back_to_the_state_of_the_last_whole_epoch_and_sees_other_batches_from_there(
        one, tmp_path, monkeypatch):

    seen, draw = [], Job.batch

    def watched(self, index, seeds):
        seen.append((index.tolist(), weights_of(self)))
        return draw(self, index, seeds)

    monkeypatch.setattr(Job, "batch", watched)
    one(objective={"name": "CrossEntropy"}, epochs=2, sabotage=poisoned(float("nan"), at={8}))
    first, diverged, again = seen[:6], seen[6:9], seen[9:]
    assert len(first) == 6 and len(diverged) == 3 and len(again) == 6
    kept = load_file(tmp_path / "net.epoch=1.safetensors")
    for (_, weights), expected in ((diverged[0], True), (again[0], True), (diverged[1], False)):
        # both tries of epoch 2 begin where epoch 1 ended
        assert all(torch.equal(weights[key], kept[key]) for key in kept) == expected
    assert diverged[0][0] != again[0][0]   # with another seed


def weights_of(work):
    return {key: value.clone() for key, value in work.module.model.state_dict().items()}


def test_weights_that_the_last_step_spoils_are_not_kept(one, monkeypatch):
    """The loss is judged before a step, so an epoch's last one is judged by the weights it leaves."""

    real, spoiled = Job.test, []

    def spoil(self, held_out):
        if not spoiled:
            spoiled.append(True)
            with torch.no_grad():
                next(self.module.parameters()).fill_(float("nan"))
        return real(self, held_out)

    monkeypatch.setattr(Job, "test", spoil)
    weights, record = one(objective={"name": "CrossEntropy"}, epochs=1)
    assert "epoch 1, its last step: the weights" in record["retries"][0]["diverged"] and len(record["retries"]) == 1
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_a_step_beyond_the_bound_is_stopped_before_it_is_taken(tmp_path, monkeypatch):

    settings = checked_settings(Run, TINY | {"bound": 1e-6}, "run")
    images = train_images()
    work = Job(settings, tmp_path / "net", _fabric("32-true", "ddp"), images, "run")
    before = [p.clone() for p in work.module.parameters()]
    with pytest.raises(Diverged, match="epoch 1, step 1: loss .*, bound 1e-06"):
        work.epoch(images, "net")
    assert all(torch.equal(a, b) for a, b in zip(before, work.module.parameters(), strict=True))


def train_images():

    return load_data("mnist", "train", 300, seed=0)


def test_training_that_keeps_diverging_ends_in_one_sentence(one):
    message = ("params, run: training has diverged 4 times, at last in epoch 1, step 1: loss .*; "
               "lower the learning rate or 'sgld_step'")
    with pytest.raises(FloatingPointError, match=message):
        one(objective={"name": "CrossEntropy"}, bound=1e-6)


@pytest.mark.parametrize("change, message", [
    ({"optimizer": {"name": "SDG", "lr": 0.1}}, "optimizer 'SDG' does not exist; did you mean 'SGD'"),
    ({"optimizer": {"name": "SGD", "rate": 0.1}}, "run: optimizer: .*unexpected keyword argument 'rate'"),
    ({"schedule": {"name": "linear"}}, "run: schedule: .*missing 1 required keyword-only argument: 'warmup'"),
    ({"schedule": {"name": "linear", "warmup": 5}}, "schedule: 'warmup' is 5: it should be a share of the training"),
    ({"schedule": {"name": "step", "at": [150, 175], "factor": 0.1}},
     "schedule: 'at' is .150, 175.: they should be shares"),
    ({"schedule": {"name": "cosin"}}, "schedule 'cosin' does not exist; did you mean 'cosine'"),
    ({"batch": 400}, "a batch of 400 needs more than 300 images"),
])
def test_wrong_settings_stop_before_the_work(one, change, message):
    with pytest.raises(ValueError, match=message):
        one(objective={"name": "CrossEntropy"}, **change)


@pytest.mark.parametrize("over, message", [
    ({"seed": ["a"]}, "over: 'seed' is 'a': it should be a valid integer"),
    ({"batch": [0]}, "over: 'batch' is 0: it should be greater than or equal to 1"),
    ({"seed": [0, 0]}, "over: 'seed' has a value twice"),
    ({"objective.epz": [1.0]}, "over: setting 'epz' does not exist"),
    ({"objective": {"good": {}, "bad": {"objective": ADVERSARIAL | {"eps": -1.0}}}}, "AdversarialCE: 'eps' is -1.0"),
])
def test_a_family_is_checked_before_its_first_net_is_trained(project, zoo_of, over, message):

    (project / "params/wrong").mkdir(exist_ok=True)
    (project / "params/wrong/train.yaml").write_text(yaml.safe_dump({RUN: TINY | {"over": over}}))
    with pytest.raises(ValueError, match=message):
        train(RUN, "wrong")
    assert not (project / "results/wrong").exists()


def test_schedules_at_their_ends():

    assert SCHEDULES["constant"](0.5) == 1
    assert SCHEDULES["linear"](0.05, warmup=0.1) == pytest.approx(0.5) and SCHEDULES["linear"](0.1, warmup=0.1) == 1
    assert SCHEDULES["linear"](1.0, warmup=0.1) == pytest.approx(0.01 / 0.91)
    assert SCHEDULES["cosine"](0.0) == 1 and SCHEDULES["cosine"](0.5) == pytest.approx(0.5)
    assert SCHEDULES["cosine"](1.0) == pytest.approx(0)
    steps = [SCHEDULES["step"](t, at=[0.75, 0.875], factor=0.1) for t in (0.7, 0.8, 1.0)]
    assert steps == pytest.approx([1, 0.1, 0.01])


def test_bf16_training_reaches_about_the_same_loss_with_float32_weights(one):
    _, exact = one(objective={"name": "CrossEntropy"}, epochs=1, images=150)
    weights, rounded = one(objective={"name": "CrossEntropy"}, epochs=1, images=150, precision="bf16-mixed")
    a, b = (record["history"][-1]["loss"] for record in (exact, rounded))
    assert a != b and a == pytest.approx(b, rel=0.02)
    assert all(w.dtype == torch.float32 for w in weights.values())


def test_half_precision_checkpoints_are_the_same_weights_rounded(one):
    whole, _ = one(objective={"name": "CrossEntropy"}, epochs=1)
    half, _ = one(objective={"name": "CrossEntropy"}, epochs=1, weights="float16")
    assert all(torch.equal(half[key], whole[key].half()) for key in whole)


# The zoo

def test_the_zoo_gives_members_and_snapshots(whole, zoo_of):
    assert family_values(RUN, "whole") == [0, 1] and set(family_values(RUN, "alone")) == set(FOUR["objective"])
    final, first = load_net(RUN, "whole", seed=1), load_net(RUN, "whole", seed=1, epoch=1)
    assert not final.training and not any(p.requires_grad for p in final.parameters())
    assert torch.equal(final[0].weight, load_file(whole / "seed=1.safetensors")["0.weight"])
    assert not torch.equal(final[0].weight, first[0].weight)
    assert torch.equal(load_net(RUN, "whole")[0].weight, load_net(RUN, "whole", seed=0)[0].weight)
    left = training_record(RUN, "whole", seed=1)
    assert left == json.loads((whole / "seed=1.json").read_text())
    assert left["settings"]["seed"] == 1 and len(left["history"]) == 5


@pytest.fixture
def grid(zoo_of, project):
    """A family of lr and seed, not trained: its nets' first biases are their places in it."""
    (project / "params/grid").mkdir(exist_ok=True)
    run = TINY | {"over": {"optimizer.lr": [0.1, 1.0], "seed": [0, 1, 2]}}
    (project / "params/grid/train.yaml").write_text(yaml.safe_dump({RUN: run}))
    for place, name in enumerate(f"lr={lr},seed={seed}" for lr in (0.1, 1.0) for seed in range(3)):
        state = build_model(**TINY["model"], generator=0).state_dict()
        state["0.bias"] = torch.full_like(state["0.bias"], place)
        file = project / f"results/grid/checkpoints/{RUN}/{name}.safetensors"
        save_weights(state, file, TINY["model"])
        file.with_suffix(".json").write_text(json.dumps({"history": [{"epoch": 1, "test_accuracy": place / 10}]}))


@pytest.mark.parametrize("member, place", [
    ({}, 0), ({"seed": 0}, 0), ({"seed": 2}, 2), ({"lr": 1.0}, 3), ({"lr": 0.1, "seed": 1}, 1),
    ({"seed": 2, "lr": 1.0}, 5)])
def test_of_a_grid_of_settings_the_zoo_gives_the_first_net_that_fits(grid, member, place):
    assert (load_net(RUN, "grid", **member)[0].bias == place).all()
    assert training_record(RUN, "grid", **member)["history"][0]["test_accuracy"] == place / 10


@pytest.mark.parametrize("member, message", [
    ({"seed": 3}, f"^{RUN}: member 'seed=3' does not exist; did you mean 'seed=[0-2]'. .there are: lr=0.1, seed=0, "
                  "seed=1, seed=2, lr=1.0.$"),
    ({"lr": 0.1, "seed": 3}, "member 'seed=3' does not exist"),
    ({"lr": 0.2, "seed": 0}, "member 'lr=0.2' does not exist"),
    ({"sead": 0}, "member 'sead=0' does not exist; did you mean 'seed=0'"),
])
def test_a_net_that_is_not_in_the_grid_is_told(grid, member, message):
    with pytest.raises(ValueError, match=message):
        load_net(RUN, "grid", **member)


def test_the_zoo_tells_what_a_grids_nets_differ_in(grid):
    assert family_axes(RUN, "grid") == {"lr": [0.1, 1.0], "seed": [0, 1, 2]}
    assert family_values(RUN, "grid") == [0.1, 1.0] and family_axes(RUN, "whole") == {"seed": [0, 1]}
    assert family_axes(RUN, "alone") == {"objective": sorted(FOUR["objective"])}
    assert net_table("grid").net.tolist() == [f"lr={lr},seed={seed}" for lr in (0.1, 1.0) for seed in range(3)]


def test_the_zoos_table_tells_what_there_is(whole, zoo_of, capsys):
    print_nets("whole")
    printed = capsys.readouterr().out
    table = net_table("whole")
    record = json.loads((whole / "seed=1.json").read_text())
    assert table.net.tolist() == ["seed=0", "seed=1"] and table.trained.tolist() == ["yes", "yes"]
    assert table.accuracy[1] == record["history"][-1]["test_accuracy"]
    assert table["where"][1].endswith("checkpoints/family/seed=1.safetensors")
    assert table.parameters[0] == sum(p.numel() for p in load_net(RUN, "whole").parameters())
    assert all(word in printed
               for word in ("dataset", "mnist_cnn, width 4", "CrossEntropy", "trained", "accuracy", "where"))
    assert (net_table("broken").trained == "no").all()
    assert (net_table("broken")["where"] == f"make it: robustgen train {RUN} --profile broken").all()


def test_the_zoo_names_the_remedy(whole, zoo_of, project):
    remedy = ("seed=0.safetensors is missing; make it with: make repro PROFILE=broken, .*: "
              f"robustgen train {RUN} --profile broken")
    with pytest.raises(FileNotFoundError, match=remedy):
        load_net(RUN, "broken")
    with pytest.raises(ValueError, match="member 'seed=7' does not exist; did you mean"):
        load_net(RUN, "whole", seed=7)
    with pytest.raises(ValueError, match="member 'eps=1' does not exist"):
        load_net(RUN, "whole", seed=0, eps=1)
    with pytest.raises(FileNotFoundError, match="epoch=0.safetensors is missing"):
        load_net(RUN, "whole", epoch=0)
    folder = project / "results/broken/checkpoints" / RUN
    folder.mkdir(parents=True)
    whole_file = (whole / "seed=0.safetensors").read_bytes()
    (folder / "seed=0.safetensors").write_bytes(whole_file[:len(whole_file) // 2])
    with pytest.raises(ValueError, match="is not a whole checkpoint .* delete it and make it with: make repro"):
        load_net(RUN, "broken")
    other = {"name": "mnist_cnn", "width": 4, "hidden": 8}
    save_weights(build_model(**other).state_dict(), folder / "seed=1.safetensors", other)
    with pytest.raises(ValueError, match="holds {'name': 'mnist_cnn', 'width': 4, 'hidden': 8}, "
                                         "but the settings ask for"):
        load_net(RUN, "broken", seed=1)


def test_weights_do_not_depend_on_what_was_drawn_before():
    a = build_model("mnist_cnn", width=4, hidden=8, generator=1)
    torch.rand(5)
    b = build_model("mnist_cnn", width=4, hidden=8, generator=1)
    assert torch.equal(a[0].weight, b[0].weight)


def test_a_normalized_model_normalises_inside():
    net = torch.nn.Flatten()
    x = torch.rand(2, 3, 2, 2)
    ours = Normalized(net, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(x)
    assert torch.allclose(ours.view(2, 3, 2, 2)[:, 1], (x[:, 1] - 0.4) / 0.3)
