"""This run's metrics beside the committed ones."""

import copy
import json
import math
import subprocess

import pytest

from robustgen.__main__ import main
from robustgen.experiments.compare import compare_metrics, read_metrics
from robustgen.utils import paths

METRICS = {
    "settings": {"images": 100, "nets": [{"name": "robust", "eps": 0.5}]},
    "values": {"accuracy": {"standard": [0.8, 0.82], "robust": [0.6]}, "trend": {"robust": [0.001, -0.4, 0.5]},
               "ResNet": {"training, h": [0.2]}},
    "verdict": [{"claim": "1. It holds", "evidence": "0.8 [0.7, 0.9]", "holds": True},
                {"claim": "2. It does not", "evidence": "0.1 [0.0, 0.2]", "holds": False}],
    "seconds": 75.0}


@pytest.fixture
def runs(tmp_path):
    """runs(change) writes the metrics of a notebook twice, the second time as `change` leaves them; the two folders."""
    def write(change=lambda metrics: None):
        new = copy.deepcopy(METRICS)
        change(new)
        for folder, content in {"old": METRICS, "new": new}.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "jeat.json").write_text(json.dumps(content))
        return [tmp_path / "old", tmp_path / "new"]
    return write


def compared(folders):
    return compare_metrics(*map(read_metrics, folders), ("old", "new"))


def test_a_run_that_changes_nothing_says_so_in_one_line(runs, capsys):
    assert main(["compare", *map(str, runs(lambda metrics: metrics.update(seconds=3.4))), "--strict"]) is None
    line, = capsys.readouterr().out.splitlines()
    assert "changes nothing" in line and "all 6 values and 2 verdicts are the same" in line
    assert "took 1 min 15 s in" in line and "and 0 min 3 s in" in line


def test_a_time_of_training_is_no_result(runs):
    result = compared(runs(lambda metrics: metrics["values"]["ResNet"].update({"training, h": [9.0]})))
    assert result.counts == {"same": 6} and not result.problems()


NAN = math.nan


@pytest.mark.parametrize("old, new, grades", [
    ([0.8], [0.8], {"same": 1}),
    ([0.8], [0.807], {"close": 1}),
    ([0.8], [0.85], {"near": 1}),
    ([0.8], [0.9], {"far": 1}),
    ([-0.8], [0.8], {"far": 1}),
    ([0.0], [1e-8], {"close": 1}),                 # a rounding error
    ([1e-5], [2e-5], {"far": 1}),                  # small, but twice as large
    ([0.001, -0.4, 0.5], [0.002, -0.4, 0.5], {"close": 1, "same": 2}),   # near 0 by the size of the other seeds
    ([1.0, 1e6, 1.0], [2.0, 1e6, 1.0], {"far": 1, "same": 2}),           # which one that is far off does not set
    ([NAN, math.inf], [NAN, math.inf], {"same": 2}),
    ([NAN, math.inf, 1.0], [1.0, -math.inf, NAN], {"far": 3}),
    (["horse"], ["horse"], {"same": 1}), (["horse"], ["bus"], {"far": 1}), ([None], [1.0], {"far": 1}),
    ([], [], {}),
])
def test_values_are_counted_by_how_closely_they_agree(runs, old, new, grades):
    first, second = runs()
    for folder, values in ((first, old), (second, new)):
        (folder / "jeat.json").write_text(json.dumps(METRICS | {"values": {"key": {"column": values}}}))
    result = compared([first, second])
    assert result.counts == grades
    assert len(result.far) == ("far" in grades) and not result.missing


def test_nested_values_are_compared_one_by_one(runs):
    result = compared(runs(lambda metrics: metrics["values"].update(trend={"robust": [0.001, -0.4, 0.7]})))
    assert result.counts == {"same": 5, "far": 1}
    assert result.far == ["more than 10 % apart: jeat, trend, robust: 0.001 -0.4 0.5 in old, 0.001 -0.4 0.7 in new"]


@pytest.mark.parametrize("change, kind, words", [
    (lambda m: m["verdict"][0].update(holds=False, evidence="0.4 [0.3, 0.5]"), "verdicts",
     "jeat, 1. It holds: yes in old (0.8 [0.7, 0.9]); no in new (0.4 [0.3, 0.5])"),
    (lambda m: m["verdict"][0].update(holds="undecided"), "verdicts", "undecided in new"),
    (lambda m: m["verdict"].pop(), "missing", "claim is only in old: jeat, 2. It does not"),
    (lambda m: m["verdict"].append(m["verdict"][0]), "missing", "claim is only in new: jeat, 1. It holds"),
    (lambda m: m["values"].pop("trend"), "missing", "jeat, trend, robust differs in how many values it has"),
    (lambda m: m["values"]["accuracy"]["robust"].append(0.6), "missing", "0.6 in old, 0.6 0.6 in new"),
    (lambda m: m["settings"]["nets"][0].update(eps=1.0), "settings", "jeat, nets.0.eps: 0.5 in old, 1 in new"),
])
def test_what_differs_is_told_with_both_sides(runs, change, kind, words):
    result = compared(runs(change))
    found, = getattr(result, kind)
    assert words in found and found in result.text("laptop")


def test_a_notebook_of_one_run_alone_is_told(runs):
    old, new = runs()
    (new / "he_pgd.json").write_text(json.dumps(METRICS))
    assert compared([old, new]).missing == ["notebook he_pgd is only in new"]
    assert compared([new, old]).missing == ["notebook he_pgd is only in old"]


@pytest.mark.parametrize("change, problem", [
    (lambda m: m["verdict"][1].update(holds=True), "1 verdicts differ"),
    (lambda m: m["values"]["accuracy"].update(robust=[0.7]), "1 values are more than 10 % apart"),
    (lambda m: m["verdict"].pop(), "1 values or claims are in one run only"),
])
def test_strict_is_an_error_in_one_sentence_where_the_plain_comparison_is_none(runs, capsys, change, problem):
    folders = list(map(str, runs(change)))
    assert main(["compare", *folders]) is None and capsys.readouterr().err == ""
    assert main(["compare", *folders, "--strict"]) == 1
    assert capsys.readouterr().err == f"metrics: {problem}\n"


def test_strict_passes_what_is_near(runs):
    folders = runs(lambda metrics: metrics["values"]["accuracy"].update(robust=[0.63]))
    assert main(["compare", *map(str, folders), "--strict"]) is None


@pytest.fixture
def clone(tmp_path, monkeypatch, runs):
    """A repository with committed results of profile laptop, and none of profile test; its folder of metrics."""
    old, _ = runs()
    metrics = tmp_path / "clone/results/laptop/metrics"
    metrics.parent.mkdir(parents=True)
    old.rename(metrics)
    for profile in ("laptop", "test"):
        (tmp_path / "clone/params" / profile).mkdir(parents=True)
    (tmp_path / "clone/params.yaml").write_text("profiles: [laptop, test]\n")
    for command in ("init -q", "add .", "-c user.name=test -c user.email=test@example.org commit -q -m Published"):
        subprocess.run(["git", *command.split()], cwd=tmp_path / "clone", check=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "clone")
    for name in ("params", "results"):
        monkeypatch.setattr(paths, name.upper(), tmp_path / "clone" / name)
    return metrics


def test_every_chosen_profile_is_compared_with_the_last_commit(clone, capsys):
    clone.joinpath("jeat.json").write_text(json.dumps(METRICS | {"values": {"accuracy": {"standard": [0.8, 0.5]}}}))
    assert main(["compare"]) is None
    laptop, test = capsys.readouterr().out.split("\ntest: ")
    assert "jeat, accuracy, standard: 0.8 0.82 in the committed run, 0.8 0.5 in this run" in laptop
    assert test == "no results are committed to compare this run with\n"


def test_what_cannot_be_compared_is_one_sentence(clone, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["compare", *arguments]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    assert "one profile or two folders; got 3 names" in refused("a", "b", "c")
    assert "profile 'labtop' does not exist; did you mean 'laptop'?" in refused("labtop")
    assert "has no metrics; it should be a folder with a <notebook>.json" in refused(str(clone), str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/summary.json").write_text('{"jeat": 3}')
    assert "summary.json is no file of a notebook's metrics" in refused(str(clone), str(tmp_path / "other"))
    (clone / "jeat.json").write_text("half")
    assert "jeat.json is no file of a notebook's metrics" in refused("laptop")
    clone.rename(tmp_path / "gone")
    assert "laptop/metrics is missing; make it with: make repro PROFILE=laptop" in refused("laptop")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "no-repository"))   # as after unpacking a ZIP
    assert "this should be a git clone of the repository; git says: fatal: not a git repository" in refused("laptop")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in refused("laptop")
