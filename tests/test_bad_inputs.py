"""Bad input to what users call: each is refused in one sentence that names what came and what to do."""

import re

import pytest
import torch
from torch import nn

import robustgen as rg
from conftest import ROOT
from public_calls import setting
from robustgen.__main__ import main
from robustgen.attacks import evaluation, gradient_based, square
from robustgen.experiments.settings import load_settings
from robustgen.metrics import frechet, labels, perceptual, similarity, statistics
from robustgen.models import inference
from robustgen.models.builders import build_model
from robustgen.probes import manifold, scores, spectral
from robustgen.sampling import diffusion, starts
from robustgen.training.registry import build_objective
from robustgen.training.runs import load_run
from robustgen.utils import paths, profiles
from robustgen.zoo import edm, hub
from robustgen.zoo.trained import training_record

PGD = dict(norm="linf", eps=0.1, step_size=0.05, steps=2)
PGDD = dict(drift_noise=0.2, diffusion_noise=0.01, eps=1.0, step_size=0.3, steps=2)
LANGEVIN = dict(steps=2, step_size=0.1, noise=0.01)


def pgd(x=None, y=None, model=None, **changes):
    """A call of rg.pgd with something else than it takes: given, or made of the setting `s`."""
    def call(s):
        given = [of(s) if callable(of) and not isinstance(of, nn.Module) else default if of is None else of
                 for of, default in ((x, s.x), (y, s.y))]
        return rg.pgd(s.net if model is None else model(s), *given, **PGD | changes)
    return call


def within(kind):
    """A call of rg.pgd within a context."""
    def call(s):
        with kind():
            pgd()(s)
    return call


def training(s):
    return s.net.train()


# A call with the nets and images of `setting`, and of the sentence in which it is refused what tells it from others.
CALLS = [
    # images
    (pgd(x=lambda s: s.x[0]), r"images must be a tensor of shape \(B, C, H, W\), got \(3, 10, 10\)"),
    (pgd(x=lambda s: s.x.numpy()), "images must be a tensor of shape .*, got ndarray"),
    (pgd(x=lambda s: s.x[:0]), "the batch of images is empty"),
    (pgd(x=lambda s: (s.x * 255).byte()), r"floats in \[0, 1\], got torch.uint8. Use .float\(\) / 255"),
    (pgd(x=lambda s: s.x * 255), "these reach from .* Divide by 255 first"),
    (pgd(x=lambda s: (s.x - 0.5) / 0.3), "Undo the normalisation: it belongs inside the model"),
    (pgd(x=lambda s: s.x.masked_fill(s.x > 0.99, torch.nan)), "NaN or infinite pixels. Find where they arise"),
    (pgd(x=lambda s: s.x + torch.inf), "NaN or infinite pixels"),
    (pgd(x=lambda s: s.x[:, :1]), "the net takes images of 3 channels, got 1; repeat a single one"),
    (pgd(x=lambda s: s.x[:, :1], model=lambda s: s.net.net), "the model does not take images of shape"),
    (pgd(x=lambda s: s.x.double()[..., :9]), "the model does not take images of shape"),
    (pgd(x=lambda s: s.x.double(), model=lambda s: s.net.net),
     "the model does not take images of shape .* torch.float64"),
    # labels
    (pgd(y=lambda s: s.y.float()), r"labels must be int64 of shape \(6,\), got torch.float32 \(6,\)"),
    (pgd(y=lambda s: s.y.int()), "labels must be int64"),
    (pgd(y=lambda s: s.y[:5]), r"labels must be int64 of shape \(6,\), got torch.int64 \(5,\)"),
    (pgd(y=lambda s: s.y[:, None]), r"labels must be int64 of shape \(6,\), got torch.int64 \(6, 1\)"),
    (pgd(y=lambda s: s.y + 1), "labels must lie in 0..4, as the model has 5 logits; these reach from 1 to 5"),
    (pgd(y=lambda s: s.y - 1), "labels must lie in 0..4"),
    (pgd(y=lambda s: s.y.numpy()), "labels must be int64 of shape .*, got ndarray"),
    (pgd(y=lambda s: s.y.tolist()), "labels must be int64 of shape .*, got list"),
    # models
    (pgd(model=lambda s: "resnet10"), "the model is a str: it should be a net, or a function of images"),
    (pgd(model=lambda s: lambda x: s.net(x).softmax(1)), "the model returns probabilities.*leave out its softmax"),
    (pgd(model=lambda s: lambda x: s.net(x).log_softmax(1)), "the model returns log-probabilities.*leave out its"),
    (pgd(x=lambda s: s.x[:1], y=lambda s: s.y[:1], model=lambda s: lambda x: s.net(x).log_softmax(1)),
     "the model returns log-probabilities"),
    (pgd(model=lambda s: lambda x: s.net(x)[:, :1]), "the model returns one logit"),
    (pgd(model=lambda s: lambda x: s.net(x).round().long()), "logits as floats, got torch.int64"),
    (pgd(model=lambda s: lambda x: s.net(x).argmax(1)), r"the model must return logits of shape \(B, K\)"),
    (pgd(model=lambda s: lambda x: (s.net(x), x)), r"the model must return logits of shape \(B, K\)"),
    (pgd(model=lambda s: lambda x: s.net(x) * torch.nan), "the model's logits are not finite"),
    (pgd(model=training), r"in train mode; call model.eval\(\) first"),
    (within(torch.inference_mode), r"inference_mode\(\) forbids the gradients .*; use torch.no_grad\(\)"),
    # numbers and names
    (pgd(eps=8.0), "'eps' is 8.0: in the max norm it should be at most 1.*divide by 255"),
    (pgd(eps=float("nan")), "pgd: 'eps' is nan: it should be a finite number"),
    (pgd(eps=-0.1), "'eps' is -0.1: it should be greater than 0"),
    (pgd(eps=0), "'eps' is 0: it should be greater than 0"),
    (pgd(eps=float("inf")), "'eps' is inf: it should be a finite number"),
    (pgd(eps="8/255"), "'eps' is '8/255': it should be a valid number"),
    (pgd(eps=True), "'eps' is True: it should be a valid number"),
    (pgd(eps=torch.full((6, 1, 1, 1), 0.1)), r"'eps' is tensor\(.*: it should be a valid number"),
    (pgd(steps=0), "'steps' is 0: it should be greater than or equal to 1"),
    (pgd(steps=2.5), "'steps' is 2.5: it should be a valid integer"),
    (pgd(steps=None), "'steps' is None: it should be a valid integer"),
    (pgd(norm="l1"), "'norm' is 'l1': it should be 'linf' or 'l2'"),
    (pgd(random_start=1), "'random_start' is 1: it should be True or False"),
    (pgd(epz=0.1), "parameter 'epz' does not exist; did you mean 'eps'"),
    (lambda s: rg.pgd(s.net, s.x, s.y, norm="l2"), "parameter 'eps' is missing; add it"),
    (lambda s: rg.pgd(s.net, s.x, s.y, 0.1), "pgd: too many positional arguments; give .*by name"),
    (pgd(generator="seed", random_start=True), "generator is a str: it should be a torch.Generator, an int"),
    (pgd(generator=torch.arange(5), random_start=True), "generator should be one int64 seed for each of 6 images"),
    (pgd(generator=2**70, random_start=True), "generator is 1180591620717411303424: it should"),
    (lambda s: rg.he_pgd(s.net, s.x, s.y, lam=-1), "he_pgd: 'lam' is -1: it should be greater than or equal to 0"),
    (lambda s: gradient_based.balancing_lam(s.net, s.x[:1], s.y[:1]), "at least two images' energies, got 1"),
    (lambda s: rg.robust_accuracy(s.net, s.x, s.y, **PGD | {"batch": 0}), "'batch' is 0"),
    (lambda s: rg.autoattack(s.net, s.x, s.y, norm="l2", eps=0.0), "autoattack: 'eps' is 0.0"),
    (lambda s: square.square_attack(s.net, s.x[..., :4], s.y, norm="l2", eps=1.0, queries=2),
     "does not take images|5 x 5 tiles, which do not fit"),
    (lambda s: evaluation.accuracy(s.net, s.x, s.y[:2]), "labels must be int64"),
    # probes
    (lambda s: rg.spectrum(s.net, s.x, 6), r"at most 5 nonzero eigenvalues; k = 6 must lie in 1..5"),
    (lambda s: rg.spectrum(s.net, s.x, method="power"), "'method' is 'power': it should be 'exact', 'subspace' or"),
    (lambda s: rg.energy_ratio(s.net, s.x, n_draws=0), "'n_draws' is 0"),
    (lambda s: spectral.linearisation(s.net, s.x, radii=[]), "'radii' is .*: it should be a list with at least one"),
    (lambda s: spectral.power_law(torch.zeros(2, 5)), "at least three positive eigenvalues; leave out"),
    (lambda s: rg.energy_landscape(s.net, s.x, s.y, radius=1.0, points=4), "'points' is 4: it should be odd"),
    (lambda s: rg.energy_landscape(lambda x: torch.cat([x, -x], 1).flatten(1), s.x[:, :1, :1, :1], s.y % 2, radius=1.0),
     "images of a single number have no plane of directions; give larger ones"),
    (lambda s: rg.denoise(s.net, s.noisy, 25), "has no denoising head; choose one of"),
    (lambda s: rg.denoise(s.joint, s.noisy[:, :1], 25), "the model does not take images of shape"),
    (lambda s: rg.denoise(s.joint, s.noisy * 255, 25), "Divide images of 0-255 by 255"),
    (lambda s: rg.denoise(s.joint, s.noisy, 0), "sigma must be positive, in 0-255 units such as 25; got 0"),
    (lambda s: rg.denoise(s.joint, s.noisy, float("nan")), "sigma must be positive"),
    (lambda s: rg.denoise(s.joint, s.noisy, "25"), "sigma must be .*got '25'"),
    (lambda s: rg.denoise(s.joint, s.noisy, torch.full((5,), 25.0)), "sigma must be a number or one for each of 6"),
    (lambda s: rg.denoise(s.joint, s.noisy, 25, s.y + 10), "labels must lie in 0..9"),
    (lambda s: scores.log_density(s.net, s.x), r"has no density log p\(y, c\); choose a gradresnet"),
    (lambda s: rg.score(s.joint, s.noisy, -1), "sigma must be positive"),
    (lambda s: diffusion.ancestral(s.joint, s.noisy.detach(), torch.tensor([5.0, 25.0])), "must be positive and fall"),
    (lambda s: manifold.rho_off(lambda x: x, s.x, s.basis[:3], sigma=0.1), "the basis is of 3 images"),
    (lambda s: rg.tangent_basis(s.coder.decode, torch.zeros(2, 4), rtol=1.0),
     "'rtol' is 1.0: it should be less than 1"),
    # generation
    (lambda s: rg.pgdd(s.net, s.x, layer="net.9", **PGDD), "layer 'net.9' does not exist; near ones: net"),
    (lambda s: rg.pgdd(lambda x: s.net(x), s.x, layer="net.1", **PGDD),
     "layer 'net.1' was asked of a function, which has no layers"),
    (lambda s: rg.pgdd(s.net, s.x, record=[3], **PGDD), "iteration 3 cannot be recorded, as there are 2 steps"),
    (lambda s: rg.pgdd(s.net, s.x, smoothing_draws=3, **PGDD), "3 smoothing draws without noise are all the same; set"),
    (lambda s: rg.pgdd(s.net, s.x, **PGDD | {"drift_noise": 0}), "'drift_noise' is 0"),
    (lambda s: rg.langevin(s.net, s.x, s.y, energy="marginal", **LANGEVIN), "'energy' is 'marginal'"),
    (lambda s: rg.langevin(s.net, s.x, s.y, **LANGEVIN | {"step_size": 1e300}),
     "chains are not finite; take a smaller"),
    (lambda s: starts.perlin_start(4, (3, 32, 32), cells=0), "'cells' is 0"),
    # metrics
    (lambda s: rg.frechet_distance(torch.rand(1, 8), torch.rand(9, 8)), "at least 2 images, got 1 and 9; add more"),
    (lambda s: rg.frechet_distance(torch.rand(9, 8), torch.rand(9, 7)), "of one length, got 8 and 7"),
    (lambda s: rg.frechet_distance(torch.rand(9, 8) * torch.nan, torch.rand(9, 8)), "features hold NaN or infinite"),
    (lambda s: rg.frechet_distance(s.x, s.x), r"features must be floats of shape \(images, numbers\)"),
    (lambda s: frechet.inception_score(torch.rand(3, 5), splits=4), "splits must be at most the number of images"),
    (lambda s: similarity.nearest(s.x, s.large), "must be of one shape .*; resize one of them"),
    (lambda s: similarity.nearest(s.x[..., :2, :2], s.x[..., :2, :2], count=1),
     "SSIM.* pixels a side.*got 2 x 2; enlarge"),
    (lambda s: similarity.nearest(s.x, s.x, count=7), "count must be at most .*, got 7 of 6; lower it"),
    (lambda s: similarity.two_sample_accuracy(torch.rand(4, 3), torch.rand(9, 3)),
     "'folds' is 5: it should be at least 2 and at most"),
    (lambda s: similarity.two_sample_accuracy(torch.rand(9, 3), torch.rand(9, 3) + torch.nan), "features hold NaN"),
    (lambda s: labels.class_entropy(torch.rand(5)), "classes must be whole numbers from 0 up.*got torch.float32"),
    (lambda s: labels.chance_agreement(s.y[:1], s.y[:1]), "chance needs pairs of images, got 1"),
    (lambda s: labels.agreement(s.y), r"classes must be .*\(starts, trajectories\).*got .*\(6,\)"),
    (lambda s: statistics.bootstrap([]), "values must be of one length, at least 1, got"),
    (lambda s: statistics.auroc(torch.rand(3), torch.rand(3) * torch.nan), "scores .*NaN"),
    (lambda s: perceptual.load_lpips("vgg"), "LPIPS net 'vgg' does not exist; .there are: alex, squeeze"),
    (lambda s: perceptual.load_lpips()(s.x, s.x), "at least 31 x 31 pixels, got .3, 10, 10.; enlarge"),
    (lambda s: perceptual.feature_distance(s.net, "net.0"), "layers must be a list of names, got 'net.0'"),
    (lambda s: perceptual.feature_distance(s.net, ["net.0"])(s.x * 2, s.x), r"maps must lie in \[-1, 1\]"),
    (lambda s: rg.alignment(s.x, s.x[:, :1], perceptual.feature_distance(s.net, ["net.0"])),
     "maps must be two tensors"),
    (lambda s: rg.EnergyDetector(sides="below"), "'sides' is 'below': it should be 'low', 'high' or 'both'"),
    (lambda s: rg.EnergyDetector()(s.net(s.x)), "the detector has no thresholds yet; call fit"),
    (lambda s: rg.EnergyDetector().fit(s.net(s.x).softmax(1), s.net(s.x)), "returns probabilities|probabilities"),
    # nets and data
    (lambda s: rg.Normalized(s.net, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
     "divide those of images of 0-255 by 255"),
    (lambda s: rg.Normalized(s.net, (0.5, 0.5, 0.5), (0.2, 0.2)),
     "3 means and 2 standard deviations; give one of each"),
    (lambda s: rg.Normalized(s.net, (0.5, 0.5, 0.5), (0.2, 0.2, 0)), "std above 0"),
    (lambda s: rg.Normalized(s.net, "imagenet", (0.2, 0.2, 0.2)), "mean is 'imagenet'.*one number a channel"),
    (lambda s: inference.fold_batch_norms(lambda x: x), "only a module has batch norms to fold, got a function"),
    (lambda s: inference.fold_batch_norms(s.net.train()), r"train mode cannot be folded.*; call model.eval\(\)"),
    (lambda s: build_model("resnet11"), "model 'resnet11' does not exist; did you mean 'resnet1"),
    (lambda s: build_model("resnet10", widht=8), "parameter 'widht' does not exist; did you mean 'width'"),
    (lambda s: build_model("resnet10", width=0), "'width' is 0: it should be greater than or equal to 1"),
    (lambda s: build_model("resnet10", generator="0"), "'generator' is '0': it should be a valid integer"),
    (lambda s: build_objective(s.net, "AdversarialCE", norm="l2", eps=-1.0, step_size=0.1, steps=1, random_start=False),
     "AdversarialCE: 'eps' is -1.0"),
    (lambda s: rg.load_data("minst", "train"), "dataset 'minst' does not exist; did you mean 'mnist'"),
    (lambda s: rg.load_data("mnist", "validation"), "split 'validation' does not exist; .there are: train, test"),
    (lambda s: rg.load_data("mnist", "test", 10_001),
     "mnist has 10000 test images; 10001 cannot be drawn. Choose 1 to"),
    (lambda s: rg.load_data("mnist", "test", 0), "'n' is 0: it should be greater than or equal to 1"),
    (lambda s: rg.load_data("mnist", "test", "10"), "'n' is '10': it should be a valid integer"),
    (lambda s: rg.load_data("mnist", "test", 10, seed=None), "'seed' is None: it should be a valid integer"),
    # the zoo
    (lambda s: rg.load_net("mnist-rubust", "laptop"), "run 'mnist-rubust' does not exist; did you mean 'mnist-robust'"),
    (lambda s: rg.load_net("mnist-robust", "labtop"), "profile 'labtop' does not exist; did you mean 'laptop'"),
    (lambda s: rg.load_net("mnist-robust", "laptop", seed=99), "member 'seed=99' does not exist; did you mean"),
    (lambda s: rg.load_net("mnist-robust", "paper"), "is missing; make it with: make repro PROFILE=paper"),
    (lambda s: training_record("mnist-robust", "paper"), "is missing; make it with: make repro PROFILE=paper"),
    (lambda s: rg.load_net("imagenette-linf", "test"), "has no nets in profile 'test'; choose another profile"),
    (lambda s: hub.load_hub("resnet"), "hub model 'resnet' does not exist"),
    (lambda s: edm.load_edm("cifar"), "'cifar' does not exist"),
    (lambda s: rg.train("mnist-standrad", "test"),
     "run 'mnist-standrad' does not exist; did you mean 'mnist-standard'"),
]


# Settings: a file of params/test, or params.yaml, what becomes of its text, and the sentence.
HE_PGD, TRAIN, SWITCH = "params/test/he_pgd.yaml", "params/test/train.yaml", "params.yaml"
FILES = [
    (HE_PGD, lambda text: text.replace("steps: 3", "setps: 3"),
     "parameter 'setps' does not exist; did you mean 'steps'"),
    (HE_PGD, lambda text: text.replace("steps: 3", ""), "parameter 'steps' is missing; add it"),
    (HE_PGD, lambda text: text.replace("steps: 3", "steps: 0"),
     "'steps' is 0: it should be greater than or equal to 1"),
    (HE_PGD, lambda text: text.replace("steps: 3", "steps: three"), "'steps' is 'three': it should be a valid integer"),
    (HE_PGD, lambda text: text.replace("eps: 0.03137", "eps: .nan"), "'eps' is nan: it should be"),
    (HE_PGD, lambda text: text.replace("[cifar10]", "[svhn]"), "'datasets.0' is 'svhn': it should be 'cifar10' or"),
    (HE_PGD, lambda text: text.replace("[0, 1]", "[]"), "'seeds' is .*at least 1 item"),
    (HE_PGD, lambda text: text.replace("[cifar10]", "[cifar10"), "is no YAML .while parsing.*; correct it there"),
    (HE_PGD, lambda text: "", "should hold settings, a line `name: value` each, and is None"),
    (HE_PGD, lambda text: "- steps\n- 3\n", r"should hold settings, .* and is \['steps', 3\]"),
    (HE_PGD, None, "params/test/he_pgd.yaml is missing; git restore params/test/he_pgd.yaml brings back"),
    (TRAIN, lambda text: "mnist-robust: 3\n", "mnist-robust should hold settings, a line `name: value` each, and is 3"),
    (TRAIN, lambda text: text.replace("images: 2000", "images: -1"),
     "'images' is -1: it should be greater than or equal"),
    (TRAIN, lambda text: text.replace("data: mnist\n", "data: emnist\n"), "'data' is 'emnist': it should be 'mnist'"),
    (TRAIN, lambda text: text.replace("seed: [0, 1]", "sede: [0, 1]"),
     "over: setting 'sede' does not exist; did you mean"),
    (SWITCH, lambda text: "profiles: laptop\n", r"'profiles' is 'laptop': it should be a list, such as \[laptop\]"),
    (SWITCH, lambda text: "profile: [laptop]\n", r"'profiles' is None: it should be a list"),
    (SWITCH, lambda text: "profiles: [labtop]\n",
     "params.yaml: profile 'labtop' does not exist; did you mean 'laptop'"),
]

# Commands, and the line on stderr.
COMMANDS = [
    ("tarin", "command 'tarin' does not exist; did you mean 'train'"),
    ("train mnist-rubust --profile test", "run 'mnist-rubust' does not exist; did you mean 'mnist-robust'"),
    ("train mnist-robust --profile labtop", "profile 'labtop' does not exist; did you mean 'laptop'"),
    ("train mnist-robust --precision 16", "invalid choice: '16'.*; see: robustgen train --help"),
    ("train mnist-robust --epochs 3", "unrecognized arguments: --epochs 3; see: robustgen --help"),
    ("data minst", "dataset 'minst' does not exist; did you mean 'mnist'"),
    ("report tset", "profile 'tset' does not exist; did you mean 'test'"),
    ("report paper", "is missing; make it with: make repro PROFILE=paper"),
    ("compare one two three", "takes one profile or two folders; got 3 names"),
    ("compare nowhere elsewhere", "nowhere"),
    ("compare labtop", "labtop"),
    ("zoo --profile tets", "profile 'tets' does not exist; did you mean 'test'"),
    ("profile gpuu", "profile 'gpuu' does not exist; did you mean 'gpu'"),
    ("pack nowhere", "nowhere"),
    ("pack folder --side -1", "'-1' should be a whole number, at least 1|expected one argument"),
]

REMEDY = re.compile("should|must|did you mean|there are: |near ones: |see: |at (most|least)|one .* (for|of) each|"
                    r"\b(add|call|check|choose|correct|divide|enlarge|find|give|leave|lower|make|raise|record|repeat|"
                    r"resize|restore|return|set|swap|takes?|undo|unpack|use|wrap)\b", re.IGNORECASE)


def judge(message, sentence):
    """One sentence, of these words, that ends in something to do."""
    assert re.search(sentence, message), message
    assert "\n" not in message and len(message) <= 300 and REMEDY.search(message), message


def test_there_are_enough_of_them():
    assert len(CALLS) + len(FILES) + len(COMMANDS) >= 60


@pytest.mark.parametrize("call, sentence", CALLS, ids=[sentence for _, sentence in CALLS])
def test_a_function_refuses_it_in_a_sentence(call, sentence):
    with pytest.raises((ValueError, OSError)) as refused:
        call(setting())
    judge(str(refused.value), sentence)


@pytest.mark.parametrize("file, change, sentence", FILES, ids=[sentence for *_, sentence in FILES])
def test_a_settings_file_is_refused_in_a_sentence(tmp_path, monkeypatch, file, change, sentence):
    for name in (HE_PGD, TRAIN, SWITCH):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text()
        if name != file:
            (tmp_path / name).write_text(text)
        elif change:
            (tmp_path / name).write_text(change(text))
            assert change(text) != text
    for name in ("gpu", "laptop", "paper"):
        (tmp_path / "params" / name).mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    read = {HE_PGD: lambda: load_settings("test", "he_pgd"), TRAIN: lambda: load_run("test", "mnist-robust"),
            SWITCH: profiles.chosen_profile}[file]
    with pytest.raises((ValueError, OSError)) as refused:
        read()
    judge(str(refused.value), sentence)


@pytest.mark.parametrize("command, sentence", COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_is_refused_on_one_line(capsys, command, sentence):
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = stop.code
    assert code in (1, 2)
    judge(capsys.readouterr().err.removesuffix("\n"), sentence)
