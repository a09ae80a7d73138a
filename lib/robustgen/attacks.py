"""Attacks: images near the given ones that a classifier gets wrong, and what controls for them.

Each takes a batch and returns images of its shape; `batched` runs one over many images, `trajectory` keeps the
logits along its way.
"""

import torch
from torch.overrides import TorchFunctionMode

from . import ascent, checks, rng
from .config import Count, NonNegative, Norm, Positive, arguments
from .energy import joint_energy, log_odds, marginal_energy


@arguments
def pgd(model, x, y, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count, random_start: bool = False,
        loss=log_odds, generator=None):
    """Projected gradient descent (Madry et al. 2018): climb the loss within a ball around each image.

    x, y        images (B, C, H, W) in [0, 1], labels (B,).
    norm, eps   the ball, per image: "linf" or "l2", in units of [0, 1].
    step_size   length of a step in that norm.
    random_start   begin uniformly in the ball, drawn from `generator`.
    loss        climbed: called as loss(logits, y) -> (B,). The default leads along the cross-entropy's gradient.

    Returns images in [0, 1] within `eps` of `x`. The model's mode (train, eval) is left as it is.
    """
    checks.classifier(model, x, y)
    return ascent.pgd(x, lambda x: loss(model(x), y), norm=norm, eps=eps, step_size=step_size, steps=steps,
                      random_start=random_start, generator=generator)


def targeted(logits, y):
    """The loss of a targeted attack, for `pgd(..., y=targets, loss=targeted)`: the log-odds in favour of y, (B,)."""
    return -log_odds(logits, y)


def random_targets(y, classes, generator=None):
    """Another class for each label, (B,), uniformly from the `classes` - 1 that are wrong."""
    shift = 1 + (rng.uniform(rng.seeds(generator, len(y), y.device), (), stream=1) * (classes - 1)).long()
    return (y + shift) % classes


@arguments
def random_noise(x, *, norm: Norm, eps: Positive, generator=None):
    """The control of an attack: images at distance `eps` from `x` in a random direction, clamped to [0, 1].

    "linf": every pixel moves by eps, up or down by a coin's throw. "l2": uniform on the sphere.
    """
    checks.images(x)
    direction = rng.normal(rng.seeds(generator, len(x), x.device), x.shape[1:]).to(x.dtype)
    return (x + ascent.STEP[norm](eps)(direction)).clamp(0, 1)


@arguments
def fgsm(model, x, y, *, eps: Positive):
    """Fast gradient sign method (Goodfellow et al. 2015; HE-PGD eq. 1): one step as long as the ball is wide."""
    return pgd(model, x, y, norm="linf", eps=eps, step_size=eps, steps=1)


@arguments
def energy_attack(model, x, y, *, eps: Positive, step_size: Positive | None = None, steps: Count = 1, random_start: bool = False, generator=None):
    """The energy attack (JEAT eq. 18): climb the joint energy E(x, y) alone, so only lower the logit of y, in the max norm.

    The default is eq. 18 as it stands, x + eps sign(grad E(x, y)), clamped to [0, 1]: one step as long as the ball is wide.
    More steps need a smaller `step_size`. The other arguments and the result are those of `pgd`.
    """
    return pgd(model, x, y, norm="linf", eps=eps, step_size=eps if step_size is None else step_size, steps=steps,
               random_start=random_start, loss=joint_energy, generator=generator)


@arguments
def he_pgd(model, x, y, *, norm: Norm = "linf", eps: Positive = 8 / 255, step_size: Positive = 1 / 255, steps: Count = 40,
           lam: NonNegative = 1.2, random_start: bool = True, generator=None):
    """High-energy PGD (Beadini & Masi 2023): cross the decision boundary without the drop in energy that gives PGD away.

    Climbs cross-entropy + lam E(x) (eqs. 10, 11); defaults are the paper's. As the cross-entropy is E(x, y) - E(x),
    that is E(x, y) + (lam - 1) E(x): 0 is plain PGD, at 1 the marginal energy drops out and the attack only lowers
    the logit of y, beyond 1 it lowers all logits.

    The other arguments and the result are those of `pgd`. Raises ValueError for a negative or NaN `lam`.
    """
    def loss(logits, y):
        # The cross-entropy's gradient is w times that of the log-odds. Where the net is sure, w vanishes in float32:
        # so the sum is divided by w + lam, image by image, which changes no direction.
        odds = log_odds(logits, y)
        w = odds.detach().sigmoid()
        share = w / (w + lam) if lam else 1.0
        return share * odds + (1 - share) * marginal_energy(logits)
    return pgd(model, x, y, norm=norm, eps=eps, step_size=step_size, steps=steps, random_start=random_start, loss=loss, generator=generator)


@arguments
def balancing_lam(model, x, y, *, high: Positive = 2.5, tolerance: Positive = 0.05, batch: Count = 100, generator=None, progress: bool = False, **settings):
    """The lam at which HE-PGD's mean energy is that of the natural images, by bisection on [0, high].

    Returns (lam, gap): the gap is mean E(attacked) - mean E(natural), in standard deviations of E(natural), and at
    most `tolerance` in size. It is larger only at lam = 0, where plain PGD does not lower the energy at all.

    settings   of `he_pgd`. All evaluations begin at the same random starts, so the gap is a function of lam.

    Raises ValueError if even `high` leaves the attacked images lower, or if there are fewer than two images.
    """
    if len(x) < 2:
        raise ValueError(f"balancing needs the spread of at least two images' energies, got {len(x)}. Make the split larger.")
    seeds = rng.seeds(generator, len(x), x.device)
    natural = marginal_energy(logits_of(model, x))

    def gap(lam):
        attacked = batched(he_pgd, model, x, y, lam=lam, generator=seeds, batch=batch, progress=progress, **settings)
        return ((marginal_energy(logits_of(model, attacked)).mean() - natural.mean()) / natural.std()).item()

    low, bound = 0.0, high
    found = gap(low)
    if found >= -tolerance:
        return low, found
    while high - low > 1e-3 * bound:
        lam = (low + high) / 2
        found = gap(lam)
        if abs(found) <= tolerance:
            return lam, found
        low, high = (lam, high) if found < 0 else (low, lam)
    if high == bound:
        raise ValueError(f"at lam = {low:.4g} the attacked images' energy is still {-found:.2f} standard deviations below the natural ones'; raise 'high'")
    raise ValueError(f"the energy jumps past the natural images' at lam = {high:.4g}; use more images, or raise 'tolerance'")


TORCHATTACKS = {"linf": "Linf", "l2": "L2"}   # the norms as torchattacks names them


class Draws(TorchFunctionMode):
    """Within it, torch.rand and torch.randn of shape (B, C, H, W) draw numbers that belong to the images of these seeds.

    Other shapes are what a batch's images share: their draws follow from the one seed `shared` alone.
    """

    def __init__(self, seeds, shared=0):
        super().__init__()
        self.seeds, self.shared, self.drawn = seeds, torch.tensor([shared], device=seeds.device), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        draw = {torch.rand: rng.uniform, torch.randn: rng.normal}.get(function)
        if draw is None:
            return function(*args, **(kwargs or {}))
        shape, stream, self.drawn = args[0], self.drawn, self.drawn + 1
        return draw(self.seeds, shape[1:], stream=stream) if len(shape) == 4 else draw(self.shared, shape, stream=stream)[0]


@arguments
def apgd(model, x, y, *, norm: Norm = "linf", eps: Positive, steps: Count, generator=None):
    """Auto-PGD (Croce & Hein 2020) on the cross-entropy, one random start: torchattacks' implementation.

    Only what can be counted as its success is changed: an image that is misclassified before the attack, and one
    that is right at every iterate, come back as they were. So whoever detects "APGD images" also sees natural ones.
    """
    from torchattacks import APGD  # costs seconds

    checks.classifier(model, x, y)
    attack = APGD(model, norm=TORCHATTACKS[norm], eps=eps, steps=steps, loss="ce")
    with torch.no_grad():
        right = model(x).argmax(1) == y
    reached = x.clone()
    if right.any():
        with Draws(rng.seeds(generator, len(x), x.device)[right]):
            _, still_right, _, fooling = attack.attack_single_run(x[right], y[right])
        reached[right] = torch.where(still_right.view(-1, 1, 1, 1), x[right], fooling).detach()
    return reached


@arguments
def foolbox_pgd(model, x, y, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count):
    """`pgd` without a random start by foolbox (Rauber et al. 2020), on the cross-entropy: the paper's own tool, to compare with."""
    import foolbox

    checks.classifier(model, x, y)
    kind = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack, "l2": foolbox.attacks.L2ProjectedGradientDescentAttack}[norm]
    attack = kind(abs_stepsize=step_size, steps=steps, random_start=False)
    return attack.run(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, foolbox.criteria.Misclassification(y), epsilon=eps)


def trajectory(model, x, y, *, attack, **settings):
    """Run an attack and keep the logits it meets: (images (B, C, H, W), logits (B, steps + 1, K)).

    attack   `pgd`, `he_pgd`, or another that makes one forward pass a step: those passes are the attack's own.
    """
    seen = []

    def watched(x):
        logits = model(x)
        seen.append(logits.detach())
        return logits

    reached = attack(watched, x, y, **settings)
    with torch.no_grad():
        watched(reached)
    return reached, torch.stack(seen[1:], 1)   # the first is the check at the door


def true_and_rival(logits, y):
    """The logit of the true class and the largest of the others, both (...): from logits (..., K) and labels (...)."""
    index = y[..., None]
    return logits.gather(-1, index)[..., 0], logits.scatter(-1, index, -torch.inf).amax(-1)


@arguments
def batched(function, model, x, y, *, batch: Count = 100, generator=None, progress: bool = False, **settings):
    """`function(model, x, y, **settings)` over batches, its results put together: for more images than fit at once.

    function    an attack or `trajectory`. generator is shared out image by image, so `batch` changes no result.
    """
    from tqdm import tqdm

    seeds = rng.seeds(generator, len(x), x.device) if generator is not None else None
    name, parts = getattr(settings.get("attack", function), "__name__", "attack"), []
    for index in tqdm(torch.arange(len(x)).split(batch), desc=name, unit="batch", disable=not progress):
        own = {} if seeds is None else {"generator": seeds[index]}
        parts.append(function(model, x[index], y[index], **settings, **own))
    return tuple(map(torch.cat, zip(*parts))) if isinstance(parts[0], tuple) else torch.cat(parts)


@torch.no_grad()
def logits_of(model, x, *, batch=500):
    """The model's logits (B, K), without gradients, from any number of images."""
    checks.classifier(model, x)
    return torch.cat([model(part) for part in x.split(batch)])


def accuracy(model, x, y, *, batch=500):
    """Share of images classified right."""
    checks.classifier(model, x, y)
    return int((logits_of(model, x, batch=batch).argmax(1) == y).sum()) / len(x)


@arguments
def robust_accuracy(model, x, y, *, norm: Norm, eps: Positive, step_size: Positive, steps: Count,
                    random_start: bool = False, generator=None, batch: Count = 100, progress: bool = False, each: bool = False):
    """Share of images that are classified right at every iterate of PGD, the clean image included.

    each   return which images are, booleans (N,), instead.

    The arguments are those of `pgd`. An image leaves the batch at its first wrong answer, and waiting ones
    take its place: the forward pass of each step tells, so the check is free.
    """
    from tqdm import tqdm

    checks.classifier(model, x, y)
    start = ascent.random_in_ball(norm, x, eps, generator) if random_start else x
    step = ascent.STEP[norm](step_size)
    waiting = torch.arange(len(x), device=x.device)
    robust = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active, taken = waiting[:0], waiting[:0]   # images under attack, and the steps each has taken
    z = start[:0]
    logits = None

    def objective(z):
        nonlocal logits
        logits = model(z)
        return log_odds(logits, y[active])

    with tqdm(total=len(x), desc="robust accuracy", unit="image", disable=not progress) as bar:
        while len(waiting) or len(active):
            new, waiting = waiting.split([min(batch - len(active), len(waiting)), max(0, len(waiting) + len(active) - batch)])
            active, taken, z = torch.cat([active, new]), torch.cat([taken, torch.zeros_like(new)]), torch.cat([z, start[new]])
            z = ascent.ascend(z, objective, step=step, project=ascent.ball(norm, x[active], eps), steps=1)
            right, last = logits.argmax(1) == y[active], taken == steps   # logits of the images before this step
            robust[active[right & last]] = True
            stay = right & ~last
            bar.update(int((~stay).sum()))
            active, taken, z = active[stay], taken[stay] + 1, z[stay]
    return robust if each else int(robust.sum()) / len(x)
