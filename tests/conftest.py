"""Shared pieces: a small net, a few real images, and a copy of the repository to run commands in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.training.registry import build_objective
from robustgen.utils import download

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

    model = build_model("mnist_cnn", width=8, hidden=32, generator=0)
    objective = build_objective(model, "CrossEntropy")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images = load_data("mnist", "train", 2000, seed=0)
    for part in torch.randperm(2000, generator=torch.Generator().manual_seed(0)).split(50):
        loss, _ = objective(images[part].unit, images[part].y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """ROBUSTGEN_DATA names tmp_path/given, the user's cache is in tmp_path/cache, and there is no network."""

    def no_route(url):
        raise OSError("no route to host")

    monkeypatch.setenv("ROBUSTGEN_DATA", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "retrieve", no_route)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the repository as git would see it, with data/ linked in and no results of this one."""
    home = tmp_path_factory.mktemp("checkout") / "robustgen"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout
    for file in filter(None, files.split("\0")):
        if (ROOT / file).exists() and not file.startswith("results/"):
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, home / file)
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    return home


@pytest.fixture(scope="session")
def run_in(checkout):
    """run_in(command, ...) runs a command in the copy, with the copy's library, offline; returns the finished
    process."""
    def run(*command, cwd=None, check=True, **variables):
        env = os.environ | {"PYTHONPATH": str(checkout / "lib"),
                            "ROBUSTGEN_DATA": str(ROOT / "data"), "OMP_NUM_THREADS": "1",
                            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
        done = subprocess.run(command, cwd=cwd or checkout, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, (f"{' '.join(map(str, command))}\n"
                                                   f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done
    return run
