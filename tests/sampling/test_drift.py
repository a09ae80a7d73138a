import math

import pytest
import torch
from torch import nn

from robustgen.core import rng
from robustgen.models import layers
from robustgen.sampling import spectrum_edits
from robustgen.sampling.drift import adaptive_pgdd, pgdd
from robustgen.sampling.starts import gaussian_start, perlin_start

SETTINGS = {"drift_noise": 0.2, "diffusion_noise": 0.02, "eps": 0.4, "step_size": 0.5, "steps": 6}


@pytest.fixture(scope="module")
def smooth():
    """A small net without kinks, in float64: what is compared agrees to rounding, not to a kink."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 9, 8), nn.Tanh(),
                         nn.Linear(8, 5)).double().requires_grad_(False)


@pytest.fixture(scope="module")
def x0():
    return gaussian_start(7, (1, 8, 8), generator=3).double()


def drift(seeds, x0, sigma):
    return x0 + sigma * rng.normal(rng.fold(seeds, 0), x0.shape[1:]).double()


@pytest.mark.parametrize("layer", [None, "3"])
def test_pgdd_is_algorithm_1_trajectory_by_trajectory(smooth, x0, layer):
    """Against a plain loop over single images, in pixel space, that shares nothing but the random numbers."""
    seeds = rng.seeds(5, len(x0))
    found = pgdd(smooth, x0, layer=layer, generator=seeds, record=[0, 3, 6], **SETTINGS)
    r = smooth if layer is None else smooth[:4]
    for i in range(len(x0)):
        start, own = x0[i:i + 1], seeds[i:i + 1]
        x, reference = start, r(drift(own, start, 0.2))
        for t in range(6):
            z = x.clone().requires_grad_()
            logits = smooth(z)
            assert found.classes[i, t] == logits.argmax()
            assert torch.isclose(found.confidences[i, t].double(), logits.softmax(1).max(), atol=1e-6)
            g, = torch.autograd.grad(((r(z) - reference) ** 2).sum(), z)
            assert torch.isclose(found.gradient_norms[i, t], g.norm())
            eta = 0.02 * rng.normal(rng.fold(own, 1), x.shape[1:], stream=t).double()
            x = x + 0.5 * g / (g.norm() + 1e-10) + eta
            x = (start + (x - start).clamp(-0.4, 0.4)).clamp(0, 1)
            if t == 2:
                assert torch.allclose(found.iterates[3][i], x[0], atol=1e-10)
        assert torch.allclose(found.images[i], x[0], atol=1e-10) and found.classes[i, 6] == smooth(x).argmax()
    assert torch.equal(found.iterates[0], x0) and torch.equal(found.iterates[6], found.images)
    assert (found.evaluations == 6).all()


def test_images_stay_in_the_box_and_in_the_pixel_range(net):
    start = gaussian_start(4, (1, 28, 28), sigma=0.4, generator=0)
    found = pgdd(net, start, generator=0, **SETTINGS | {"eps": 0.1, "step_size": 5.0}).images
    assert (found - start).abs().max() <= 0.1 + 1e-6 and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("run", [
    lambda net, x, **kw: pgdd(net, x, **SETTINGS, **kw),
    lambda net, x, **kw: pgdd(net, x, **SETTINGS, smoothing_sigma=0.1, smoothing_draws=3, **kw),
    lambda net, x, **kw: adaptive_pgdd(net, x, steps=12, **kw)], ids=["pgdd", "spgdd", "adaptive"])
def test_a_trajectory_is_the_same_in_any_batch(smooth, x0, run):
    seeds = rng.seeds(1, len(x0))
    whole, parts = run(smooth, x0, generator=seeds), run(smooth, x0, generator=seeds, batch=3)
    alone = run(smooth, x0[4:5], generator=seeds[4:5])
    assert torch.allclose(whole.images, parts.images, atol=1e-10)
    assert torch.allclose(whole.images[4:5], alone.images, atol=1e-10)
    assert torch.equal(whole.classes, parts.classes) and torch.equal(whole.evaluations, parts.evaluations)
    assert not torch.allclose(whole.images, run(smooth, x0, generator=2).images, atol=1e-3)   # and the seeds do matter


@pytest.mark.parametrize("batch", [250, 14, 1])
@pytest.mark.parametrize("smoothing", ["gradients", "features"])
def test_smoothing_averages_gradients_or_features(smooth, x0, smoothing, batch):
    """The first step of sPGDD against autograd on the averaged quantity, however the draws are shared out."""
    seeds = rng.seeds(5, len(x0))
    found = pgdd(smooth, x0, generator=seeds, smoothing_sigma=0.3, smoothing_draws=5, smoothing=smoothing, batch=batch,
                          **SETTINGS | {"steps": 1, "diffusion_noise": 0.0, "eps": 1.0, "step_size": 0.01})
    reference = smooth(drift(seeds, x0, 0.2))
    noise = [0.3 * rng.normal(rng.fold(seeds, 2), x0.shape[1:], stream=i).double() for i in range(5)]
    z = x0.clone().requires_grad_()
    if smoothing == "gradients":
        loss = sum((smooth(z + n) - reference).square().sum() for n in noise) / 5
    else:
        loss = (sum(smooth(z + n) for n in noise) / 5 - reference).square().sum()
    gradient, = torch.autograd.grad(loss, z)
    assert torch.allclose(found.gradient_norms[:, 0], gradient.flatten(1).norm(dim=1))
    assert torch.allclose(found.images, x0 + 0.01 * torch.nn.functional.normalize(gradient.flatten(1)).view_as(x0),
                          atol=1e-10)
    assert (found.evaluations == 5).all()


def test_smoothing_draws_are_new_in_each_step(smooth, x0):
    seen = []

    def watched(x):
        seen.append(x)
        return smooth(x)
    pgdd(watched, x0[:1], generator=0, smoothing_sigma=0.3, smoothing_draws=2,
         **SETTINGS | {"step_size": 1e-9, "diffusion_noise": 0.0, "steps": 3})
    copies = torch.cat([x for x in seen if len(x) == 2])
    assert len(copies) == 6 and len({round(c.sum().item(), 6) for c in copies}) == 6


def test_adaptive_steps_follow_the_loss_and_end_where_nothing_moves(smooth, x0):
    """Against a plain loop over single images with the rules of the docstring."""
    seeds = rng.seeds(5, len(x0))
    rules = {"gain": 0.05, "grow": 1.5, "shrink": 0.5, "tolerance": 0.02, "patience": 2, "step_size": 0.03,
             "largest_step": 0.1}
    found = adaptive_pgdd(smooth, x0, steps=40, generator=seeds, diffusion_noise=0.01, **rules)
    for i in range(len(x0)):
        start, own = x0[i:i + 1], seeds[i:i + 1]
        x, reference, size, last, calm, before = start, smooth(drift(own, start, 0.2)), 0.03, 0.0, 0, None
        for t in range(40):
            z = x.clone().requires_grad_()
            loss = (smooth(z) - reference).square().sum()
            g, = torch.autograd.grad(loss, z)
            if t:
                size = min(0.1, size * (1.5 if loss > 1.05 * last else 0.5))
            last = loss
            noise = 0.01 * min(1, size / 0.03) * rng.normal(rng.fold(own, 1), x.shape[1:], stream=t).double()
            new = (x + 8 * size * g / g.norm() + noise).clamp(0, 1)   # 8: the root of 64 pixels
            confidence, label = smooth(x).softmax(1).max(1)
            still = (before is not None and label == before[1] and abs(confidence - before[0]) <= 0.02
                     and (new - x).square().mean().sqrt() <= 0.02)
            calm, before, x = calm + 1 if still else 0, (confidence, label), new
            if calm == 2:
                break
        assert found.evaluations[i] == t + 1
        assert torch.allclose(found.images[i], x[0], atol=1e-8)
        assert (found.classes[i, t + 1:] == smooth(x).argmax()).all() and found.gradient_norms[i, t + 1:].isnan().all()
    assert found.evaluations.min() < 40   # the rules did end some


def test_a_callback_sees_each_step_and_may_end_the_batch(smooth, x0):
    seen = []
    found = pgdd(smooth, x0, generator=0, record=[2, 5], callback=lambda t, x: seen.append((t, len(x))) or t == 2,
                 **SETTINGS)
    assert seen == [(0, 7), (1, 7), (2, 7)] and (found.evaluations == 3).all()
    assert torch.equal(found.iterates[5], found.images) and not torch.equal(found.iterates[2], found.images)
    assert (found.classes[:, 3:] == smooth(found.images).argmax(1)[:, None]).all()


class Deaf(nn.Module):
    """Has layers that do not hear the images, give no tensor, or are not called."""

    def __init__(self):
        super().__init__()
        self.conv, self.constant = nn.Conv2d(1, 3, 3), nn.Linear(2, 3)
        self.pair, self.idle = nn.LSTM(3, 3), nn.Linear(1, 1)

    def forward(self, x):
        h = self.conv(x).mean((2, 3))
        return h + self.constant(torch.ones(len(x), 2)) + self.pair(h[None])[0][0]


class Exploding(nn.Module):
    def forward(self, x):   # the door, the reference and the layer's check take three calls
        self.calls = getattr(self, "calls", 0) + 1
        return x.flatten(1)[:, :3] * (float("inf") if self.calls == 7 else 1) + 0 * x.flatten(1)[:, 3:6]


@pytest.mark.parametrize("model, layer, changes, message", [
    (Deaf(), "konv", {}, r"layer 'konv' does not exist; near ones: conv"),
    (Deaf(), "constant", {}, "layer .constant. does not depend on the images"),
    (Deaf(), "pair", {}, "layer 'pair' gives a tuple, not a tensor"),
    (Deaf(), "idle", {}, "layer 'idle' is not called"),
    (nn.Flatten(), "conv", {}, "the model has no inner layers"),
    (Exploding().eval(), None, {}, "the gradient is not finite at iteration 3"),
    (Deaf(), None, {"record": [7]}, "iteration 7 cannot be recorded, as there are 6 steps"),
    (Deaf(), None, {"smoothing_draws": 4}, "4 smoothing draws without noise are all the same"),
    (Deaf(), None, {"smoothing_sigma": 0.1, "edit": spectrum_edits.truncated(1)},
     "an edit of the spectrum and smoothing do not combine"),
    (Exploding().eval(), None, {"edit": spectrum_edits.truncated(1)}, "the gradient is not finite at iteration 3"),
    (Deaf(), None, {"edit": spectrum_edits.replaced([2.0, 1.0])},
     "the spectrum has 2 eigenvalues, and J'J of this layer 3"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()), None, {},
     r"batch norms or dropouts in train mode; call model.eval\(\) first"),
    (Deaf(), None, {"step_size": -1.0}, "'step_size' is -1.0"),
    (Deaf(), None, {"smoothing": "logits"}, "'smoothing' is 'logits'"),
])
def test_bad_input_stops_in_one_sentence(model, layer, changes, message):
    with pytest.raises(ValueError, match=message):
        pgdd(model, torch.full((2, 1, 8, 8), 0.5), layer=layer, generator=0, **SETTINGS | changes)


@pytest.mark.parametrize("x, message", [(torch.full((2, 1, 8, 8), 1.5), "images must lie in"),
                                        (torch.full((2, 1, 8, 8), torch.nan), "NaN")])
def test_starts_must_be_images(x, message):
    for run in (lambda x: pgdd(Deaf(), x, **SETTINGS), lambda x: adaptive_pgdd(Deaf(), x)):
        with pytest.raises(ValueError, match=message):
            run(x)


def test_one_dead_image_does_not_silence_the_others():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    net[1].weight.data, net[1].bias.data = torch.ones(3, 4), torch.full((3,), -2.0)
    x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    found = pgdd(net, x, generator=0, **SETTINGS | {"drift_noise": 0.01, "diffusion_noise": 0.0})
    assert found.gradient_norms[0, 0] == 0 and found.gradient_norms[1, 0] > 0 and torch.equal(found.images[0], x[0])


def test_it_runs_within_no_grad_in_any_precision_and_records_what_an_iterator_names(smooth, x0):
    with torch.no_grad():
        a = pgdd(smooth, x0, generator=0, smoothing_sigma=0.1, smoothing_draws=2, record=iter([1, 2]), **SETTINGS)
    b = pgdd(smooth, x0, generator=0, smoothing_sigma=0.1, smoothing_draws=2, **SETTINGS)
    assert torch.equal(a.images, b.images) and set(a.iterates) == {1, 2}
    import copy
    half = adaptive_pgdd(copy.deepcopy(smooth).bfloat16(), x0.bfloat16(), steps=5, generator=0)
    assert half.images.dtype == torch.bfloat16 and torch.isfinite(half.images).all()


def test_features_are_those_before_a_later_layer_works_in_place():
    torch.manual_seed(3)   # signs of both kinds before the ReLU
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten())
    x = torch.rand(2, 1, 5, 5)
    h, output = layers.features(net, "0")(x)
    assert torch.equal(h, net[0](x)) and h.min() < 0 and torch.equal(output, net(x))
    assert not net[0]._forward_hooks   # nothing of the net is changed


def test_a_missing_layer_is_told_with_the_near_ones():
    net = nn.Sequential()
    net.add_module("net", nn.Sequential())
    net.net.add_module("layer4", nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"near ones: net\.layer4"):
        layers.features(net, "layer4")


def test_perlin_noise_is_perlins():
    """Against the definition, pixel by pixel: gradients at lattice points, faded with 6t^5 - 15t^4 + 10t^3."""
    found = perlin_start(2, (2, 9, 12), cells=3, octaves=2, amplitude=0.2, generator=4)
    seeds = rng.seeds(4, 2)
    for i, c, row, column in [(0, 0, 0, 0), (1, 1, 8, 11), (0, 1, 4, 7), (1, 0, 2, 5)]:
        total = 0.0
        for octave in range(2):
            k = 3 * 2**octave
            angle = 2 * math.pi * rng.uniform(seeds, (2, k + 1, k + 1), stream=octave)
            y, x = (row + 0.5) / 9 * k, (column + 0.5) / 12 * k
            value = 0.0
            for dy in (0, 1):
                for dx in (0, 1):
                    a = angle[i, c, int(y) + dy, int(x) + dx].item()
                    v, u = y % 1 - dy, x % 1 - dx
                    fade = [6 * t**5 - 15 * t**4 + 10 * t**3 for t in (1 - abs(v), 1 - abs(u))]
                    value += fade[0] * fade[1] * (math.sin(a) * v + math.cos(a) * u)
            total += value / 2**octave
        assert found[i, c, row, column].item() == pytest.approx(0.5 + 0.2 * total / (math.sqrt(0.5) * 1.5), abs=1e-5)


def test_starts_belong_to_their_seeds_and_lie_where_they_should():
    for start in (gaussian_start, perlin_start):
        seeds = rng.seeds(0, 5)
        whole, part = start(5, (3, 16, 16), generator=seeds), start(3, (3, 16, 16), generator=seeds[2:])
        assert torch.allclose(whole[2:], part, atol=1e-6)   # float32 rounding may depend on the place in a batch
    grey = gaussian_start(200, (1, 28, 28), mean=0.5, sigma=0.1, generator=1)
    assert grey.mean().item() == pytest.approx(0.5, abs=2e-3) and grey.std().item() == pytest.approx(0.1, abs=2e-3)
    smooth = perlin_start(50, (1, 28, 28), amplitude=0.1, generator=1)
    assert 0.4 <= smooth.min() and smooth.max() <= 0.6 and smooth.std() > 0.015
    step = (smooth.diff(dim=3).abs().mean(), (smooth - smooth.roll(1, 0)).abs().mean())
    assert step[0] < step[1] / 2   # neighbours are alike
