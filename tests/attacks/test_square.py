import copy

import pytest
import torch
import torchattacks
from torch import nn

from robustgen.attacks import square
from robustgen.attacks.square import square_attack
from robustgen.core import rng


class Theirs(torchattacks.Square):
    """torchattacks' square attack, and the numbers that it should draw: those of one axis an image are the images' own,
    as long as these have a margin; others follow from the seed `shared`."""

    def __init__(self, *args, seeds, shared, **settings):
        super().__init__(*args, **settings)
        self.seeds, self.shared, self.drawn = seeds, torch.tensor([shared]), 0

    def margin_and_loss(self, x, y):
        margin, loss = super().margin_and_loss(x, y)
        self.seeds = self.seeds[margin > 0]
        return margin, loss

    def rand(self, shape):
        stream, self.drawn = self.drawn, self.drawn + 1
        if len(shape) == 4:
            return rng.uniform(self.seeds, shape[1:], stream=stream)
        return rng.uniform(self.shared, shape, stream=stream)[0]


def run_theirs(net, x, y, norm, **settings):
    """The images that torchattacks reaches; its patterns are of the images' type."""
    theirs = Theirs(net, norm={"linf": "Linf", "l2": "L2"}[norm], **settings)
    theirs.init_hyperparam(x)
    default = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", theirs.rand)
            return theirs.attack_single_run(x, y)[1]
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("norm, eps, queries, dtype", [
    ("linf", 0.15, 50, torch.float32), ("linf", 0.1, 150, torch.float64), ("l2", 1.5, 150, torch.float64)])
def test_square_is_torchattacks(net, digits, norm, eps, queries, dtype):
    model, x = copy.deepcopy(net).to(dtype), digits[0][:8].to(dtype)
    y, seeds = model(x).argmax(1), rng.seeds(0, 8)
    ours = square_attack(model, x, y, norm=norm, eps=eps, queries=queries, shared=5, generator=seeds)
    theirs = run_theirs(model, x, y, norm, eps=eps, n_queries=queries, seeds=seeds, shared=5)
    assert torch.allclose(ours, theirs, atol=1e-6) and not torch.allclose(ours, x, atol=eps / 100)


@pytest.mark.parametrize("channels, size", [(3, 32), (2, 11), (1, 5)])
def test_every_query_in_l2_is_torchattacks(channels, size):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(rng.normal(torch.arange(3), (channels * size * size,)).double(), False)
            self.asked = []

        def forward(self, x):
            self.asked.append(x)
            return x.flatten(1) @ self.weight.T

    x = rng.uniform(torch.arange(4), (channels, size, size)).double()
    ours, theirs, seeds = Watched().eval(), Watched().eval(), rng.seeds(1, 4)
    y = theirs(x).argmax(1)
    square_attack(ours, x, y, norm="l2", eps=0.3, queries=40, shared=2, generator=seeds)
    run_theirs(theirs, x, y, "l2", eps=0.3, n_queries=40, seeds=seeds, shared=2)
    assert len(ours.asked) == len(theirs.asked) == 42   # 40 queries, the tiles, and one for the check or the labels
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours.asked[1:], theirs.asked[1:]))


@pytest.mark.parametrize("start, propose", [(square._stripes, square._square), (square._tiles, square._two_windows)])
def test_draws_of_images_belong_to_them_and_others_are_shared(start, propose):
    x, seeds = torch.full((5, 2, 20, 20), 0.5), torch.arange(5)

    def drawn(shared, query=0, part=slice(None)):
        common = torch.tensor([shared])
        return (start(x[part], 0.1, seeds[part], common),
                propose(x[part], x[part], 0.1, 0.05, seeds[part], common, query))

    begun, tried = drawn(7)
    for part in (slice(0, 1), slice(1, 5)):
        for whole, own in zip((begun, tried), drawn(7, part=part)):
            assert torch.allclose(whole[part], own, atol=1e-6)
    assert not torch.equal(begun[0], begun[1])   # images differ
    places = (tried != x).any(1)
    assert (places == places[0]).all() and 16 <= places[0].sum() <= 25   # but for the square, of 4 or 5 pixels a side
    begun_too, tried_too = drawn(8)
    assert not torch.equal((tried_too != x).any(1), places)
    # the signs of the stripes, and of the tiles' upper left corners, are the images' own
    assert torch.equal((begun - x)[..., ::4, ::4].sign(), (begun_too - x)[..., ::4, ::4].sign())
    assert not torch.equal(tried, drawn(7, query=1)[1])   # each query draws anew
    assert [square._signs(seeds, x, 0, width=width).shape for width in (1, 3)] == [(5, 2, 1, 1), (5, 2, 1, 3)]


def test_images_wider_than_high_are_attacked_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6 * 40, 3)).requires_grad_(False).eval()
    x = rng.uniform(torch.arange(4), (1, 6, 40))
    y = model(x).argmax(1)
    reached = square_attack(model, x, y, eps=0.1, queries=30, generator=0)
    assert (reached - x).abs().max() <= 0.1 + 1e-6 and reached.min() >= 0 and reached.max() <= 1
    before, after = (square._margin(model, z, y) for z in (x, reached))
    assert (after < before).all()


@pytest.mark.parametrize("wrong, message", [
    ({"queries": 0}, "square_attack: 'queries' is 0: it should be greater than or equal to 1"),
    ({"eps": -0.1}, "square_attack: 'eps' is -0.1: it should be greater than 0"),
    ({"norm": "l1"}, "square_attack: 'norm' is 'l1': it should be 'linf' or 'l2'"),
])
def test_bad_settings_are_refused_in_a_sentence(net, digits, wrong, message):
    with pytest.raises(ValueError, match=message):
        square_attack(net, *digits, **{"eps": 0.1} | wrong)
