"""Shared pieces: a small net, a few real images, and a copy of the repository to run commands in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
import yaml

from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.training.registry import build_objective
from robustgen.utils import download, paths

ROOT = Path(__file__).resolve().parents[1]
# one thread each where tests run side by side
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def digits():
    """32 test images of MNIST and their labels."""

    images = load_data("mnist", "test")[:32]
    return images.unit, images.y


@pytest.fixture(scope="session")
def net():
    """A small CNN, trained for a moment so that its gradients mean something."""

    model = build_model("mnist_cnn", width=8, hidden=32, generator=0, initialisation="he")
    objective = build_objective(model, "CrossEntropy")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images = load_data("mnist", "train", 2000, seed=0)
    for part in torch.randperm(2000, generator=torch.Generator().manual_seed(0)).split(50):
        loss, _ = objective(images[part].unit, images[part].y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


NET = {"name": "resnet10", "width": 2, "channels": 1}   # with batch norms
RUN = {   # what a run needs, at its smallest
    "data": "mnist", "images": 100, "flip": False, "crop": 0, "model": NET, "objective": {"name": "CrossEntropy"},
    "over": {"seed": [0, 1]}, "seed": 0, "epochs": 2, "batch": 50,
    "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9}, "schedule": {"name": "constant"}, "bound": 1000.0,
    "test_images": 50, "snapshots": False, "weights": "float16", "precision": "32-true", "compile": False,
    "channels_last": True}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs(name={changes}, ...) makes these the runs of profile p; the results go to tmp_path/results."""
    for name in ("params", "results"):
        monkeypatch.setattr(paths, name.upper(), tmp_path / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def write(**sections):
        text = yaml.safe_dump({name: RUN | changes for name, changes in sections.items()}, sort_keys=False)
        paths.write_text(tmp_path / "params/p/train.yaml", text)
        return tmp_path / "results/p/checkpoints"
    return write


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """ROBUSTGEN_DATA names tmp_path/given, the user's cache is in tmp_path/cache, and there is no network."""

    def no_route(url):
        raise OSError("no route to host")

    (tmp_path / "given").mkdir(exist_ok=True)
    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "retrieve", no_route)


class Copy:
    """A copy of the repository as git would see it, with data/ linked in and no results of this one."""

    def __init__(self, home):
        self.home = home

    def make(self):
        files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout
        for file in filter(None, files.split("\0")):
            if (ROOT / file).exists() and not file.startswith("results/"):
                (self.home / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, self.home / file)
        subprocess.run(["git", "init", "-q"], cwd=self.home, check=True)
        return self

    def environment(self, **variables):
        """That of a command in the copy: the copy's library, one thread, offline."""
        return os.environ | {"PYTHONPATH": str(self.home / "lib"), "ROBUSTGEN_DATA": str(ROOT / "data"),
                             "OMP_NUM_THREADS": "1",
                             "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables

    def run(self, *command, cwd=None, check=True, **variables):
        """Run a command in the copy; return the finished process."""
        done = subprocess.run(command, cwd=cwd or self.home, env=self.environment(**variables), capture_output=True,
                              text=True)
        output = f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert not check or done.returncode == 0, output
        return done

    def beside(self, home):
        """Another copy, with this one's data and trained nets: what a notebook writes there harms no other test."""
        for name in ("lib", "notebooks", "params"):
            shutil.copytree(self.home / name, home / name)
        for name in ("params.yaml", "published.yaml"):
            shutil.copy2(self.home / name, home)
        (home / "data").symlink_to(self.home / "data")
        (home / "results/test").mkdir(parents=True)
        (home / "results/test/checkpoints").symlink_to(self.home / "results/test/checkpoints")
        return Copy(home)

    def fetch(self):
        self.run("sh", "-c", "robustgen data && dvc commit data.dvc")   # as `make data` does


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the repository, as after a clone."""
    return Copy(tmp_path_factory.mktemp("checkout") / "robustgen").make()


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """A copy after `dvc repro` of profile test, made once for all processes of the test run.

    One training, the notebooks and the report are run by their stages; the other trainings in one process, and DVC is
    told of them: 36 processes would take minutes to import torch.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    copy = Copy(root / "reproduced" / "robustgen")
    with filelock.FileLock(root / "reproduced.lock"):
        if not (root / "reproduced" / "done").exists():
            copy.make()
            refused = copy.run("dvc", "repro", check=False)   # before there is data
            (root / "reproduced" / "refused").write_text(refused.stdout + refused.stderr)
            copy.fetch()
            copy.run("robustgen", "profile", "test")
            copy.run("dvc", "repro", "data", "train@test-mnist-standard")
            copy.run(sys.executable, "-c", "from robustgen.training import family, runs\n"
                                           "for run in runs.run_names('test'): family.train(run, 'test')")
            copy.run("dvc", "commit", "--quiet", "--force", "train")
            copy.run("dvc", "repro")
            (root / "reproduced" / "done").touch()
    return copy


PIPELINE, ALONE = "test_pipeline.py", "takes_other_settings"


def pytest_collection_modifyitems(items):
    """The pipeline's tests first, so that one process makes it while another tests; what may go anywhere last."""
    items.sort(key=lambda item: 2 * (ALONE in item.nodeid) + (PIPELINE not in item.nodeid))


def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        """A file's tests stay in one process, as they share fixtures; the longest may go anywhere."""

        def _split_scope(self, nodeid):
            return nodeid if ALONE in nodeid else nodeid.partition("::")[0]

    return ByFile(config, log)
