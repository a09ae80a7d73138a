"""The lock and the shipped checkpoints: fresh, whole, small, and enough to train nothing."""

import hashlib
import json

import pytest
import yaml

from conftest import ROOT
from robustgen.training.runs import load_run, run_names
from robustgen.training.schedules import SCHEDULES
from robustgen.training.trainer import _named, check_run
from robustgen.utils.profiles import profile_names
from structure import trainings

LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
STORE = ROOT / "store/files/md5"
GROUPS = trainings()
SHIPPED = {f"{group}@laptop-{run}": run for group, stage in GROUPS.items() for run in stage["matrix"]["run"]}
REMEDY = "run `make repro FRESH=1`, then `make store`, and commit dvc.lock and store/"


def md5(file):
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def content(path):
    """What DVC locks of a file, or of a folder: the checksum of the list of its files."""
    if path.is_file():
        return md5(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    entries = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"])
    listed = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listed, usedforsecurity=False).hexdigest() + ".dir"


def stored(digest):
    return STORE / digest[:2] / digest[2:]


def test_every_run_has_a_stage_and_every_profile_has_every_run():
    runs = list(SHIPPED.values())
    for profile in profile_names():
        assert sorted(run_names(profile)) == sorted(runs), profile


@pytest.mark.parametrize("profile", profile_names())
def test_every_net_of_every_profile_can_be_built(profile):

    for run in run_names(profile):
        for member, settings in load_run(profile, run).members().items():
            source = f"{profile}, {run} {member}"
            check_run(settings, source)
            assert _named("schedule", SCHEDULES, settings.schedule, source)(1.0) <= 1


def test_every_laptop_run_is_locked():
    assert sorted(SHIPPED) == sorted(name for name in LOCK if name.startswith("train") and "@laptop-" in name), REMEDY


@pytest.mark.parametrize("stage", SHIPPED)
def test_the_lock_is_fresh(stage):
    """Code and settings are those that the locked checkpoints were trained with."""
    for dep in LOCK[stage]["deps"]:
        if dep["path"].startswith("lib/"):
            assert content(ROOT / dep["path"]) == dep["md5"], f"{dep['path']} has changed since {stage}: {REMEDY}"
    deps = {dep["path"] for dep in LOCK[stage]["deps"]}
    expected = {dep.replace("${item.profile}", "laptop") for dep in GROUPS[stage.partition("@")[0]]["deps"]}
    assert deps == expected, f"{stage} has other dependencies now: {REMEDY}"
    for file, sections in LOCK[stage]["params"].items():
        now = yaml.safe_load((ROOT / file).read_text())
        for name, section in sections.items():
            assert now[name] == section, f"{file}, {name} has changed since {stage}: {REMEDY}"


@pytest.mark.parametrize("stage", SHIPPED)
def test_the_store_has_every_locked_checkpoint_whole(stage):
    for out in LOCK[stage]["outs"]:
        assert md5(stored(out["md5"])) == out["md5"].removesuffix(".dir"), f"{out['path']}: {REMEDY}"
        if out["md5"].endswith(".dir"):
            files = json.loads(stored(out["md5"]).read_text())
            members = load_run("laptop", SHIPPED[stage]).members()
            assert {f"{member}.safetensors" for member in members} <= {f["relpath"] for f in files}
            for file in files:
                assert md5(stored(file["md5"])) == file["md5"], f"{out['path']}/{file['relpath']}: {REMEDY}"


def test_the_store_is_small_and_holds_nothing_else():
    files = [file for file in STORE.rglob("*") if file.is_file()]
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 25e6 and sum(sizes) <= 120e6
    roots = [out["md5"] for name in LOCK if name.partition("@")[0] in GROUPS for out in LOCK[name]["outs"]]
    known = set(roots) | {file["md5"] for root in roots if root.endswith(".dir") and stored(root).exists()
                          for file in json.loads(stored(root).read_text())}
    found = {file.parent.name + file.name for file in files}
    assert found <= known, "store/ holds files that no lock names; delete them"


def test_a_fresh_clone_gets_the_checkpoints_and_trains_nothing(checkout):
    run = checkout.run
    checkout.fetch()
    before = run("robustgen", "profile").stdout.strip()
    run("robustgen", "profile", "laptop")
    try:
        run("dvc", "pull", "--quiet", "--allow-missing", "--remote", "store", *GROUPS)
        run("dvc", "repro", "data")   # a dry run wants the checksums that the stages depend on
        plan = run("dvc", "repro", "--dry", *GROUPS).stdout
    finally:
        run("robustgen", "profile", before)
    assert plan.count("didn't change, skipping") >= len(SHIPPED)
    assert "Running stage 'train" not in plan
    weights = list((checkout.home / "results/laptop/checkpoints").rglob("*.safetensors"))
    assert len(weights) >= sum(len(load_run("laptop", run).members()) for run in run_names("laptop"))
