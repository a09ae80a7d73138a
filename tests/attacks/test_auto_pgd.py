import copy
from functools import partial

import pytest
import torch
import torchattacks
from torch.nn.functional import cross_entropy

from robustgen.attacks.auto_pgd import apgd, climb, periods
from robustgen.attacks.ensemble import targeted_dlr
from robustgen.attacks.evaluation import accuracy
from robustgen.attacks.gradient_based import pgd
from robustgen.core import rng

THEIR_NAME = {"linf": "Linf", "l2": "L2"}
CROSS_ENTROPY = partial(cross_entropy, reduction="none")


class TheirTargeted(torchattacks.APGD):
    """torchattacks' Auto-PGD on the targeted DLR loss, with the targets (B,) in `towards`: its own APGDT takes the step
    size of the first image for all of an l2 batch."""

    def dlr_loss(self, logits, y):
        top, row = logits.sort(1).values, torch.arange(len(y))
        return ((logits[row, self.towards] - logits[row, y])
                / (top[:, -1] - 0.5 * top[:, -3] - 0.5 * top[:, -4] + 1e-12))


def run_theirs(attack, x, y, seeds):
    """(best images, which are right at all iterates, best losses, fooling images) of torchattacks, which begins where
    these seeds lead and keeps its losses in the images' own type."""
    name, draw = {"Linf": ("rand", rng.uniform), "L2": ("randn", rng.normal)}[attack.norm]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, name, lambda shape: draw(seeds, shape[1:]).to(x.dtype))
        default = torch.get_default_dtype()
        torch.set_default_dtype(x.dtype)
        try:
            return attack.attack_single_run(x, y)
        finally:
            torch.set_default_dtype(default)


def precise(net, digits, sure=1.0):
    """The small net and 16 digits in float64, in which no rounding hides a difference, and the net's two likeliest
    classes. Its logits are multiplied by `sure`."""
    model, x = copy.deepcopy(net).double(), digits[0][:16].double()
    model[-1].weight *= sure
    model[-1].bias *= sure
    return model, x, *model(x).topk(2).indices.T


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.5)])
@pytest.mark.parametrize("loss, sure", [("ce", 1.0), ("ce", 10.0), ("dlr", 1.0)])
def test_each_image_is_led_where_torchattacks_leads_it(net, digits, norm, eps, loss, sure):
    model, x, y, towards = precise(net, digits, sure)
    seeds = rng.seeds(0, 16)
    kind = {"ce": torchattacks.APGD, "dlr": TheirTargeted}[loss]
    theirs = kind(model, norm=THEIR_NAME[norm], eps=eps, steps=60, loss=loss)
    theirs.towards = towards
    best, right, best_loss, fooling = run_theirs(theirs, x, y, seeds)
    ours = climb(model, x, y, {"ce": CROSS_ENTROPY, "dlr": partial(targeted_dlr, target=towards)}[loss], norm=norm,
                 eps=eps, steps=60, seeds=seeds)
    assert torch.allclose(ours.best, best, atol=1e-5)
    # the DLR loss divides by a difference of logits, and magnifies a pixel's rounding: to 50 here
    assert torch.allclose(ours.best_loss, best_loss, rtol=1e-3, atol=1e-5)
    assert torch.equal(ours.fooled, ~right) and 0 < right.sum() < 16
    assert torch.allclose(ours.fooling[~right], fooling[~right], atol=1e-5)
    assert torch.equal(ours.fooling[right], x[right])
    # the step sizes that this takes were halved several times, and not alike in all images
    assert ours.size.max() <= eps / 2 and len(ours.size.unique()) > 1


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.5)])
def test_nothing_that_auto_pgd_remembers_depends_on_the_batch(net, digits, norm, eps):
    model, x, y, _ = precise(net, digits)
    seeds, settings = rng.seeds(0, 16), dict(norm=norm, eps=eps, steps=30)
    whole = climb(model, x, y, CROSS_ENTROPY, seeds=seeds, **settings)
    for part in (slice(0, 1), slice(1, 16)):
        some = climb(model, x[part], y[part], CROSS_ENTROPY, seeds=seeds[part], **settings)
        assert torch.equal(whole.size[part], some.size) and torch.equal(whole.fooled[part], some.fooled)
        assert torch.allclose(whole.best[part], some.best, atol=1e-9)
        assert torch.allclose(whole.best_loss[part], some.best_loss, atol=1e-9)


@pytest.mark.parametrize("steps, expected", [
    (100, [22, 19, 16, 13, 10, 7, 6, 6, 1]),   # the paper's 22 %, 41 %, 57 %, 70 %, 80 %, 87 %, 93 % and 99 %
    (5, [1, 1, 1, 1, 1]),
])
def test_checkpoints_are_the_papers(steps, expected):
    assert list(periods(steps)) == expected


@pytest.mark.parametrize("norm, eps", [("linf", 0.15), ("l2", 1.5)])
def test_apgd_is_torchattacks_with_draws_that_belong_to_the_images(net, digits, norm, eps):
    net, x, y = copy.deepcopy(net).double(), digits[0].double(), digits[1]
    y = torch.where(torch.arange(32) < 3, (y + 1) % 10, y)   # three are wrong from the start
    ours = apgd(net, x, y, norm=norm, eps=eps, steps=20, generator=torch.arange(32))
    right = net(x).argmax(1) == y
    theirs = torchattacks.APGD(net, norm=THEIR_NAME[norm], eps=eps, steps=20, loss="ce")

    draws = {"linf": rng.uniform, "l2": rng.normal}[norm](torch.arange(32)[right], x.shape[1:]).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, {"linf": "rand", "l2": "randn"}[norm], lambda shape: draws)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)   # it would round images and logits
        assert torch.allclose(ours, theirs(x, y), atol=1e-6)
    assert 0 < (~right).sum() and torch.equal(ours[~right], x[~right])
    order = {"linf": float("inf"), "l2": 2}[norm]
    assert torch.linalg.vector_norm((ours - x).flatten(1), order, dim=1).max() <= eps + 1e-5
    parts = [apgd(net, x[part], y[part], norm=norm, eps=eps, steps=20, generator=torch.arange(32)[part])
             for part in (slice(0, 7), slice(7, 32))]
    assert torch.allclose(torch.cat(parts), ours, atol=1e-5)


def test_apgd_is_at_least_as_strong_as_pgd(net, digits):
    """Of 32 images at three radii, one may fall the other way."""
    x, y = digits
    left = {"pgd": 0.0, "apgd": 0.0}
    for eps in (0.05, 0.1, 0.15):
        plain = pgd(net, x, y, norm="linf", eps=eps, step_size=eps / 4, steps=20, random_start=True, generator=0)
        left["pgd"] += accuracy(net, plain, y)
        left["apgd"] += accuracy(net, apgd(net, x, y, eps=eps, steps=20, generator=0), y)
    assert left["apgd"] <= left["pgd"] + 1 / 32


def test_apgd_leaves_the_global_random_state_alone(net, digits):
    before = torch.random.get_rng_state()
    apgd(net, *digits, eps=0.1, steps=3, generator=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_targeted_attack_is_torchattacks(net, digits, norm):
    """Its own in l2 takes the first image's step size for all, so there it meets one image at a time."""
    x, y, seeds = digits[0][:6], net(digits[0][:6]).argmax(1), rng.seeds(0, 6)
    settings = dict(eps={"linf": 0.1, "l2": 1.0}[norm], steps=12)
    cases = ((slice(0, 6), 2), (slice(0, 6), 4)) if norm == "linf" else [(slice(i, i + 1), 2) for i in range(6)]
    for i, target in cases:
        theirs = torchattacks.APGDT(net, norm=THEIR_NAME[norm], **settings)
        theirs.target_class = target
        best, right = run_theirs(theirs, x[i], y[i], seeds[i])[:2]
        towards = net(x[i]).argsort(1)[:, -target]
        ours = climb(net, x[i], y[i], partial(targeted_dlr, target=towards), norm=norm, seeds=seeds[i], **settings)
        assert torch.allclose(best, ours.best, atol=1e-5) and torch.equal(right, ~ours.fooled)


def test_apgd_works_where_the_caller_takes_no_gradients(net, digits):
    reached = apgd(net, *digits, eps=0.1, steps=5, generator=0)
    with torch.no_grad():
        assert torch.equal(apgd(net, *digits, eps=0.1, steps=5, generator=0), reached)
