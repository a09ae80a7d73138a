"""Classifiers as generative models, in numbers: what the tables of the JEAT paper say of a net, for every net of a
dataset."""

import copy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from ..attacks.evaluation import robust_accuracy
from ..attacks.gradient_based import pgd
from ..core import dynamics, rng
from ..core.energy import joint_energy, marginal_energy
from ..data.datasets import load_data
from ..metrics.frechet import frechet_distance, inception_score
from ..models.layers import features
from ..probes import fisher
from ..sampling.chains import langevin
from ..training.registry import build_objective
from ..training.schedules import SCHEDULES
from ..utils.arguments import positive, positive_integer, validated
from ..utils.fields import Count, Index, NonNegative, Positive, part, settings, within
from ..utils.validation import check_eval_mode
from ..zoo.trained import family_axes, load_net, training_record


@part
class EnergyNet:
    """A net whose energies are studied."""

    name: str                # in figures and tables
    run: str
    member: dict             # which net of the run; without a seed, each that the notebook's seeds name


@part
class EnergyData:
    """A dataset, the net that judges images, and the nets compared on it."""

    name: Literal["mnist", "cifar10", "cifar100"]
    title: str
    eps: Positive            # of the attacks, max norm (paper: 8/255)
    stride: Positive         # l2 length of a Langevin step from a real image, root mean square
    judge: str               # a run of the zoo, which net of it, and the layer of its features; none of those compared
    judge_member: dict
    judge_layer: str
    attacked: EnergyNet      # of Table 1
    nets: Annotated[list[EnergyNet], Field(min_length=1)]


@settings
class Settings:
    """Notebook 5."""

    datasets: Annotated[list[EnergyData], Field(min_length=1)]
    seeds: Annotated[list[Index], Field(min_length=1)]   # of the nets trained in repeats (paper: five)
    seed: Index              # of the images and all random draws
    images: Annotated[int, Field(ge=2)]       # test images at which nets are probed and attacked
    real: Annotated[int, Field(ge=2)]         # further ones: the reference of Frechet distances
    attack_steps: Count      # paper: 20
    auto_images: Count       # under AutoAttack, and for Table 1, of `images`
    auto_steps: Count        # of APGD (standard: 100)
    auto_queries: Count      # of Square (standard: 5000)
    course: EnergyNet        # the adversarial training of Figure 3; its run keeps snapshots
    course_images: Count     # training images
    landscape_images: Annotated[int, Field(ge=2)]
    landscape_rms: Positive  # reach of a landscape: root mean square over pixels
    landscape_points: Annotated[int, Field(ge=3)]
    landscape_shown: Count   # images of Figure 2
    fisher_images: Annotated[int, Field(ge=2)]
    draws: Annotated[int, Field(ge=2)]        # of Hutchinson's trace
    sigma: Positive          # of the noise that a gradient is asked to explain
    start_images: Annotated[int, Field(ge=10)]   # training images whose classes' mean and covariance chains begin with
    per_class: Annotated[int, Field(ge=2)]    # chains
    steps: Count             # of Langevin dynamics
    noise: NonNegative
    stride_factors: list[Positive]            # further lengths of step, in units of each dataset's stride
    neighbours: Count        # shown of Figure 7 (paper: 10)
    candidates: Count        # compared by SSIM, those of the highest correlation
    train_images: Count      # among which neighbours are looked for

    def __post_init__(self):
        within(self, "images", "auto_images", "landscape_images", "fisher_images")
        within(self, "landscape_images", "landscape_shown")
        within(self, "candidates", "neighbours")
        within(self, "train_images", "candidates")
        if self.images + self.real > 10000 or self.landscape_points % 2 == 0:
            raise ValueError("'images' and 'real' are of 10000 test images together, and 'landscape_points' should be "
                             "odd")
        for data in self.datasets:
            names = [net.name for net in data.nets]
            if len(set(names)) < len(names) or not {"standard", "adversarial", "PreJEAT", "JEAT"} <= set(names):
                raise ValueError(f"the nets of {data.name!r} should have names of their own, standard, adversarial, "
                                 f"PreJEAT and JEAT among them; got {names}")


class Judge:
    """Another classifier that looks at generated images: Frechet distances, scores and names are taken with its logits.

    model   any net of images in [0, 1], not one of those that are judged; layer, the module whose output are its
            features.
    real    held-out images (N, C, H, W): the reference of Frechet distances. They are of logits, as the bias of a
            Frechet distance grows with the number of features and falls with that of images, which are few.
    """

    def __init__(self, model, layer, real, *, batch=250):
        check_eval_mode(model)
        self.net, self.batch = features(model, layer), batch
        self.reference = self(real)[1]

    @torch.no_grad()
    def __call__(self, x):
        """Features (N, D) and logits (N, K) of images, which are clamped to [0, 1] first."""
        found = [self.net(part.clamp(0, 1)) for part in x.split(self.batch)]
        return tuple(torch.cat(parts).flatten(1) for parts in zip(*found))

    def grade(self, x, y):
        """{"IS", "FD": Frechet distance to the reference, "named": share seen as class y} of images, and (N,) which are
        named right."""
        logits = self(x)[1]
        right = logits.argmax(1) == y
        return {"IS": inception_score(logits), "FD": frechet_distance(logits, self.reference),
                "named": right.float().mean().item()}, right


@dataclass(frozen=True)
class Sampler:
    """How class-conditional images are drawn from every net alike.

    x0, y, seeds   where the chains begin, (N, C, H, W) in [0, 1], their classes and seeds.
    stride         l2 length, in units of [0, 1], of a step down E(x, y) from a real image, root mean square: each net's
                   step_size is this over `FisherScore.length`. The paper does not say how it set a step for nets of
                   different scales of logits. Both energies have the same step_size, the paper's eta.
    steps, noise   of `chains.langevin`.
    """

    x0: torch.Tensor
    y: torch.Tensor
    seeds: torch.Tensor
    stride: float
    steps: int
    noise: float

    def __call__(self, model, length, energy="joint"):
        """Images (N, C, H, W), clamped to [0, 1]. `length`: of the net's gradients of E(x, y) at real images."""
        return langevin(model, self.x0, self.y, energy=energy, steps=self.steps, step_size=self.stride / length,
                        noise=self.noise,
                                 generator=self.seeds).clamp(0, 1)


@validated(draws=positive_integer, sigma=positive)
def fisher_scores(model, x, y, *, draws: int, sigma: float, generator=None):
    """The Fisher scores of a net at real images: a dict of numbers.

    "explained" is the share of noise of standard deviation sigma that grad E(x, y) explains: like the quality of
    images, and unlike JFS, it does not change with the scale of the logits. "length" is that of grad E(x, y), root mean
    square.
    """
    joint = fisher.joint_fisher_score(model, x, y, draws=draws, generator=generator)
    marginal = fisher.marginal_fisher_score(model, x, draws=draws, generator=generator)
    noisy = fisher.joint_fisher_score(model, x, y, sigma=sigma, draws=draws, generator=generator)
    return {"JFS": joint.mean, "JFS error": joint.standard_error, "JFS trace": joint.trace.mean().item(),
            "JFS trace error": joint.trace_error, "MFS": marginal.mean, "MFS error": marginal.standard_error,
            "MFS trace": marginal.trace.mean().item(), "MFS trace error": marginal.trace_error,
            "explained": noisy.explained, "length": joint.length}


class Study:
    """A dataset with its held-out images, its judge, the chains' beginnings, and its nets by name.

    settings    a an `EnergyData`: the dataset, its judge and its nets.
    images, real     test images that nets are probed at, and further ones: the reference of Frechet distances.
    start_images     training images whose classes' Gaussians the chains begin with.
    per_class        chains of each class; steps, noise: see Sampler.
    seeds       of nets trained in repeats.
    """

    def __init__(self, settings, profile, *, images, real, start_images, per_class, steps, noise, seeds, seed, device):
        self.settings, self.profile, self.seeds, self.device = settings, profile, seeds, device
        held_out = load_data(settings.name, "test", images + real, seed=seed).to(device)
        self.test, self.real = held_out[:images], held_out[images:]
        self.train = load_data(settings.name, "train", start_images, seed=seed).to(device)
        self.classes = self.test.classes
        self.judge = Judge(load_net(settings.judge, profile, device=device, **settings.judge_member),
                           settings.judge_layer, self.real.unit)
        y = torch.arange(len(self.classes), device=device).repeat_interleave(per_class)
        chains = rng.seeds(seed, len(y), device)
        x0 = dynamics.class_gaussian_start(self.train)(chains, y).clamp(0, 1)
        self.sampler = Sampler(x0, y, chains, settings.stride, steps, noise)

    def members(self, net):
        """The settings by which each repeat of a net is told from the others, {seed: member}; one alone where it has no
        repeats."""
        found = family_axes(net.run, self.profile)
        if "seed" not in found or "seed" in net.member:
            return {net.member.get("seed", 0): net.member}
        return {seed: net.member | {"seed": seed} for seed in found["seed"] if seed in self.seeds}

    def load(self, net, member, epoch=None):
        return load_net(net.run, self.profile, epoch=epoch, folded=True, device=self.device, **member)

    def epochs(self, net, member):
        """Epochs after which a net was kept, without the last."""
        settings = training_record(net.run, self.profile, **member)["settings"]
        return range(1, settings["epochs"]) if settings["snapshots"] else ()

    def robust(self, model, n, steps, generator):
        """Which of the first n test images withstand PGD at the dataset's radius, booleans: random start, steps of 2.5
        eps / steps."""
        eps = self.settings.eps
        return robust_accuracy(model, self.test.unit[:n], self.test.y[:n], norm="linf", eps=eps,
                               step_size=2.5 * eps / steps, steps=steps,
                                       random_start=True, generator=generator, each=True)


def energy_changes(before, after, x, attacked, y):
    """Eq. 15: {"attack": E(attacked) - E(x) before an update, "update": what it then does to E(attacked)}, each
    {"joint": (B,), "marginal": (B,)}.

    "clean" is what the update does to E(x): that level drifts, too.
    """
    with torch.no_grad():
        clean, low, high, later = before(x), before(attacked), after(attacked), after(x)
    return {change: {"joint": joint_energy(b, y) - joint_energy(a, y),
                     "marginal": marginal_energy(b) - marginal_energy(a)}
            for change, a, b in (("attack", clean, low), ("update", low, high), ("clean", clean, later))}


def energy_course(run, profile, x, y, *, generator=None, progress=False, **member):
    """Eq. 15 at the snapshots of a net that was trained on attacked images: {change: {energy: (epochs - 1, N)}}.

    x, y     training images (N, C, H, W) and labels, attacked as in training, a batch at a time.
    member   which net of the run; it has snapshots.

    The paper does not say what an update is: "step" is a gradient step on the very batch, without momentum, at the
    learning rate of the epoch's end, whatever the run's optimiser; "epoch" is all that the next epoch does, and "clean,
    epoch" what it does to images that are not attacked. Changes are those after epochs 1, 2, ...

    Raises ValueError for a run without attacks, of a single epoch, or without snapshots.
    """
    from tqdm import tqdm

    settings = training_record(run, profile, **member)["settings"]
    if not settings["snapshots"]:
        raise ValueError(f"{run} has kept no snapshots; set 'snapshots: true' in params/{profile}/train.yaml and train "
                         "it again")
    if settings["objective"]["name"] not in ("AdversarialCE", "PreJEAT") or settings["epochs"] < 2:
        raise ValueError(f"{run} was trained by {settings['objective']['name']} for {settings['epochs']} epochs; "
                         "choose a run that attacks its images, of 2 epochs or more")
    seeds, found = rng.seeds(generator, len(x), x.device), []
    for epoch in tqdm(range(1, settings["epochs"]), desc=f"{run}, its energies", unit="epoch", disable=not progress):
        before, later = (load_net(run, profile, epoch=e, device=x.device, **member) for e in (epoch, epoch + 1))
        objective = build_objective(before, **settings["objective"])
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(settings["batch"]):
            attacked = pgd(before, x[rows], y[rows], **objective.attack, loss=objective.climbed,
                           generator=rng.fold(seeds[rows], epoch))
            stepped = updated_model(before, attacked, y[rows], learning_rate(settings, epoch))
            step, whole = (energy_changes(before, after, x[rows], attacked, y[rows]) for after in (stepped, later))
            parts.append({"attack": step["attack"], "step": step["update"], "epoch": whole["update"],
                          "clean, epoch": whole["clean"]})
        found.append(_joined(torch.cat, parts))
    return _joined(torch.stack, found)


def _joined(join, parts):
    """Nested dicts of tensors, {change: {energy: tensor}}, as one."""
    return {change: {energy: join([part[change][energy] for part in parts]) for energy in energies}
            for change, energies in parts[0].items()}


def updated_model(model, x, y, rate):
    """A copy of the model after one step of gradient descent on the cross-entropy of a batch, in train mode; returned
    in eval mode."""
    model = copy.deepcopy(model).train().requires_grad_(True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients):
            if gradient is not None:
                parameter -= rate * gradient
    return model.eval().requires_grad_(False)


def learning_rate(settings, epoch):
    """The learning rate at the end of an epoch of a run, from its record's settings."""
    schedule = dict(settings["schedule"])
    return settings["optimizer"]["lr"] * SCHEDULES[schedule.pop("name")](epoch / settings["epochs"], **schedule)
