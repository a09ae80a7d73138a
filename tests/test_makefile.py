"""What make says where it cannot go on: one sentence, and nothing else is begun."""

import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import ROOT


class Folder:
    """The Makefile in a folder of its own, with an environment in which every program only prints what it is asked."""

    def __init__(self, home):
        self.home, self.bin = home, home / ".venv/bin"
        self.bin.mkdir(parents=True)
        for file in ("Makefile", "dvc.yaml", "requirements.txt", "pyproject.toml"):
            shutil.copy2(ROOT / file, home)
        for program in ("robustgen", "dvc", "jupyter", "uv"):
            self.program(program, f'echo "{program} $@"')
        self.program("python", 'test "$1" = -m && exit; exec python3 "$@"')   # -m pip
        (home / ".git").touch()
        self.stamp = home / ".venv/.installed"
        self.stamp.touch()

    def program(self, name, script):
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def start(self, *arguments, **variables):
        # those of a make that runs these tests are none of this one's
        env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "TORCH",
                                                                              "GOMP_SPINCOUNT")}
        return subprocess.Popen(["make", *arguments], cwd=self.home, env=env | variables, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

    def make(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "robustgen")


def refused(folder, *arguments):
    """The sentence with which make ends; it has done nothing before."""
    code, out, error = folder.make(*arguments)
    sentence, verdict = error.splitlines()
    assert code == 2 and re.match(r"make.*\*\*\* \[.*\] Error 1$", verdict) and out == ""
    return sentence


@pytest.mark.parametrize("target", ["data", "repro", "test", "lab", "bench", "chaos", "store"])
def test_an_unpacked_zip_is_told_that_a_clone_is_needed_before_anything_is_installed(folder, target):
    (folder.home / ".git").unlink()
    folder.stamp.unlink()
    assert "no git clone" in refused(folder, target) and not folder.stamp.exists()


@pytest.mark.parametrize("arguments, words", [([], "dvc pull --quiet --allow-missing --remote store train"),
                                              (["FRESH=1"], "dvc repro --force train")])
def test_make_repro_pulls_and_fresh_trains(folder, arguments, words):
    plan = folder.make("-n", "repro", *arguments)[1]
    assert words in plan and ("--remote store" in plan) != ("--force" in plan)


def test_repro_ends_with_the_comparison(folder):
    code, out, error = folder.make("repro", "PROFILE=test")
    lines = out.splitlines()
    assert (code, error) == (0, "") and lines[-1] == "robustgen compare"
    assert "robustgen profile test" in lines and "dvc repro" in lines


def test_a_second_make_repro_is_refused_as_long_as_anything_of_the_first_one_works(folder):
    folder.program("dvc", 'test "$1" = repro || exit 0; touch began\n'
                          'for i in $(seq 600); do test -e end || sleep 0.05; done')
    first = folder.start("repro")
    while not (folder.home / "began").exists():
        assert first.poll() is None
        time.sleep(0.01)
    assert refused(folder, "repro") == "Another make repro runs in this folder; wait until it ends."
    first.kill()   # what it started goes on
    assert refused(folder, "repro") == "Another make repro runs in this folder; wait until it ends."
    (folder.home / "end").touch()
    first.communicate(timeout=60)
    assert folder.make("repro")[0] == 0


@pytest.mark.parametrize("target, command", [("data", "commit"), ("repro", "pull"), ("repro", "repro"),
                                             ("store", "push")])
def test_dvc_gives_its_reasons(folder, target, command):
    """With --quiet it hides them: a lock that is held, or what is missing."""
    folder.program("dvc", f'case "$*" in {command}*--quiet*) exit 255 ;; {command}*) echo "ERROR: Unable to acquire '
                          'lock." >&2; exit 255 ;; esac')
    code, _, error = folder.make(target)
    assert code == 2 and error.startswith("ERROR: Unable to acquire lock.\n")


@pytest.mark.parametrize("choice, words", [([], "python -r requirements.txt"),
                                           (["TORCH=cpu"], "python --torch-backend cpu -r requirements.txt")])
def test_the_environment_has_the_torch_that_was_asked_for(folder, choice, words):
    folder.stamp.unlink()
    code, out, _ = folder.make("env", *choice)
    assert code == 0 and re.sub(" +", " ", out).count(words) == 2   # make's echo, and uv
    assert words not in re.sub(" +", " ", folder.make("env", *choice)[1])   # it is there
    os.utime(folder.stamp, (0, 0))   # as when requirements.txt is newer: the choice is kept
    assert re.sub(" +", " ", folder.make("env")[1]).count(words) == 2


def test_another_torch_than_that_of_the_environment_is_refused(folder):
    os.utime(folder.stamp, (0, 0))
    assert "made with TORCH='', not 'cpu'; delete .venv/" in refused(folder, "env", "TORCH=cpu")
    assert "made with TORCH='', not 'cpu'; delete .venv/" in refused(folder, "repro", "TORCH=cpu")


def test_jupyterlab_takes_arguments_and_asks_nothing(folder):
    folder.program("jupyter", 'echo "$JUPYTER_CONFIG_PATH"; echo "jupyter $@"')
    _, out, _ = folder.make("lab", "ARGS=--allow-root --port 9999", JUPYTER_CONFIG_PATH="mine")
    assert out.endswith("\n.jupyter:mine\njupyter lab --notebook-dir notebooks --allow-root --port 9999\n")
    assert (ROOT / ".jupyter/labconfig/default_setting_overrides.json").exists()


@pytest.mark.parametrize("given, seen", [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_idle_threads_of_what_make_starts_soon_stop_spinning(folder, given, seen):
    folder.program("jupyter", 'echo "spins $GOMP_SPINCOUNT"')
    assert folder.make("lab", **given)[1].endswith(f"\nspins {seen}\n")
