"""What the code says of itself: the library's modules, what each imports, and which runs a notebook loads."""

import ast
import itertools
import json
from pathlib import Path

import yaml

from robustgen.utils.mirrors import CHECKSUMS

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "lib/robustgen"
MODULES = {f"{file.parent.name}.{file.stem}": file for file in LIB.glob("*/*.py") if file.stem != "__init__"}
PROFILES = sorted(path.name for path in (ROOT / "params").iterdir())
RUNS = [run for run in yaml.safe_load((ROOT / "params/test/train.yaml").read_text()) if not run.startswith("_")]
NOTEBOOKS = {path.stem.partition("_")[2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


def trainings():
    """The groups of stages that train: `train`, and `train-from-<parent>` for runs that start from a parent's nets."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage for name, stage in stages.items() if name == "train" or name.startswith("train-from-")}


def front_door():
    """The functions and classes that `import robustgen as rg` shows: {name: their module}."""
    tree = ast.parse((LIB / "__init__.pyi").read_text())
    return {alias.name: node.module for node in tree.body if node.module for alias in node.names}


def imports(module):
    """The library's modules that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ([module.partition(".")[0]] if node.level == 1 else []) + (node.module or "").split(".")
            parts = [part for part in base if part]
            found |= {".".join(parts)} if len(parts) == 2 else {".".join([*parts, alias.name]) for alias in node.names}
    return found


def closure(modules):
    """These modules, what they import, and so on."""
    seen, left = set(), set(modules)
    while left:
        seen |= left
        left = set().union(*map(imports, left)) - seen
    return seen


def cells(notebook):
    """The syntax trees of a notebook's code cells."""
    content = json.loads(NOTEBOOKS[notebook].read_text())
    return [ast.parse("".join(cell["source"])) for cell in content["cells"] if cell["cell_type"] == "code"]


def used(notebook):
    """The library's modules that a notebook names: as rg.pgd, as rg.probes.spectral.tail, or in an import."""
    found, shown = {f"experiments.{notebook}"}, front_door()   # its settings are found by the notebook's name
    for node in itertools.chain(*map(ast.walk, cells(notebook))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("robustgen."):
            parts = node.module.split(".")[1:]
            found |= {".".join(parts)} if len(parts) == 2 else {".".join([*parts, alias.name]) for alias in node.names}
        names = dotted(node)
        if names[:1] == ["rg"] and names[1] in shown:
            found.add(shown[names[1]])
        elif names[:1] == ["rg"] and len(names) == 3:
            found.add(".".join(names[1:]))
    return found


def dotted(node):
    """The names of a.b.c, ["a", "b", "c"]; [] for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if names and isinstance(node, ast.Name) else []


def loaded(notebook):
    """The runs whose nets a notebook loads: those that it, its module or its settings name, f-strings filled in."""
    nodes, words = code(notebook)
    found = words & set(RUNS)
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            holes = sum(isinstance(part, ast.FormattedValue) for part in node.values)
            parts = {part for run in RUNS for part in run.split("-", 1)} & words
            for fill in itertools.product(parts, repeat=holes) if holes <= 2 else ():
                rest = iter(fill)
                found.add("".join(part.value if isinstance(part, ast.Constant) else next(rest) for part in node.values))
    return found & set(RUNS)


def data(notebook):
    """The parts of data/ that a notebook reads: datasets that it or one of its runs is named after, and LPIPS."""
    nodes, words = code(notebook)
    found = {word.partition("-")[0] for word in words | loaded(notebook)}
    if any(isinstance(node, ast.Attribute) and node.attr == "load_lpips" for node in nodes):
        found.add("lpips")
    return found & set(CHECKSUMS)


def code(notebook):
    """All nodes of the code of a notebook and of its module, and all strings there and in its settings."""
    trees = [*cells(notebook), ast.parse(MODULES[f"experiments.{notebook}"].read_text())]
    nodes = list(itertools.chain(*map(ast.walk, trees)))
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for profile in PROFILES:
        words |= set(strings(yaml.safe_load((ROOT / f"params/{profile}/{notebook}.yaml").read_text())))
    return nodes, words


def strings(value):
    """All strings within lists and dicts."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)
