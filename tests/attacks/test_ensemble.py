import copy

import pytest
import torch
from torch import nn

from robustgen.attacks.ensemble import _targeted, autoattack
from robustgen.attacks.gradient_based import pgd
from robustgen.attacks.square import square_attack
from robustgen.core import rng
from robustgen.models.builders import build_model

NAMES = ["clean", "APGD-CE", "APGD-T", "Square"]
ORDER = {"linf": float("inf"), "l2": 2}


def linear(classes, *rest):
    """A linear model in float64 of images (1, 20, 20), and what comes behind it; grey is undecided."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, classes), *rest).double().requires_grad_(False).eval()
    model[1].weight.copy_(torch.randn(classes, 400, generator=torch.Generator().manual_seed(0)))
    model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def images(model, n=40):
    """Images so far from black and white that no ball meets the unit cube's faces, and the model's answers, but for the
    first two."""
    x = 0.3 + 0.4 * torch.rand(n, 1, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % model[1].out_features
    return x, y


def radii(model, x, y, norm):
    """The distance at which a linear model's answer changes: min over j of (f_y - f_j) / |w_y - w_j| in the dual
    norm."""
    logits, weight = model[:2](x), model[1].weight
    dual = torch.linalg.vector_norm(weight[y][:, None] - weight[None], {"linf": 1, "l2": 2}[norm], dim=2)
    gaps = (logits.gather(1, y[:, None]) - logits) / dual
    return gaps.scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 6, 12])
def test_survivors_of_a_linear_model_are_those_whose_radius_exceeds_eps(norm, classes):
    model = linear(classes)
    x, y = images(model)
    radius = radii(model, x, y, norm)
    eps = radius[2:].median().item() * 1.0001
    survivors = autoattack(model, x, y, norm=norm, eps=eps, steps=30, queries=5, generator=0)
    assert list(survivors) == NAMES
    assert all(mask.dtype == torch.bool and mask.shape == (40,) for mask in survivors.values())
    assert torch.equal(survivors["clean"], torch.arange(40) > 1)
    assert torch.equal(survivors["APGD-T"], radius > eps) and torch.equal(survivors["Square"], radius > eps)
    assert (survivors["APGD-CE"] >= survivors["APGD-T"]).all() and survivors["APGD-CE"].sum() < 38
    if classes == 2:
        assert torch.equal(survivors["APGD-CE"], radius > eps)


@pytest.mark.parametrize("norm, eps", [("linf", 0.12), ("l2", 1.5)])
def test_masks_are_nested_and_do_not_depend_on_the_batch(net, digits, norm, eps):
    net, x, y = copy.deepcopy(net).double(), digits[0].double(), digits[1]
    settings = dict(norm=norm, eps=eps, steps=4, queries=60, generator=0)
    whole = autoattack(net, x, y, **settings)
    for batch in (3, 7):
        parts = autoattack(net, x, y, **settings, batch=batch)
        assert all(torch.equal(whole[name], parts[name]) for name in NAMES)
    for before, after in zip(NAMES, NAMES[1:]):
        assert (after == "clean" or (whole[after] <= whole[before]).all())
    assert 0 < whole["APGD-T"].sum() < whole["clean"].sum()


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.0)])
def test_where_an_image_is_led_to_does_not_depend_on_the_batch(net, digits, norm, eps):
    """Bit for bit this holds only in float64, as float32 convolutions round by batch: here of images, not only of
    masks."""
    model = build_model("mnist_cnn", width=8, hidden=32, generator=0).double().eval()
    model.load_state_dict(net.state_dict())
    x, seeds = digits[0][:12].double(), rng.seeds(0, 12)
    y = model(x).argmax(1)
    for attack, settings in ((square_attack, {"queries": 80, "shared": 3}), (_targeted, {"steps": 5})):
        whole = attack(model, x, y, norm=norm, eps=eps, generator=seeds, **settings).detach()
        parts = [attack(model, x[part], y[part], norm=norm, eps=eps, generator=seeds[part], **settings)
                 for part in (slice(0, 1), slice(1, 5), slice(5, 12))]
        assert torch.allclose(whole, torch.cat(parts), atol=1e-9)
        assert torch.linalg.vector_norm((whole - x).flatten(1), ORDER[norm], dim=1).max() <= eps + 1e-6
        assert not torch.allclose(whole, x)
        assert whole.min() >= 0 and whole.max() <= 1
    other = square_attack(model, x, y, norm=norm, eps=eps, generator=seeds, queries=80, shared=4)
    again = square_attack(model, x, y, norm=norm, eps=eps, generator=seeds + 1, queries=80, shared=3)
    assert not torch.allclose(other, again, atol=1e-3)


class Staircase(nn.Module):
    def forward(self, logits):
        return (logits * 20).floor() / 20


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_breaks_what_masked_gradients_hide(norm):
    """A staircase has no slope, so whoever follows gradients stays at its start; but its steps lead down all the
    same."""
    model = linear(4, Staircase())
    x, y = images(model)
    radius = radii(model, x, y, norm)
    eps = 3 * radius[2:].max().item()
    assert torch.equal(pgd(model, x, y, norm=norm, eps=eps, step_size=eps / 4, steps=10), x)
    survivors = autoattack(model, x, y, norm=norm, eps=eps, steps=5, queries=300, generator=0)
    # random starts alone break the rest
    assert survivors["APGD-T"][radius > eps / 6].all() and survivors["APGD-T"].sum() > 20
    assert survivors["Square"].sum() <= 0.2 * survivors["APGD-T"].sum()


def test_the_targeted_attack_breaks_a_model_so_sure_that_the_cross_entropy_is_flat():
    model = linear(5)
    x, y = images(model)
    eps = 1.5 * radii(model, x, y, "linf")[2:].max().item()
    model[1].weight *= 1e5
    model[1].bias *= 1e5
    survivors = autoattack(model.float(), x.float(), y, eps=eps, steps=5, queries=5, generator=0)
    assert survivors["APGD-CE"].sum() >= 30 and survivors["APGD-T"].sum() == 0


def test_no_query_leaves_the_ball(digits):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build_model("mnist_cnn", width=4, hidden=8, generator=0)
            self.farthest = 0

        def forward(self, z):
            distance = torch.linalg.vector_norm((z - x).flatten(1), ORDER[norm], dim=1).max().item()
            self.farthest = max(self.farthest, distance)
            assert z.min() >= 0 and z.max() <= 1
            return self.inner(z)

    x = digits[0][:1]
    for norm, eps in (("linf", 0.01), ("l2", 0.1)):
        model = Watched().eval()
        survivors = autoattack(model, x, model(x).argmax(1), norm=norm, eps=eps, steps=5, queries=20, generator=0)
        assert eps - 1e-3 < model.farthest <= eps + 1e-6 and survivors["Square"].shape == (1,)


def test_the_model_and_the_random_state_are_left_as_they_were(digits):
    model = build_model("mnist_cnn", width=4, hidden=8, generator=0).eval()
    x, y = digits[0][:6], model(digits[0][:6]).argmax(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, kept = torch.random.get_rng_state(), x.clone()
    for norm in ("linf", "l2"):
        autoattack(model, x, y, norm=norm, eps=0.05, steps=3, queries=5, generator=0)
    assert torch.equal(state, torch.random.get_rng_state()) and torch.equal(x, kept)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not model.training
    with pytest.raises(ValueError, match="in train mode; call model.eval\\(\\) first"):
        autoattack(nn.Sequential(nn.Dropout(0.1), model), x, y, eps=0.1)


def test_where_nothing_is_right_nothing_is_attacked(net, digits):
    x = digits[0]
    y = (net(x).argmax(1) + 1) % 10
    assert not any(mask.any() for mask in autoattack(net, x, y, eps=0.1).values())


@pytest.mark.parametrize("change, message", [
    ({"eps": 0.0}, "autoattack: 'eps' is 0.0: it should be greater than 0"),
    ({"norm": "l1"}, "autoattack: 'norm' is 'l1': it should be 'linf' or 'l2'"),
    ({"steps": 0}, "'steps' is 0"),
    ({"queries": 2.5}, "'queries' is 2.5"),
    ({"x": lambda x: x * 255}, "Divide by 255 first"),
    ({"x": lambda x: x - 0.5}, "images must lie in \\[0, 1\\]"),
    ({"y": lambda y: y + 5}, "labels must lie in 0..9"),
    ({"generator": torch.arange(3)}, "one int64 seed for each of 32 images"),
])
def test_bad_input_is_refused_in_a_sentence(net, digits, change, message):
    change = {"eps": 0.1} | change
    x, y = (change.pop(name, lambda v: v)(value) for name, value in zip("xy", digits))
    with pytest.raises(ValueError, match=message):
        autoattack(net, x, y, **change)


def test_images_that_squares_tiles_do_not_fit_are_refused_at_the_door():
    model = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 3)).eval()
    with pytest.raises(ValueError, match="do not fit images of 24 x 24 pixels"):
        autoattack(model, torch.rand(2, 1, 24, 24), torch.tensor([0, 1]), norm="l2", eps=0.1)
