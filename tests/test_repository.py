"""What a reader meets first: documents whose examples run, pinned versions, stripped notebooks, tidy code."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("page, count, lines, words", [
    ("README.md", 1, 12, ["energy ratio", "energy E(x)", "PGDD ends in"]),
    ("docs/your-own-model.md", 5, 10, ["energy ratio", "off the manifold", "misclassified and not detected: tensor([",
                                       "'Square':"]),
])
def test_the_examples_run(page, count, lines, words):
    found = examples(page)
    assert len(found) == count and all(len(code.strip().splitlines()) <= lines for code in found)
    done = subprocess.run([sys.executable, "-c", "".join(found)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "lib")})
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_resolve(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?m)^\[\d+\]: (\S+)", text)
    for link in links:
        target, _, anchor = link.partition("#")
        if not target.startswith("http"):
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), link
            assert not anchor or anchor in anchors(file), link


def anchors(file):
    """The anchors that a page's headings get: lower case, words joined by hyphens, without other signs."""
    heads = re.findall(r"(?m)^#+ (.*)$", file.read_text())
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_conda_users_get_the_pinned_versions_and_nothing_is_listed_twice():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [p for p in packages if isinstance(p, str)] == ["python=3.11", "pip"]
    assert packages[-1] == {"pip": ["-r requirements.txt", "-e ."]}
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in pins)


def test_notebooks_in_git_have_no_outputs():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        notebook = nbformat.read(path, 4)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
        assert "parameters" in next(cell for cell in notebook.cells if cell.cell_type == "code").metadata["tags"]


def test_the_code_is_tidy():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "lib", "tests", "benchmarks", "notebooks"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_checkout_changes_the_bytes_of_the_store():
    done = subprocess.run(["git", "check-attr", "text", "--", "store/files/md5/00/00", "dvc.lock", "README.md"],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count(": text: unset") == 3, done.stdout


def test_torchvision_imports_beside_this_torch():
    import torch

    from robustgen.utils.torchvision_import import torchvision

    assert torchvision.models.resnet18(weights=None)(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
