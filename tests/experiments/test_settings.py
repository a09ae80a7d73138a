import dataclasses
import re

import pytest
import torch
import yaml

from robustgen.experiments.settings import NOTEBOOKS, load_settings
from robustgen.models.builders import build_model
from robustgen.training.registry import build_objective
from robustgen.training.runs import load_run, run_names
from robustgen.utils import paths
from robustgen.utils.profiles import profile_names, select_profile
from robustgen.zoo.trained import load_net

PROFILES = ["gpu", "laptop", "paper", "test"]


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Write a changed copy of a settings file and read it through the library."""
    def change(file, edit):
        settings = yaml.safe_load((paths.PARAMS / "test" / file).read_text())
        edit(settings)
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / file).write_text(yaml.safe_dump(settings))
        monkeypatch.setattr(paths, "PARAMS", tmp_path)
    return change


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_has_the_same_keys(profile):
    assert profile_names() == PROFILES
    assert run_names(profile) == run_names("laptop")
    for name in NOTEBOOKS:
        assert dataclasses.is_dataclass(load_settings(profile, name))
    for name in run_names(profile):
        members = load_run(profile, name).members().values()
        assert all(run.images is None or run.images >= run.batch for run in members)
        with torch.device("meta"):   # neither time nor memory for weights
            for run in {repr((run.model, run.objective)): run for run in members}.values():   # seeds make no difference
                build_objective(build_model(**run.model), **run.objective)


def test_a_family_may_be_empty_and_loading_from_it_is_one_sentence():

    assert load_run("test", "imagenette-standard").members() == {}
    assert len(load_run("gpu", "imagenette-standard").members()) == 3
    with pytest.raises(ValueError,
                       match="imagenette-standard has no nets in profile 'test'; choose another profile, or"):
        load_net("imagenette-standard", "test")


@pytest.mark.parametrize("change, message", [
    ({"start": "perlinn"}, "'strips.0.start' is 'perlinn': it should be 'gaussian' or 'perlin'"),
    ({"steps": 0}, "'strips.0.steps' is 0: it should be greater than or equal to 1"),
    ({"sigma": 1.0}, "strips.0.sigma"),
])
def test_a_wrong_strip_is_told(params, change, message):
    params("pgdd_imagenet.yaml", lambda settings: settings["strips"][0].update(change))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_settings("test", "pgdd_imagenet")


@pytest.mark.parametrize("change, message", [
    ({"attack_images": 30}, "'attack_images' is 30, of 20 'test_images'; lower it, or raise 'test_images'"),
    ({"limit_sigmas": [1, 50]}, "'limit_sigmas' is .1.0, 50.0.: it should fall"),
    ({"eps_linf": [0.03, 0.01]}, "'eps_linf' is .0.03, 0.01.: it should rise"),
    ({"grid_sigmas": [10, 20]}, "'grid_sigmas' should begin with 0"),
    ({"sigmas": [0]}, "'sigmas.0' is 0: it should be greater than 0"),
])
def test_settings_of_notebook_3_that_do_not_fit_together_are_told(change, message):
    with pytest.raises(ValueError, match=f"params/test/gradresnet_cifar.yaml: {message}"):
        load_settings("test", "gradresnet_cifar", **change)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings("test", "spectral_mnist").k = 3


def test_members_differ_in_the_named_setting():
    members = load_run("laptop", "mnist-l2").members()
    assert [run.objective["eps"] for run in members.values()] == [0.25, 0.5, 1.0]
    assert list(members) == ["eps=0.25", "eps=0.5", "eps=1.0"]


def test_of_several_settings_every_combination_is_a_net(params):
    over = {"ablation": {"narrow": {"model.width": 4}, "whole": {}}, "objective.eps": [0.5, 1.0], "seed": [0, 7]}
    params("train.yaml", lambda s: s["mnist-robust"].update(over=over))
    run = load_run("test", "mnist-robust")
    members = run.members()
    assert list(members) == [f"ablation={label},eps={eps},seed={seed}"
                             for label in ("narrow", "whole") for eps in (0.5, 1.0) for seed in (0, 7)]
    for name, net in members.items():
        label, eps, seed = (part.partition("=")[2] for part in name.split(","))
        assert (net.objective["eps"], net.seed) == (float(eps), int(seed))
        assert net.model == run.model | ({"width": 4} if label == "narrow" else {})
        # nothing else differs
        assert dataclasses.replace(net, objective=run.objective, model=run.model, seed=run.seed) == run


def test_a_grid_with_a_setting_of_no_values_is_empty(params):
    params("train.yaml", lambda s: s["mnist-robust"].update(over={"objective.eps": [0.5, 1.0], "seed": []}))
    assert load_run("test", "mnist-robust").members() == {}


@pytest.mark.parametrize("call, message", [
    (lambda: load_settings("labtop", "spectral_mnist"),
     "profile 'labtop' does not exist; did you mean 'laptop'? (there are: gpu, laptop, paper, test)"),
    (lambda: load_settings("test", "spectral_mnits"),
     "notebook 'spectral_mnits' does not exist; did you mean 'spectral_mnist'?"),
    (lambda: load_run("test", "mnist-standart"), "run 'mnist-standart' does not exist; did you mean 'mnist-standard'?"),
    (lambda: load_settings("test", "spectral_mnist", imges=3),
     "params/test/spectral_mnist.yaml: parameter 'imges' does not exist; did you mean 'images'?"),
    (lambda: load_settings("test", "spectral_mnist", images="ten"),
     "params/test/spectral_mnist.yaml: 'images' is 'ten': it should be a valid integer"),
    (lambda: load_settings("test", "spectral_mnist", sigma=0.0),
     "params/test/spectral_mnist.yaml: 'sigma' is 0.0: it should be greater than 0"),
    (lambda: load_settings("test", "spectral_mnist", sigma=float("nan")),
     "params/test/spectral_mnist.yaml: 'sigma' is nan: it should be"),
    (lambda: select_profile("gpus"), "profile 'gpus' does not exist; did you mean 'gpu'?"),
])
def test_a_wrong_name_type_or_range_is_one_sentence(call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_wrong_key_in_a_file_is_told_with_file_and_key(params):
    params("spectral_mnist.yaml", lambda s: s.update(seed=[0]))
    with pytest.raises(ValueError, match="spectral_mnist.yaml: parameter 'seed' does not exist"):
        load_settings("test", "spectral_mnist")


def test_a_missing_key_is_told(params):
    params("spectral_mnist.yaml", lambda s: s.pop("k"))
    with pytest.raises(ValueError, match="parameter 'k' is missing; add it"):
        load_settings("test", "spectral_mnist")


@pytest.mark.parametrize("edit, message", [
    (lambda s: s["mnist-robust"].update(over={"sead": [0]}),
     "over: setting 'sead' does not exist; did you mean 'seed'"),
    (lambda s: s["mnist-robust"].update(over={"seed": [0], "lr": [1.0]}), "over: setting 'lr' does not exist"),
    (lambda s: s["mnist-robust"].update(over={"seed": [0, 1], "objective.eps": [0.5, 0.5]}),
     "over: 'objective.eps' has a value twice"),
    (lambda s: s["mnist-robust"].update(over={"seed": [0], "objective.eps": [0.5, "0.5"]}),
     "over: two nets of the family would both be named 'eps=0.5'; give one another label"),
    (lambda s: s["mnist-robust"].update(over={"objective.eps": [0.5, 1.0], "eps": {"0.5": {"seed": 1}}}),
     "over: two nets of the family would both be named 'eps=0.5'"),
    (lambda s: s["mnist-robust"].update(over={}),
     "train.yaml, mnist-robust: 'over' must name a setting, such as seed: .0, 1, 2."),
    (lambda s: s["mnist-robust"].update(bound=-1.5), "train.yaml, mnist-robust: 'bound' is -1.5"),
])
def test_a_wrong_run_is_told(params, edit, message):
    params("train.yaml", edit)
    with pytest.raises(ValueError, match=message):
        load_run("test", "mnist-robust")


@pytest.mark.parametrize("spec, message", [
    ({"name": "mnist_cmn"}, "here: model 'mnist_cmn' does not exist; did you mean 'mnist_cnn'?"),
    ({"name": "mnist_cnn", "width": 0, "hidden": 4},
     "here: mnist_cnn: 'width' is 0: it should be greater than or equal to 1"),
])
def test_a_wrong_model_is_told(spec, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        build_model(**spec, source="here")


def test_select_writes_the_switch(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("# The switch\nprofiles: [laptop]\n")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    select_profile("gpu")
    assert (tmp_path / "params.yaml").read_text() == "# The switch\nprofiles: [gpu]\n"
