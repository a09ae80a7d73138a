"""The ways in which users run the project, each in a copy of the repository."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def reproduced(checkout, run_in):
    """The copy after `dvc repro` of profile test."""
    refused = run_in("dvc", "repro", check=False)   # before there is data
    run_in("sh", "-c", "python -m robustgen.data && dvc commit --quiet data.dvc")   # as `make data` does
    run_in(sys.executable, "-m", "robustgen.config", "test")
    run_in("dvc", "repro")
    return checkout, refused.stdout + refused.stderr


def test_without_data_dvc_repro_says_what_to_do(reproduced):
    assert "data/mnist: train-images-idx3-ubyte is missing; fetch it with: make data" in reproduced[1]


def test_dvc_repro_makes_the_report_and_is_then_done(reproduced, run_in):
    home, _ = reproduced
    report = (home / "results/test/REPORT.md").read_text()
    for words in ("Table 1.", "Table 2.", "Settings that differ", "Verdict", "116.8", "| claim | evidence | holds? |",
                  "98.38",
                  "| CIFAR-10, KD+BU, PGD (8); as published, not computed here | 92.27 | – | 0.96 | – | – | – |",
                  "| imagenette-standard | trained | not in this profile |",
                  "| GradResNet, joint | 96.3 |", "| 29.00 |",
                  "| imagenet-gradresnet | trained | not in this profile |",
                  "### Shapes, exact tangent spaces and Bayes-optimal gradients",
                  "| imagenet64-l2 | trained | not in this profile |",
                  "| CIFAR-10, Glow | 0.676 | – | – | – | – | – |", "| cifar100 | trained | not in this profile |"):
        assert words in report
    for picture in re.findall(r"\]\((figures/.*?)\)", report):
        assert 5_000 < (home / "results/test" / picture).stat().st_size < 100_000
    assert "up to date" in run_in("dvc", "repro").stdout
    assert "up to date" in run_in("dvc", "status").stdout


def test_the_reports_numbers_are_those_of_the_run(reproduced):
    home, _ = reproduced
    metrics = json.loads((home / "results/test/metrics/spectral_mnist.json").read_text())
    row = next(line for line in (home / "results/test/REPORT.md").read_text().splitlines()
               if line.startswith("| tail@8"))
    tail = metrics["values"]["tail"]["robust"]
    assert f"{sum(tail) / len(tail):.3g} ±" in row and "0.167" in row


def test_rates_are_means_over_seeds_in_per_cent(reproduced):
    home, _ = reproduced
    metrics = json.loads((home / "results/test/metrics/he_pgd.json").read_text())
    row = next(line for line in (home / "results/test/REPORT.md").read_text().splitlines()
               if line.startswith("| CIFAR-10, energy, PGD (16)"))
    rates = metrics["values"]["cifar10: PGD (16)"]["DR"]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert len(rates) == 2 and cells[1] == "–"
    assert cells[2].startswith(f"{sum(rates) / 2:.3g} ±") and cells[-1] == "2"
    assert {verdict["claim"][:4] for verdict in metrics["verdict"]} == {"cifa", "mnis"}


def _net(name, run, **member):
    return {"name": name, "run": run, "member": member}


STRIP = {"net": "mnist-standard", "member": {"seed": 1}, "layer": None, "start": "perlin", "drift_noise": 0.1,
         "diffusion_noise": 0, "eps": 0.3, "step_size": 1, "steps": 2, "smoothing_sigma": 0, "smoothing_draws": 1}
DIGITS = {"name": "mnist", "title": "Digits", "eps": 0.1, "stride": 0.5, "judge": "mnist-robust",
          "judge_member": {"seed": 1}, "judge_layer": "10",
          "attacked": _net("standard", "mnist-robust", seed=0),
          "nets": [_net("standard", "mnist-controls", training="standard"),
                   _net("adversarial", "mnist-controls", training="adversarial"),
                   _net("PreJEAT", "mnist-controls", training="prejeat"), _net("JEM", "mnist-jem"),
                   _net("JEAT", "mnist-jeat", seed=1)]}


@pytest.mark.parametrize("notebook, settings, words", [
    # one strip, one radius and epoch, no edits but the exchange of spectra: keys that verdicts and figures depend on
    ("2_pgdd_imagenet", {"strips": [STRIP], "epochs": [2], "truncations": [], "powers": [], "floors": [], "seed": 1,
                         "judge_seeds": [0], "steps": 4},
     "Causal test, photographs"),
    # no noise level beyond the training range, other levels than Table 1's, noise on all images of the detectors
    ("3_gradresnet_cifar", {"range_sigmas": [10, 50], "sigmas": [10, 20], "shown": 1, "ood_sigmas": [25],
                            "grid_sigmas": [0, 20], "largest": 2, "smallest": 2, "seed": 3},
     "PSNR, σ = 20 in the published order"),
    # another score model alone, another family shown, radii and noise of its own
    ("4_off_manifold_lpips",
     {"scores": [{"name": "DRUNet", "net": "cifar10-denoisers", "member": {"net": "drunet"}, "draws": 0}],
      "radii": [1.0, 3.0], "radius": 3.0, "shown": 1, "shown_family": "cifar10-noise",
      "theorem_sigmas": [0.01, 0.001], "bayes_sigma": 100.0, "seed": 3},
     "gradients are compared with that of DRUNet"),
    # digits alone, one seed, another judge, other sizes
    ("5_jeat", {"datasets": [DIGITS], "seeds": [1], "per_class": 3, "landscape_shown": 2, "seed": 3},
     "Digits: images are judged by mnist-robust"),
    # a single seed, no plain PGD in the sweep, fewer steps than shown: keys that depend on one another
    ("6_he_pgd", {"seeds": [1], "lams": [1.2], "steps": 2, "eps": 0.05}, "PGD (13)"),
])
def test_a_notebook_takes_other_settings(reproduced, run_in, tmp_path, notebook, settings, words):
    out = tmp_path / "out.ipynb"
    # JSON is YAML
    run_in("papermill", f"notebooks/{notebook}.ipynb", str(out), "-p", "profile", "test", "-y", json.dumps(settings))
    assert words in out.read_text() and "holds?" in out.read_text()


def test_without_lpips_notebook_4_goes_by_the_cosine_and_says_so(reproduced):
    """The copy has no weights of LPIPS, unless this machine's user has some."""
    home, _ = reproduced
    notebook = (home / "results/test/off_manifold_lpips/off_manifold_lpips.ipynb").read_text()
    values = json.loads((home / "results/test/metrics/off_manifold_lpips.json").read_text())["values"]
    assert "cifar10: cosine, weakest" in values and len(values["cifar10: cosine, weakest"]["ℓ2 adversarial"]) == 2
    assert ("no LPIPS: squeezenet1_1" in notebook) == ("cifar10: 1 − LPIPS, weakest" not in values)


def test_table_1_has_the_times_of_training(reproduced):
    home, _ = reproduced
    values = json.loads((home / "results/test/metrics/gradresnet_cifar.json").read_text())["values"]
    seconds = json.loads((home / "results/test/checkpoints/cifar10-gradresnet/task=joint.json").read_text())["seconds"]
    assert values["GradResNet, joint"]["training, h"] == [pytest.approx(seconds / 3600)]
    assert set(values["DnCNN"]) == {"PSNR, σ = 25", "training, h"}
    assert set(values["ResNet"]) == {"accuracy", "training, h"}


def test_figures_without_published_numbers_have_no_published_columns(reproduced):
    home, _ = reproduced
    lines = (home / "results/test/REPORT.md").read_text().splitlines()
    head = lines[next(i for i, line in enumerate(lines) if line.startswith("### Convergence of PGDD")) + 4]
    assert head == "| | standard, reproduced | ε = 0.25, reproduced | ε = 0.5, reproduced | ε = 1, reproduced | seeds |"
    assert "| strips | 8, see params/ | 3, see params/ |" in "\n".join(lines).replace("pgdd_imagenet: ", "")


def test_histories_are_drawn_by_dvc_plots(reproduced, run_in):
    home, _ = reproduced
    run_in("dvc", "plots", "show", "-o", "plots")
    page = (home / "plots/index.html").read_text()
    assert "mnist-robust, test" in page and "seed=1" in page


def test_papermill_takes_a_profile_and_any_key(reproduced, run_in, tmp_path):
    out = tmp_path / "out.ipynb"
    run_in("papermill", "notebooks/1_spectral_mnist.ipynb", str(out), "-p", "profile", "test", "-p", "images", "4")
    text = out.read_text()
    assert "images=4" in text and "holds?" in text


def test_papermill_refuses_an_unknown_key(reproduced, run_in, tmp_path):
    done = run_in("papermill", "notebooks/1_spectral_mnist.ipynb", str(tmp_path / "out.ipynb"), "-p", "profile", "test",
                  "-p", "imges", "4", check=False)
    assert done.returncode and "parameter 'imges' does not exist; did you mean 'images'?" in done.stderr


def test_a_notebook_without_checkpoints_names_the_command(reproduced, run_in, tmp_path):
    done = run_in("papermill", "notebooks/1_spectral_mnist.ipynb", str(tmp_path / "out.ipynb"), "-p", "profile", "gpu",
                  check=False)
    assert done.returncode and "is missing; make it with: make repro PROFILE=gpu, or this run alone:" in done.stderr


def test_the_notebook_runs_from_its_own_folder(reproduced, run_in, tmp_path):
    """As JupyterLab does: working directory notebooks/, the profile set in the parameters cell."""
    home, _ = reproduced
    notebook = nbformat.read(home / "notebooks/1_spectral_mnist.ipynb", 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('"laptop"', '"test"')
    nbformat.write(notebook, home / "notebooks/mine.ipynb")
    run_in("jupyter", "execute", "mine.ipynb", "--inplace", cwd=home / "notebooks")
    assert "holds?" in (home / "notebooks/mine.ipynb").read_text()


@pytest.mark.parametrize("module, arguments, message", [
    ("train", ["mnist-robust", "--profile", "labtop"], "profile 'labtop' does not exist; did you mean 'laptop'?"),
    ("train", ["mnist-rubust", "--profile", "test"], "run 'mnist-rubust' does not exist; did you mean 'mnist-robust'?"),
    ("report", ["tset"], "profile 'tset' does not exist; did you mean 'test'?"),
    ("report", ["paper"], "make it with: make repro PROFILE=paper"),
    ("config", ["gpuu"], "profile 'gpuu' does not exist; did you mean 'gpu'?"),
    ("data", ["minst"], "dataset 'minst' does not exist; did you mean 'mnist'?"),
])
def test_commands_end_in_one_sentence(run_in, module, arguments, message):
    done = run_in(sys.executable, "-m", f"robustgen.{module}", *arguments, check=False)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["train", "report", "config", "data"])
def test_help_helps(run_in, module):
    assert "usage: python -m robustgen." in run_in(sys.executable, "-m", f"robustgen.{module}", "--help").stdout


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, robustgen; "
            "print([m for m in ('torch', 'matplotlib', 'pandas', 'lightning_fabric') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchvision_imports_beside_this_torch():
    import torch
    from robustgen.utils.torchvision_import import torchvision

    assert torchvision.models.resnet18(weights=None)(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_the_examples_of_the_readme_run():
    section = (ROOT / "README.md").read_text().split("## Your own model")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(examples) == 5 and all(len(code.strip().splitlines()) <= 10 for code in examples)
    done = subprocess.run([sys.executable, "-c", "".join(examples)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "lib")})
    assert done.returncode == 0, done.stderr
    for words in ("energy ratio", "off the manifold", "misclassified and not detected: tensor([", "'Square':"):
        assert words in done.stdout


def test_conda_users_get_the_pinned_versions_and_nothing_is_listed_twice():
    import yaml

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
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "lib", "tests", "benchmarks"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
