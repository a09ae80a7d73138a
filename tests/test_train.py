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
from robustgen import config, models, objectives, paths, rng, zoo
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
RUN = "mnist-robust"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A root of its own with one short run in each of its profiles."""
    root = tmp_path_factory.mktemp("project")
    (root / "lib").symlink_to(ROOT / "lib")
    (root / "data").symlink_to(ROOT / "data")
    settings = yaml.safe_load((ROOT / "params/test/train.yaml").read_text())[RUN]
    settings |= {"epochs": 5, "images": 600, "over": {"seed": [0, 1]}, "objective": settings["objective"] | {"random_start": True}}
    # In float32 a ReLU's kink magnifies the last bit of a sum within ten steps or so; in float64 it stays at 1e-16. So: six steps.
    few = {"epochs": 2, "images": 150}
    for profile, change in {"whole": {}, "killed": {}, "broken": {}, "alone": few, "shared": few}.items():
        (root / "params" / profile).mkdir(parents=True)
        (root / "params" / profile / "train.yaml").write_text(yaml.safe_dump({RUN: settings | change}))
    return root


def start(project, profile, *launcher):
    """The training command, its paths turned to `project`."""
    code = (f"import pathlib; from robustgen import paths; root = pathlib.Path({str(project)!r}); "
            "paths.ROOT, paths.PARAMS, paths.DATA, paths.RESULTS = root, root / 'params', root / 'data', root / 'results'; "
            "from robustgen import train; train.main()")
    script = project / "run.py"
    script.write_text(code)
    env = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, str(script), RUN, "--profile", profile], env=env,
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
    table = whole.with_suffix(".csv").read_text().splitlines()
    assert table[0] == "member,epoch,loss,accuracy,test_accuracy" and len(table) == 11
    assert not list(whole.parents[1].glob(f"training/{RUN}"))


def test_after_kill_9_the_weights_are_bitwise_those_of_an_unbroken_run(project, whole):
    work = project / "results/killed/training" / RUN
    for begun in ("seed=0.epoch=2.safetensors", "seed=1.epoch=3.safetensors"):
        process = start(project, "killed")
        while not (work / begun).exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
    assert (work / "seed=0.json").exists()
    process = start(project, "killed")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "seed=0:" not in output   # the first member was done
    theirs = weights(project / "results/killed/checkpoints" / RUN)
    ours = weights(whole)
    assert ours.keys() == theirs.keys()
    for file in ours:
        assert all(torch.equal(ours[file][key], theirs[file][key]) for key in ours[file]), file


def test_two_processes_reach_the_weights_of_one(project):
    finish(start(project, "alone"))
    finish(start(project, "shared", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"))
    ours, theirs = (weights(project / "results" / profile / "checkpoints" / RUN) for profile in ("alone", "shared"))
    for file in ours:
        assert all(torch.allclose(ours[file][key], theirs[file][key], atol=1e-5) for key in ours[file]), file
    assert json.loads((project / "results/shared/checkpoints" / RUN / "seed=0.json").read_text())["environment"]["processes"] == 2


def test_the_zoo_gives_members_and_snapshots(whole, zoo_of):
    assert zoo.values(RUN, "whole") == [0, 1]
    final, first = zoo.load(RUN, "whole", seed=1), zoo.load(RUN, "whole", seed=1, epoch=1)
    assert not final.training and not any(p.requires_grad for p in final.parameters())
    assert torch.equal(final[0].weight, load_file(whole / "seed=1.safetensors")["0.weight"])
    assert not torch.equal(final[0].weight, first[0].weight)
    assert torch.equal(zoo.load(RUN, "whole")[0].weight, zoo.load(RUN, "whole", seed=0)[0].weight)


def test_the_zoo_names_the_remedy(whole, zoo_of, project):
    with pytest.raises(FileNotFoundError, match=f"seed=0.safetensors is missing; make it with: dvc repro train@broken-{RUN}"):
        zoo.load(RUN, "broken")
    with pytest.raises(ValueError, match="member 'seed=7' does not exist; did you mean"):
        zoo.load(RUN, "whole", seed=7)
    folder = project / "results/broken/checkpoints" / RUN
    folder.mkdir(parents=True)
    whole_file = (whole / "seed=0.safetensors").read_bytes()
    (folder / "seed=0.safetensors").write_bytes(whole_file[:len(whole_file) // 2])
    with pytest.raises(ValueError, match="is not a whole checkpoint .* delete it and make it with: dvc repro"):
        zoo.load(RUN, "broken")
    other = {"name": "mnist_cnn", "width": 4, "hidden": 8}
    zoo.save_weights(models.build(**other), folder / "seed=1.safetensors", other)
    with pytest.raises(ValueError, match="holds {'name': 'mnist_cnn', 'width': 4, 'hidden': 8}, but the settings ask for"):
        zoo.load(RUN, "broken", seed=1)


def test_saved_weights_come_back_equal(tmp_path):
    architecture = {"name": "mnist_cnn", "width": 4, "hidden": 8}
    model = models.build(**architecture, generator=3)
    zoo.save_weights(model, tmp_path / "x.safetensors", architecture)
    back = zoo.load_weights(tmp_path / "x.safetensors", architecture)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))


def test_the_adversarial_objective_is_the_loss_at_pgd_images_and_keeps_attack_gradients_out():
    from robustgen import attacks, data

    images = data.load("mnist", "train", 16, seed=0)
    model = models.build("mnist_cnn", width=4, hidden=8, generator=0)
    settings = dict(norm="l2", eps=1.0, step_size=0.5, steps=3, random_start=True)
    seeds = rng.seeds(0, 16)
    loss, log = objectives.build(model, "AdversarialCE", **settings)(images.unit, images.y, generator=seeds)
    loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    reached = attacks.pgd(model, images.unit, images.y, **settings, generator=seeds)
    expected = torch.nn.functional.cross_entropy(model(reached), images.y)
    expected.backward()
    assert torch.allclose(loss, expected) and all(torch.allclose(a, p.grad, atol=1e-6) for a, p in zip(ours, model.parameters()))
    assert 0 <= log["accuracy"] <= 1


def test_weights_do_not_depend_on_what_was_drawn_before():
    a = models.build("mnist_cnn", width=4, hidden=8, generator=1)
    torch.rand(5)
    b = models.build("mnist_cnn", width=4, hidden=8, generator=1)
    assert torch.equal(a[0].weight, b[0].weight)


def test_the_mnist_cnn_has_the_papers_size():
    paper = config.run("paper", "mnist-robust")
    model = models.build(**paper.model)
    assert sum(p.numel() for p in model.parameters()) == 320 + 9248 + 18496 + 36928 + 313700 + 1010
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_normalized_model_normalises_inside():
    net = torch.nn.Flatten()
    x = torch.rand(2, 3, 2, 2)
    ours = models.Normalized(net, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(x)
    assert torch.allclose(ours.view(2, 3, 2, 2)[:, 1], (x[:, 1] - 0.4) / 0.3)
