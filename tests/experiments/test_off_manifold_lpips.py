"""A family's nets under the measures of the off-manifold paper, and what the measures rest on."""

import re

import pandas as pd
import pytest
import scipy.stats
import torch
import yaml
from torch import nn

from robustgen.attacks.evaluation import robust_accuracy
from robustgen.core import rng
from robustgen.data.datasets import CLASSES, Images
from robustgen.experiments.off_manifold_lpips import (
    Reference,
    at_strength,
    family_regimes,
    likeness_measures,
    measure_family,
    rank_correlation,
    regime_starts,
    seed_band,
    strength_trend,
)
from robustgen.metrics import perceptual
from robustgen.metrics.statistics import spearman
from robustgen.models.builders import build_model
from robustgen.models.checkpoints import save_weights
from robustgen.probes import manifold, scores
from robustgen.probes.bayes_optimal import Bayes
from robustgen.probes.gradients import logit_gradient
from robustgen.utils import paths

ARCHITECTURE = {"name": "mnist_cnn", "width": 4, "hidden": 16}
RUN = {"data": "mnist", "images": 300, "flip": False, "crop": 0, "model": ARCHITECTURE,
       "objective": {"name": "GradNorm", "lam": 0.1}, "over": {"objective.lam": [0.1, 1.0], "seed": [0, 1]}, "seed": 0,
       "epochs": 1, "batch": 50, "optimizer": {"name": "SGD", "lr": 0.03}, "schedule": {"name": "constant"},
       "bound": 1000.0, "test_images": 100, "snapshots": False, "weights": "float32", "precision": "32-true",
       "compile": False, "channels_last": True}
RADII = [0.5, 2.0]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A root of its own with a family of four nets, not trained, one that differs in the strength alone, and one in the
    seed alone."""
    for name in ("params", "results"):
        monkeypatch.setattr(paths, name.upper(), tmp_path / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "params/small").mkdir(parents=True)
    runs = {"grid": RUN, "strengths": RUN | {"over": {"objective.lam": [1.0, 2.0]}},
            "seeds": RUN | {"over": {"seed": [0, 1]}}}
    (tmp_path / "params/small/train.yaml").write_text(yaml.safe_dump(runs))
    names = ["lam=0.1,seed=0", "lam=0.1,seed=1", "lam=1.0,seed=0", "lam=1.0,seed=1"]
    for run, members in {"grid": names, "strengths": ["lam=1.0", "lam=2.0"], "seeds": ["seed=0", "seed=1"]}.items():
        for i, member in enumerate(members):
            state = build_model(**ARCHITECTURE, generator=i, initialisation="he").state_dict()
            save_weights(state, paths.RESULTS / f"small/checkpoints/{run}/{member}.safetensors", ARCHITECTURE)
    return tmp_path


@pytest.fixture
def judged():
    x = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(20) % 10, CLASSES["mnist"])


@pytest.fixture
def given(judged):
    """What a survey of the first six of these images takes."""
    x, y = judged[:6].unit, judged[:6].y
    map = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    basis = manifold.orthonormal(torch.randn(6, 4, 1, 28, 28, generator=torch.Generator().manual_seed(2)))
    return dict(x=x, y=y, judged=judged, bases={"own": basis}, radii=RADII, radius=2.0, draws=3,
                references={"noise": Reference(map, "all")}, alike={"cosine": perceptual.cosine}, generator=0)


def test_a_family_has_a_row_a_net_from_the_weakest_with_the_means_over_images(project, given):
    x, y, basis = given["x"], given["y"], given["bases"]["own"]
    other, mask = basis.roll(1, 0), (torch.arange(28) < 14).float()
    attack = dict(norm="l2", eps=0.5, step_size=0.2, steps=3)
    references = {kind: Reference(given["references"]["noise"].map, kind) for kind in ("all", "label", "log-odds")}
    changes = {"references": references, "bases": {"own": basis, "other": other}}
    frame = measure_family("grid", "small", **given | changes, attack=attack, mask=mask)
    assert list(frame.columns) == ["run", "strength", "seed", "accuracy", "zero gradients", "on @ 0.5", "off @ 0.5",
                                   "on @ 2", "off @ 2", "rho_2", "on @ 2, other", "off @ 2, other", "rho_2, other",
                                   "on mask", "cosine, all", "cosine, label", "cosine, log-odds", "robust accuracy"]
    assert (frame.run == "grid").all() and frame.strength.tolist() == [0.1, 0.1, 1.0, 1.0]
    assert frame.seed.tolist() == [0, 1, 0, 1]
    for i, row in frame.iterrows():
        net = build_model(**ARCHITECTURE, generator=i, initialisation="he").eval().requires_grad_(False)
        right = net(given["judged"].unit).argmax(1) == given["judged"].y
        assert row.accuracy == right.double().mean().item() and row["zero gradients"] == 0
        for side, values in zip(("on", "off"), manifold.sensitivity(net, x, basis, radii=RADII, draws=3, generator=0)):
            assert [row[f"{side} @ {r:g}"] for r in RADII] == pytest.approx(values.mean(0).tolist(), rel=1e-4)
        maps = {"all": lambda z: net(z).sum(), "label": lambda z: net(z)[range(6), y].sum(),
                "log-odds": lambda z: torch.logit(net(z).softmax(1)[range(6), y]).sum()}
        for kind, function in maps.items():
            z = x.clone().requires_grad_()
            g, = torch.autograd.grad(function(z), z)
            expected = nn.functional.cosine_similarity(g.flatten(1), references[kind].map.flatten(1)).mean().item()
            assert row[f"cosine, {kind}"] == pytest.approx(expected, rel=1e-3, abs=1e-5), kind
        # of the last, the log-odds
        assert row.rho_2 == pytest.approx(manifold.rho_on(g, basis).mean().item(), rel=1e-4)
        assert row["rho_2, other"] == pytest.approx(manifold.rho_on(g, other).mean().item(), rel=1e-4)
        share = g[..., :14].square().sum((1, 2, 3)) / g.square().sum((1, 2, 3))
        assert row["on mask"] == pytest.approx(share.mean().item(), rel=1e-4)
        on = manifold.sensitivity(net, x, other, radii=[2.0], draws=3, generator=0)[0]
        assert row["on @ 2, other"] == pytest.approx(on.mean().item(), rel=1e-4)
        assert row["robust accuracy"] == robust_accuracy(net, x, y, **attack)


def test_images_without_a_gradient_are_counted_and_left_out_of_the_means(project, given):
    """At a black image every unit of these nets, whose biases are zero, rests at its kink, where torch's derivative is
    zero."""
    given["x"][[1, 4]] = 0
    frame = measure_family("grid", "small", **given)
    assert frame["zero gradients"].tolist() == [2, 2, 2, 2] and not frame.isna().any(axis=None)
    rest = torch.tensor([0, 2, 3, 5])
    few = {key: given[key][rest] for key in ("x", "y")} | {"bases": {"own": given["bases"]["own"][rest]}}
    references = {"noise": Reference(given["references"]["noise"].map[rest], "all")}
    alone = measure_family("grid", "small", **given | few | {"references": references})
    for column in ("rho_2", "cosine, noise"):
        assert frame[column].tolist() == pytest.approx(alone[column].tolist(), rel=1e-4)


def test_an_image_that_lacks_any_of_the_gradients_is_counted(project, given):
    """Logits w, -w, 0, ...: their sum is flat, their log-odds are not."""
    state = build_model(**ARCHITECTURE, generator=0, initialisation="he").state_dict()
    last = state[list(state)[-2]]
    last[1], last[2:] = -last[0], 0
    save_weights(state, paths.RESULTS / "small/checkpoints/strengths/lam=1.0.safetensors", ARCHITECTURE)
    frame = measure_family("strengths", "small", **given)
    assert frame["zero gradients"].tolist() == [6, 0] and frame["cosine, noise"].isna().tolist() == [True, False]
    assert frame.rho_2.notna().all()


def test_without_tangent_spaces_or_an_attack_their_columns_are_left_out(project, given):
    frame = measure_family("grid", "small", **given | {"bases": {}})
    columns = ["run", "strength", "seed", "accuracy", "zero gradients", "cosine, noise"]
    assert list(frame.columns) == columns and len(frame) == 4


@pytest.mark.parametrize("run, strengths, seeds", [("strengths", [1.0, 2.0], [0, 0]), ("seeds", [0, 1], [0, 1])])
def test_a_family_over_one_setting_has_a_row_a_net(project, given, run, strengths, seeds):
    frame = measure_family(run, "small", **given | {"bases": {}})
    assert frame.strength.tolist() == strengths and frame.seed.tolist() == seeds


# How alike maps are

def test_the_measures_are_lpips_the_cosine_and_deep_features_each_of_normalised_maps():
    net = build_model("resnet10", width=4, generator=0).eval()
    found = likeness_measures("alex", net, ["6"])
    assert list(found) == ["1 − LPIPS", "cosine", "1 − deep-feature distance"]
    a, b = (torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.allclose(found["cosine"](a, b), nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)))
    for name, distance in (("1 − LPIPS", perceptual.load_lpips("alex")),
                           ("1 − deep-feature distance", perceptual.feature_distance(net, ["6"]))):
        expected = 1 - distance(perceptual.max_normalised(a), perceptual.max_normalised(b))
        assert torch.allclose(found[name](7 * a, b), expected)
    for measure in found.values():
        assert torch.allclose(measure(a, 5 * a), torch.ones(3)) and (measure(a, b) < 0.999).all()
        assert measure(torch.cat([0 * a[:1], a[1:]]), b).isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("c", [None, torch.tensor([2, 0, 1, 1])])
def test_the_logit_gradient_is_autograds_and_of_a_linear_model_its_weights(c):
    w = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    linear[1].weight.data = w
    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    expected = w.sum(0).expand(4, 12) if c is None else w[c]
    assert torch.allclose(logit_gradient(linear, x, c), expected.view(4, 3, 2, 2), atol=1e-6)
    net, z = build_model("resnet10", width=4, generator=0).eval(), x.repeat(1, 1, 4, 4).requires_grad_()
    logits = net(z)
    gradient, = torch.autograd.grad(logits.sum() if c is None else logits[range(4), c].sum(), z)
    assert torch.allclose(logit_gradient(net, z, c), gradient, atol=1e-6)
    assert all(p.grad is None for p in net.parameters())


def test_a_wrong_class_of_a_logit_is_told():
    with pytest.raises(ValueError, match="labels must lie in 0..9"):
        logit_gradient(build_model("resnet10", width=4, generator=0).eval(), torch.rand(1, 3, 8, 8), torch.tensor([10]))


# Smoothed scores

@pytest.fixture
def clean():
    return 0.4 + 0.2 * torch.rand(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("c", [None, torch.tensor([0, 1, 1, 0])])
def test_the_smoothed_score_is_the_mean_of_its_formula(clean, c):
    model, sigma = Bayes(clean, torch.tensor([0, 1, 0, 1]), sigma=40.0), 40.0
    found = scores.smoothed_score(model, clean, sigma, c, draws=5, generator=0)
    seeds = rng.seeds(0, 4)
    noisy = [clean + sigma / 255 * rng.normal(rng.fold(seeds, draw), (3, 4, 4)).double() for draw in range(5)]
    expected = torch.stack([(model.denoise(y, torch.full((4,), sigma), c) - clean) / (sigma / 255) ** 2
                            for y in noisy]).mean(0)
    assert torch.allclose(found, expected)
    alone = scores.smoothed_score(model, clean[2:], sigma, c if c is None else c[2:], draws=5, generator=seeds[2:])
    assert torch.allclose(found[2:], alone)   # the noise is an image's own


def test_of_a_linear_denoiser_the_smoothed_score_is_the_score_itself(clean):
    """Of the Bayes object with one image, D(y) = x0: (x0 - x) / sigma^2 without any spread. Where D is D(y) = a y, its
    noise averages out."""
    one = Bayes(clean[:1], torch.zeros(1, dtype=torch.int64), sigma=40.0)
    assert torch.allclose(scores.smoothed_score(one, clean, 40.0, draws=2, generator=0),
                          (clean[:1] - clean) / (40 / 255) ** 2)

    class Shrink(nn.Module):
        def denoise(self, y, sigma):
            return 0.7 * y

    found = scores.smoothed_score(Shrink(), clean, 20.0, draws=4000, generator=0)
    spread = 0.7 / (20 / 255) / 4000**0.5
    assert (found + 0.3 * clean / (20 / 255) ** 2).abs().max() < 5 * spread


def test_the_smoothed_score_of_two_images_is_near_its_closed_form(clean):
    """Of images +-d about m, D(m + s n) = m + d tanh(<d, s n> / s^2), whose mean at m is m: there the smoothed score is
    zero; at m + d it points back."""
    d = 0.05 * torch.ones(1, 3, 4, 4, dtype=torch.float64)
    m, sigma = clean[:1], 100.0
    model = Bayes(torch.cat([m - d, m + d]), torch.tensor([0, 1]), sigma=sigma)
    x = torch.cat([m, m + d])
    found = scores.smoothed_score(model, x, sigma, draws=4000, generator=0)
    t = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    s, norm = sigma / 255, d.norm()
    weight = torch.exp(-t**2 / 2) / torch.exp(-t**2 / 2).sum()
    for i, start in enumerate((0.0, 1.0)):
        mean = (weight * torch.tanh((start * norm**2 + norm * s * t) / s**2)).sum()   # E of d's weight, by quadrature
        assert torch.allclose(found[i], ((mean - start) * d / s**2)[0], atol=4 * 0.05 / s**2 / 4000**0.5)


# Frames

@pytest.mark.parametrize("n, levels", [(10, None), (30, 5), (2, None)], ids=["distinct", "ties", "two"])
def test_rank_correlations_are_scipys(n, levels):
    a, b = (torch.rand(4, 3, n, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    if levels:
        a, b = (a * levels).floor(), (b * levels).floor()
    found = spearman(a, b)
    assert found.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            expected = scipy.stats.spearmanr(a[i, j].numpy(), b[i, j].numpy()).statistic
            assert found[i, j].item() == pytest.approx(expected, abs=1e-9)
            assert spearman(a[i, j], b[i, j]).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("a, b, expected", [
    ([1, 2, 3, 4], [10, 100, 1000, 10000], 1), ([1, 2, 3], [5, 4, -4], -1), ([1, 1, 1], [1, 2, 3], torch.nan),
    ([0.1, 0.2], [3, 3], torch.nan)])
def test_rank_correlations_of_a_few_numbers(a, b, expected):
    assert spearman(a, b).item() == pytest.approx(expected, nan_ok=True)


def test_nan_is_no_rank():
    assert spearman([1.0, 2.0, torch.nan], [1.0, 2.0, 3.0]).isnan()


def test_a_correlation_is_over_objectives_and_strengths_with_seeds_averaged():
    cells = ((0.1, 0.0, 1.0), (1.0, 1.0, 3.0), (2.0, 2.0, 2.0), (4.0, torch.nan, 9.0))   # strength, a, b
    rows = [(objective, strength, seed, a + wobble, b) for objective in "pq" for strength, a, b in cells
            for seed, wobble in ((0, -50.0), (1, 50.0))]
    frame = pd.DataFrame(rows, columns=["objective", "strength", "seed", "a", "b"])
    value, low, high = rank_correlation(frame, "a", "b")
    assert value == pytest.approx(scipy.stats.spearmanr([0, 1, 2] * 2, [1, 3, 2] * 2).statistic)
    assert -1.001 < low <= value <= high < 1.001
    trend = scipy.stats.spearmanr(frame[:8].b, frame[:8].strength).statistic
    assert strength_trend(frame, "b") == {name: pytest.approx(trend) for name in "pq"}
    assert at_strength(frame, 1.0, "b") == [3.0] * 4
    x, mean, (least, greatest) = seed_band(frame[frame.objective == "p"], "a")
    assert x.tolist() == [0.1, 1.0, 2.0, 4.0] and mean[:3].tolist() == [0, 1, 2]
    assert least[0] == -50 and greatest[0] == 50


def test_an_unknown_gradient_is_told():
    with pytest.raises(ValueError, match="gradient 'lable' does not exist; did you mean 'label'"):
        Reference(torch.zeros(1, 1, 2, 2), "lable")


def test_a_familys_regimes_are_those_of_the_means_over_seeds_and_each_begins_at_its_least_strength():
    weak, aligned, excessive = manifold.REGIMES
    levels = ((0.1, 1.0, 1.5), (1.0, 1.0, 0.6), (2.0, 0.9, 0.2), (8.0, 0.3, 0.1))
    rows = [(strength, seed, on + wobble, off - wobble) for strength, on, off in levels
            for seed, wobble in ((0, -0.5), (1, 0.5))]
    # in any order
    frame = pd.DataFrame(rows, columns=["strength", "seed", "on @ 0.5", "off @ 0.5"]).sample(frac=1, random_state=0)
    frame["run"], frame["on @ 4"], frame["off @ 4"] = "family", 1.0, 2.0
    found = family_regimes(frame, 0.5)
    assert found == {0.1: weak, 1.0: aligned, 2.0: aligned, 8.0: excessive} and list(found) == [0.1, 1.0, 2.0, 8.0]
    assert regime_starts(found) == {weak: 0.1, aligned: 1.0, excessive: 8.0}
    assert family_regimes(frame, 4.0) == dict.fromkeys(found, weak)
    assert regime_starts(family_regimes(frame, 4.0)) == {weak: 0.1}


def test_a_missing_net_is_told_with_its_remedy(project, given):
    (paths.RESULTS / "small/checkpoints/grid/lam=1.0,seed=0.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("lam=1.0,seed=0.safetensors is missing; make it with")):
        measure_family("grid", "small", **given)
