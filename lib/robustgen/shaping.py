"""How adversarial training shapes a classifier's energies, epoch by epoch (JEAT paper, eq. 15 and Figure 3)."""

import copy

import torch
from torch.nn.functional import cross_entropy

from . import attacks, job, objectives, rng, zoo
from .energy import joint_energy, marginal_energy


def changes(before, after, x, attacked, y):
    """Eq. 15: {"attack": E(attacked) - E(x) before an update, "update": what it then does to E(attacked)}, each {"joint": (B,), "marginal": (B,)}.

    "clean" is what the update does to E(x): that level drifts, too.
    """
    with torch.no_grad():
        clean, low, high, later = before(x), before(attacked), after(attacked), after(x)
    return {change: {"joint": joint_energy(b, y) - joint_energy(a, y), "marginal": marginal_energy(b) - marginal_energy(a)}
            for change, a, b in (("attack", clean, low), ("update", low, high), ("clean", clean, later))}


def course(run, profile, x, y, *, generator=None, progress=False, **member):
    """Eq. 15 at the snapshots of a net that was trained on attacked images: {change: {energy: (epochs - 1, N)}}.

    x, y     training images (N, C, H, W) and labels, attacked as in training, a batch at a time.
    member   which net of the run; it has snapshots.

    The paper does not say what an update is: "step" is a gradient step on the very batch, without momentum, at the
    learning rate of the epoch's end, whatever the run's optimiser; "epoch" is all that the next epoch does, and "clean, epoch"
    what it does to images that are not attacked. Changes are those after epochs 1, 2, ...

    Raises ValueError for a run without attacks, of a single epoch, or without snapshots.
    """
    from tqdm import tqdm

    settings = zoo.record(run, profile, **member)["settings"]
    if not settings["snapshots"]:
        raise ValueError(f"{run} has kept no snapshots; set 'snapshots: true' in params/{profile}/train.yaml and train it again")
    if settings["objective"]["name"] not in ("AdversarialCE", "PreJEAT") or settings["epochs"] < 2:
        raise ValueError(f"{run} was trained by {settings['objective']['name']} for {settings['epochs']} epochs; "
                         "choose a run that attacks its images, of 2 epochs or more")
    seeds, found = rng.seeds(generator, len(x), x.device), []
    for epoch in tqdm(range(1, settings["epochs"]), desc=f"{run}, its energies", unit="epoch", disable=not progress):
        before, later = (zoo.load(run, profile, epoch=e, device=x.device, **member) for e in (epoch, epoch + 1))
        objective = objectives.build(before, **settings["objective"])
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(settings["batch"]):
            attacked = attacks.pgd(before, x[rows], y[rows], **objective.attack, loss=objective.climbed, generator=rng.fold(seeds[rows], epoch))
            stepped = updated(before, attacked, y[rows], rate(settings, epoch))
            step, whole = (changes(before, after, x[rows], attacked, y[rows]) for after in (stepped, later))
            parts.append({"attack": step["attack"], "step": step["update"], "epoch": whole["update"], "clean, epoch": whole["clean"]})
        found.append(_joined(torch.cat, parts))
    return _joined(torch.stack, found)


def _joined(join, parts):
    """Nested dicts of tensors, {change: {energy: tensor}}, as one."""
    return {change: {energy: join([part[change][energy] for part in parts]) for energy in energies} for change, energies in parts[0].items()}


def updated(model, x, y, rate):
    """A copy of the model after one step of gradient descent on the cross-entropy of a batch, in train mode; returned in eval mode."""
    model = copy.deepcopy(model).train().requires_grad_(True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients):
            if gradient is not None:
                parameter -= rate * gradient
    return model.eval().requires_grad_(False)


def rate(settings, epoch):
    """The learning rate at the end of an epoch of a run, from its record's settings."""
    schedule = dict(settings["schedule"])
    return settings["optimizer"]["lr"] * job.SCHEDULES[schedule.pop("name")](epoch / settings["epochs"], **schedule)
