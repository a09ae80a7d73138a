"""The pipeline as users run it: profile test in a copy of the repository."""

import json
import re
import shutil
import sys

import nbformat
import pytest

from conftest import ROOT, Copy
from robustgen.experiments.compare import compare_metrics, read_metrics


def test_without_data_dvc_repro_says_what_to_do(reproduced):
    refused = (reproduced.home.parent / "refused").read_text()
    assert "data/mnist: train-images-idx3-ubyte is missing; fetch it with: make data" in refused


def test_dvc_repro_makes_the_report_and_is_then_done(reproduced):
    home = reproduced.home
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
    assert "up to date" in reproduced.run("dvc", "repro").stdout
    assert "up to date" in reproduced.run("dvc", "status").stdout


def test_the_reports_numbers_are_those_of_the_run(reproduced):
    home = reproduced.home
    metrics = json.loads((home / "results/test/metrics/spectral_mnist.json").read_text())
    row = next(line for line in (home / "results/test/REPORT.md").read_text().splitlines()
               if line.startswith("| tail@8"))
    tail = metrics["values"]["tail"]["robust"]
    assert f"{sum(tail) / len(tail):.3g} ±" in row and "0.167" in row


def test_rates_are_means_over_seeds_in_per_cent(reproduced):
    home = reproduced.home
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
def test_a_notebook_takes_other_settings(reproduced, tmp_path, notebook, settings, words):
    out, copy = tmp_path / "out.ipynb", reproduced.beside(tmp_path / "robustgen")
    # JSON is YAML
    copy.run("papermill", f"notebooks/{notebook}.ipynb", str(out), "-p", "profile", "test", "-y",
                   json.dumps(settings))
    assert words in out.read_text() and "holds?" in out.read_text()


def test_notebook_4_has_lpips_and_the_measures_beside_it(reproduced):
    values = json.loads((reproduced.home / "results/test/metrics/off_manifold_lpips.json").read_text())["values"]
    for measure in ("1 − LPIPS", "cosine", "1 − deep-feature distance"):
        assert len(values[f"cifar10: {measure}, weakest"]["ℓ2 adversarial"]) == 2


def test_table_1_has_the_times_of_training(reproduced):
    home = reproduced.home
    values = json.loads((home / "results/test/metrics/gradresnet_cifar.json").read_text())["values"]
    seconds = json.loads((home / "results/test/checkpoints/cifar10-gradresnet/task=joint.json").read_text())["seconds"]
    assert values["GradResNet, joint"]["training, h"] == [pytest.approx(seconds / 3600)]
    assert set(values["DnCNN"]) == {"PSNR, σ = 25", "training, h"}
    assert set(values["ResNet"]) == {"accuracy", "training, h"}


def test_figures_without_published_numbers_have_no_published_columns(reproduced):
    home = reproduced.home
    lines = (home / "results/test/REPORT.md").read_text().splitlines()
    head = lines[next(i for i, line in enumerate(lines) if line.startswith("### Convergence of PGDD")) + 4]
    assert head == "| | standard, reproduced | ε = 0.25, reproduced | ε = 0.5, reproduced | ε = 1, reproduced | seeds |"
    assert "| strips | 8, see params/ | 3, see params/ |" in "\n".join(lines).replace("pgdd_imagenet: ", "")


def test_histories_are_drawn_by_dvc_plots(reproduced):
    home = reproduced.home
    reproduced.run("dvc", "plots", "show", "-o", "plots")
    page = (home / "plots/index.html").read_text()
    assert "mnist-robust, test" in page and "seed=1" in page


def test_the_notebooks_numbers_are_dvcs_metrics(reproduced):
    shown = json.loads(reproduced.run("dvc", "metrics", "show", "--json").stdout)
    summary = shown[""]["data"]["results/test/summary.json"]["data"]
    values = json.loads((reproduced.home / "results/test/metrics/he_pgd.json").read_text())["values"]
    rates = values["cifar10: PGD (16)"]["DR"]
    assert summary["he_pgd"]["cifar10: PGD (16)"]["DR"] == pytest.approx(sum(rates) / len(rates))
    assert set(summary) == {path.stem for path in (reproduced.home / "results/test/metrics").iterdir()}


def test_an_experiment_with_another_setting_runs_its_notebook_and_moves_its_metrics(reproduced, tmp_path):
    copy = Copy(tmp_path / "robustgen")
    shutil.copytree(reproduced.home, copy.home, symlinks=True)
    copy.run("git", "add", "--all")
    copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "As cloned")
    summary = copy.home / "results/test/summary.json"
    before = json.loads(summary.read_text())
    done = copy.run("dvc", "exp", "run", "-S", "params/test/he_pgd.yaml:images=6", "report@test")
    after = json.loads(summary.read_text())
    assert "Running stage 'he_pgd@test'" in done.stdout and "Running stage 'train" not in done.stdout
    assert [name for name in before if before[name] != after[name]] == ["he_pgd"]
    assert json.loads((copy.home / "results/test/metrics/he_pgd.json").read_text())["settings"]["images"] == 6


def test_papermill_takes_a_profile_and_any_key(reproduced, tmp_path):
    out, copy = tmp_path / "out.ipynb", reproduced.beside(tmp_path / "robustgen")
    copy.run("papermill", "notebooks/1_spectral_mnist.ipynb", str(out), "-p", "profile", "test", "-p", "images", "4")
    text = out.read_text()
    assert "images=4" in text and "holds?" in text


def test_papermill_refuses_an_unknown_key(reproduced, tmp_path):
    done = reproduced.run("papermill", "notebooks/1_spectral_mnist.ipynb", str(tmp_path / "out.ipynb"), "-p", "profile",
                          "test",
                  "-p", "imges", "4", check=False)
    assert done.returncode and "parameter 'imges' does not exist; did you mean 'images'?" in done.stderr


def test_a_notebook_without_checkpoints_names_the_command(reproduced, tmp_path):
    done = reproduced.run("papermill", "notebooks/1_spectral_mnist.ipynb", str(tmp_path / "out.ipynb"), "-p", "profile",
                          "gpu",
                  check=False)
    assert done.returncode and "is missing; make it with: make repro PROFILE=gpu, or this run alone:" in done.stderr


def test_the_notebook_runs_from_its_own_folder(reproduced, tmp_path):
    """As JupyterLab does: working directory notebooks/, the profile set in the parameters cell."""
    copy = reproduced.beside(tmp_path / "robustgen")
    home = copy.home
    notebook = nbformat.read(home / "notebooks/1_spectral_mnist.ipynb", 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('"laptop"', '"test"')
    nbformat.write(notebook, home / "notebooks/mine.ipynb")
    copy.run("jupyter", "execute", "mine.ipynb", "--inplace", cwd=home / "notebooks")
    assert "holds?" in (home / "notebooks/mine.ipynb").read_text()


def test_notebook_1_needs_no_float64_of_its_device(reproduced, tmp_path):
    """All on a device that has none, as Apple's: the same values and verdicts as on the CPU."""
    copy = reproduced.beside(tmp_path / "robustgen")
    shutil.copytree(ROOT / "tests", copy.home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    copy.run(sys.executable, "tests/devices_notebook.py", "notebooks/1_spectral_mnist.ipynb")
    sides = [read_metrics(home / "results/test/spectral_mnist") for home in (reproduced.home, copy.home)]
    found = compare_metrics(*sides, ("the CPU", "the device"))
    assert found.counts.total() > 50 and not found.problems(), found.text("notebook 1")
