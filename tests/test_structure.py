"""How the library is laid out: packages that import downwards, names that are used once, and what DVC is told of it."""

import ast
import builtins
import collections
import importlib
import inspect
import os
import subprocess
import sys

import pytest
import yaml

from robustgen.training.starts import parent_runs
from robustgen.utils.mirrors import CHECKSUMS
from structure import LIB, MODULES, NOTEBOOKS, PROFILES, ROOT, closure, data, front_door, loaded, trainings, used

PACKAGES = sorted({module.partition(".")[0] for module in MODULES})
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXECUTED = {"experiments"}   # the package of which a stage depends on single files: one file, one notebook


def public(module):
    """The public functions that a module defines."""
    tree = ast.parse(MODULES[module].read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def test_imports_point_down_only():
    done = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports; "
                                                 "raise SystemExit(lint_imports())"],
                          cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "lib")})
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout + done.stderr


def test_no_module_is_over_300_lines():
    lines = {module: len(file.read_text().splitlines()) for module, file in MODULES.items()}
    assert max(lines.values()) <= 300, lines


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_shows_its_modules(package):
    shown = importlib.import_module(f"robustgen.{package}")
    assert shown.__doc__ and sorted(shown.__all__) == sorted(m.partition(".")[2] for m in MODULES
                                                             if m.startswith(f"{package}."))


def test_no_two_public_functions_share_a_name():
    names = collections.Counter(name for module in MODULES for name in public(module))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_public_function_stutters_or_shadows_a_builtin():
    for module in MODULES:
        for name in public(module):
            assert name not in module.split(".") and not hasattr(builtins, name), f"{module}.{name}"


@pytest.mark.parametrize("name", front_door())
def test_what_the_front_door_shows_is_documented_and_typed(name):
    import robustgen as rg

    shown = getattr(rg, name)
    assert inspect.getdoc(shown) and name in dir(rg)
    signature = inspect.signature(shown.__init__ if inspect.isclass(shown) else shown)
    for parameter in signature.parameters.values():
        assert parameter.name == "self" or parameter.annotation is not parameter.empty, parameter
    assert inspect.isclass(shown) or signature.return_annotation is not signature.empty
    assert "FieldInfo" not in str(signature)


def test_a_type_checker_passes_the_front_door(tmp_path):
    """The README's example is right, and a wrong norm is not."""
    readme = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "right.py").write_text(readme)
    (tmp_path / "wrong.py").write_text(readme + 'rg.pgd(model, x, y, norm="l3", eps=0.1, step_size=0.1, steps=1)\n')
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml",
                           "--cache-dir", tmp_path, "right.py", "wrong.py"],
                          cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT / "lib")})
    assert "right.py" not in done.stdout and "Found 1 error in 1 file" in done.stdout, done.stdout + done.stderr
    assert 'wrong.py' in done.stdout and '"pgd" has incompatible type' in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, robustgen; "
            "print([m for m in ('torch', 'numpy', 'matplotlib', 'pandas', 'lightning_fabric') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("given, seen", [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_idle_threads_of_openmp_spin_as_briefly_as_under_make_or_as_the_user_says(given, seen):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", "import robustgen as rg; rg.pgd"], capture_output=True, text=True,
                          check=True, env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"} | given)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{seen}'" in done.stderr
    assert "export GOMP_SPINCOUNT ?= 10000\n" in (ROOT / "Makefile").read_text()


def packages(modules):
    """What a stage that needs these modules depends on: packages, and single files of `experiments`."""
    parts = [module.partition(".") for module in modules]
    return {f"lib/robustgen/{package}" if package not in EXECUTED else f"lib/robustgen/{package}/{name}.py"
            for package, _, name in parts}


def library(stage):
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith("lib/")}


@pytest.mark.parametrize("group", trainings())
def test_a_training_depends_on_all_that_shapes_a_checkpoint(group):
    """All that the trainer imports, but `utils`, in which no number is made."""
    assert library(group) == packages(closure({"training.family"})) - {"lib/robustgen/utils"}


@pytest.mark.parametrize("group", trainings())
def test_a_started_run_depends_on_the_checkpoints_of_its_parent(group):
    """A run that starts from one parent in one profile depends on it in all: a group of stages has the same for all."""
    stage, parent = STAGES[group], group.removeprefix("train-from-")
    deps = {dep for dep in stage["deps"] if "/checkpoints/" in dep}
    assert deps == (set() if group == "train" else {f"results/${{item.profile}}/checkpoints/{parent}"})
    for run in stage["matrix"]["run"]:
        starts = {start for profile in PROFILES for start in parent_runs(profile, run)}
        assert starts == (set() if group == "train" else {parent}), run


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_depends_on_the_library_that_it_uses(notebook):
    assert library(notebook) == packages(closure(used(notebook)))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_depends_on_the_runs_that_it_loads_and_the_report_names_them(notebook):
    deps = [dep.rpartition("/")[2] for dep in STAGES[notebook]["deps"] if "/checkpoints/" in dep]
    published = yaml.safe_load((ROOT / "published.yaml").read_text())
    assert sorted(deps) == sorted(published[notebook]["runs"]) == sorted(loaded(notebook))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_depends_on_the_data_that_it_reads(notebook):
    deps = {dep for dep in STAGES[notebook]["deps"] if dep.startswith("results/data/")}
    assert deps == {f"results/data/{name}.json" for name in data(notebook)}


def test_each_part_of_the_data_is_checked_by_a_stage():
    assert STAGES["data"]["matrix"]["name"] == list(CHECKSUMS)


def test_the_report_depends_on_what_it_uses():
    needed = {module.partition(".")[0] for module in closure({"experiments.report"})}
    assert library("report") == {f"lib/robustgen/{package}" for package in needed}


def test_dvc_yaml_is_short():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 200


def test_the_package_is_typed():
    assert (LIB / "py.typed").exists()
