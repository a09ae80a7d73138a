"""The campaign of `make chaos`: that it sees what a kill has spoilt, and its small part. Trainings are killed in
tests/training/test_family.py, at the moments that matter."""

import random
import sys

import pytest

import chaos
from conftest import Copy

# Writes a.json and b.json, and says of each that an epoch begins; goes on with what is not there. Where there is a file
# `die`, it is killed in the middle of b.json.
WRITER = """
import os, pathlib, signal, sys, time
for number, name in enumerate("ab"):
    path, die = pathlib.Path(f"made/{name}.json"), pathlib.Path("die")
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        continue
    print(f"run seed=0, epoch {number + 1}/2", flush=True)
    new = path if sys.argv[1] == "careless" else path.with_name(".tmp-" + path.name)
    with open(new, "w") as file:
        file.write('{"value": 1, ')
        file.flush()
        if name == "b" and die.exists():
            die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        file.write('"seconds": %f}' % time.time())
    new.rename(path)
"""


@pytest.fixture
def campaign(tmp_path):
    def begun(kind):
        (tmp_path / "writer.py").write_text(WRITER)
        return chaos.Campaign(Copy(tmp_path), chaos.Target("", f"exec {sys.executable} writer.py {kind}", ("made",)))
    return begun


@pytest.mark.parametrize("kind, harm", [("careful", []), ("careless", ["made/b.json"])])
def test_the_campaign_tells_what_a_kill_has_spoilt(campaign, tmp_path, kind, harm):
    here = campaign(kind)
    (tmp_path / "die").touch()
    found = here.kill(60)
    assert found["killed"] and found["epochs"] == (kind == "careful")
    assert found["damaged"] == harm and found["differ"] == harm and found["left"] == 0
    assert chaos.row(here.target, here, [found]).endswith("| 0 of 1 |" if harm else "| 1 of 1 |")


def test_a_kill_that_comes_too_late_is_not_counted(campaign):
    found = campaign("careful").kill(60)
    assert not found["killed"] and found["epochs"] == 0 and not found["differ"]


def test_a_kill_takes_the_whole_group_at_its_moment(tmp_path):
    here = chaos.Campaign(Copy(tmp_path), chaos.Target("", "test ! -e slow || { sleep 600; touch late; }", ("made",)))
    (tmp_path / "slow").touch()
    assert here.call(0.2) == (True, set()) and not (tmp_path / "late").exists()


def test_make_data_ends_in_the_same_files_after_kill_9(tmp_path):
    """LPIPS's weights alone: 10 MB."""
    copy = Copy(tmp_path / "robustgen").make()
    here = chaos.Campaign(copy, chaos.Target("", "exec robustgen data lpips", ("data",)))
    moments = random.Random(0)
    for _ in range(2):
        found = here.kill(moments.uniform(0, here.seconds))
        assert not found["damaged"] and not found["differ"] and not found["left"]
    assert list(here.whole) == ["data/lpips/alex.safetensors", "settled"]


def test_a_notebook_has_the_same_results_after_kill_9(tmp_path, reproduced):
    made = "results/test/spectral_mnist"
    command = (f"mkdir -p {made} && exec papermill notebooks/1_spectral_mnist.ipynb {made}/spectral_mnist.ipynb "
               "-p profile test")
    here = chaos.Campaign(reproduced.beside(tmp_path / "robustgen"), chaos.Target("", command, (made,)))
    found = here.kill(here.seconds / 2)
    assert f"{made}/metrics.json" in here.whole and not found["damaged"] and not found["differ"]
