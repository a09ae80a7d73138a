"""The command line: what it does is tested where it is done, here is how it answers."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from robustgen.__main__ import main
from robustgen.experiments import report
from robustgen.experiments.settings import load_settings
from robustgen.training import family
from robustgen.utils import locks, paths
from robustgen.utils.profiles import chosen_profile
from robustgen.zoo.trained import load_net

COMMANDS = ["data", "train", "restore", "report", "compare", "zoo", "profile", "pack"]


@pytest.mark.parametrize("arguments, message", [
    (["train", "mnist-robust", "--profile", "labtop"], "profile 'labtop' does not exist; did you mean 'laptop'?"),
    (["train", "mnist-rubust", "--profile", "test"], "run 'mnist-rubust' does not exist; did you mean 'mnist-robust'?"),
    (["report", "tset"], "profile 'tset' does not exist; did you mean 'test'?"),
    (["report", "paper"], "make it with: make repro PROFILE=paper"),
    (["profile", "gpuu"], "profile 'gpuu' does not exist; did you mean 'gpu'?"),
    (["data", "minst"], "dataset 'minst' does not exist; did you mean 'mnist'?"),
    (["zoo", "--profile", "tets"], "profile 'tets' does not exist; did you mean 'test'?"),
    (["train", "--export", "folder"], "--export belongs to --minutes; say for how many minutes to train"),
    (["restore", "nowhere"], "nowhere has no exported runs"),
    (["tarin"], "command 'tarin' does not exist; did you mean 'train'?"),
])
def test_commands_end_in_one_sentence(capsys, arguments, message):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_full_disk_is_told_with_what_to_do(capsys, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/a", None, "/tmp/b")

    monkeypatch.setattr(family, "train", full)
    assert main(["train", "mnist-robust", "--profile", "test"]) == 1
    assert capsys.readouterr().err == ("the disk is full; make room, then give the same command again: what is "
                                       "finished is kept\n")


def test_one_process_writes_a_report_and_deletes_what_a_kill_left(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "read_published", dict)   # no notebooks
    with locks.exclusive(tmp_path / "test/.lock", "busy"), pytest.raises(BlockingIOError, match="by another process"):
        report.write_report("test")
    (tmp_path / "test/.tmp-figures-x").mkdir()
    report.write_report("test")
    assert {file.name for file in (tmp_path / "test").iterdir()} == {".lock", "REPORT.md", "figures", "metrics",
                                                                     "summary.json"}


def test_a_report_without_results_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", paths.ROOT / "results" / tmp_path.name)
    assert main(["report", "paper"]) == 1
    assert not paths.RESULTS.exists()


@pytest.mark.parametrize("arguments, message", [
    ([], "a command is missing: data, train, restore, report, compare, zoo, profile, pack; see: robustgen --help"),
    (["train", "--profile"], "robustgen train: argument --profile: expected one argument; see: robustgen train --help"),
    (["train", "--precision", "fp8"], "invalid choice: 'fp8'"),
    (["train", "--minutes", "0"], "argument --minutes: '0' should be a number of minutes, greater than 0; see: "),
    (["train", "--minutes", "ten"], "argument --minutes: 'ten' should be a number of minutes, greater than 0; see: "),
    (["pack", "folder", "--side", "0"], "'0' should be a whole number, at least 1"),
])
def test_a_wrong_call_is_one_sentence_that_names_the_help(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_helps(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: robustgen {command} ") and len(text.splitlines()) > 5


def test_the_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_outside_a_clone_a_command_says_what_it_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    assert main(["zoo"]) == 1
    error = capsys.readouterr().err
    assert "need a clone of the repository" in error and "make env" in error and len(error.splitlines()) == 1
    for call in (lambda: load_net("mnist-robust", "laptop"), lambda: load_settings("laptop", "jeat"), chosen_profile):
        with pytest.raises(FileNotFoundError, match="trained nets need a clone of the repository.*make env"):
            call()


def test_without_a_name_the_runs_and_the_profile_are_printed(capsys):
    assert main(["train", "--profile", "test"]) is None
    assert {"mnist-standard", "cifar10-jeat"} <= set(capsys.readouterr().out.split())
    assert main(["profile"]) is None
    assert capsys.readouterr().out.split() == ["laptop"]


@pytest.mark.parametrize("command", [[Path(sys.executable).with_name("robustgen")],
                                     [sys.executable, "-m", "robustgen"]])
def test_a_closed_pipe_is_no_error(command):
    done = subprocess.run(f"{shlex.join(map(str, command))} train --profile laptop | head -1", shell=True, cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout == "mnist-standard\n" and done.stderr == ""


def test_a_pipe_that_closes_at_once_is_no_error():
    """Nobody reads: the first write fails."""
    done = subprocess.run([sys.executable, "-c", "import os, sys; from robustgen.__main__ import main; "
                                                 "read, write = os.pipe(); os.close(read); os.dup2(write, 1); "
                                                 "sys.exit(main(['train', '--profile', 'laptop']))"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
