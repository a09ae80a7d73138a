"""Fisher scores against closed forms, torch's Hessians, and each other."""

import copy
import math

import pytest
import torch
from torch import nn

from robustgen.models.builders import build_model
from robustgen.probes import fisher

DIMENSION = 16


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pixels(n, side=4, seed=0):
    return torch.rand(n, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Quadratic:
    """A classifier whose energies are quadratic: f_k(x) = -(x' A_k x / 2 + b_k' x), of three classes; all A_k are
    symmetric."""

    def __init__(self, dimension=DIMENSION, scale=1.0, diagonal=False):
        A = numbers(3, dimension, dimension, seed=1)
        A = torch.diag_embed(A.diagonal(dim1=1, dim2=2)) if diagonal else (A + A.mT) / 2
        self.A, self.b = scale * A, scale * numbers(3, dimension, seed=2)

    def __call__(self, x):
        x = x.flatten(1)
        return -(torch.einsum("bi,kij,bj->bk", x, self.A, x) / 2 + x @ self.b.T)

    def gradients(self, x):
        """Of each class's energy, (N, K, D)."""
        return torch.einsum("kij,bj->bki", self.A, x.flatten(1)) + self.b

    def traces(self):
        return self.A.diagonal(dim1=1, dim2=2).sum(1)


def perceptron(activation):
    """A small net of 1 x 4 x 4 images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 12), activation, nn.Linear(12, 12), activation,
                         nn.Linear(12, 5)).double().requires_grad_(False)


@pytest.fixture(scope="module")
def smooth():
    return perceptron(nn.GELU())


@pytest.fixture(scope="module")
def images():
    return pixels(6), torch.tensor([0, 2, 1, 2, 0, 0])


def scores(model, x, y, **settings):
    """Both scores, by name."""
    return {"joint": fisher.joint_fisher_score(model, x, y, **settings),
            "marginal": fisher.marginal_fisher_score(model, x, **settings)}


# Closed forms

def test_the_joint_score_of_a_quadratic_energy_is_its_closed_form(images):
    """Eq. 23: |A x + b|^2 / 2 - tr A. With a diagonal A each of Hutchinson's estimates is exact."""
    x, y = images
    model = Quadratic(diagonal=True)
    found = fisher.joint_fisher_score(model, x, y, draws=2, generator=0)
    gradient = model.gradients(x)[range(6), y]
    assert torch.allclose(found.square, gradient.square().sum(1) / 2) and torch.allclose(found.trace, model.traces()[y])
    assert torch.allclose(found.values, gradient.square().sum(1) / 2 - model.traces()[y])
    assert found.error.abs().max() < 1e-12
    assert found.mean == pytest.approx(found.values.mean().item())
    assert found.standard_error == pytest.approx(found.values.std().item() / 6**0.5)
    assert found.length == pytest.approx(gradient.square().sum(1).mean().sqrt().item())
    assert found.dimension == 16 and found.sigma == 0 and math.isnan(found.explained)


def test_the_marginal_score_of_quadratic_energies_is_its_closed_form(images):
    """Eq. 24, with p_k = softmax f: grad E = sum p_k g_k,
    grad^2 E = sum p_k A_k - (sum p_k g_k g_k' - grad E grad E')."""
    x, _ = images
    model = Quadratic()
    p, g = model(x).softmax(1), model.gradients(x)
    gradient = (p[:, :, None] * g).sum(1)
    trace = p @ model.traces() - (p * g.square().sum(2)).sum(1) + gradient.square().sum(1)
    found = fisher.marginal_fisher_score(model, x, draws=400, generator=0)
    assert torch.allclose(found.square, gradient.square().sum(1) / 2)
    assert ((found.trace - trace).abs() < 4 * found.error).all() and (found.error < 0.3 * trace.std()).all()
    assert torch.allclose(fisher.exact_trace(lambda z: -model(z).logsumexp(1), x), trace)


def test_a_linear_energy_has_no_curvature(images):
    x, y = images
    weights = numbers(16, 3)
    found = fisher.joint_fisher_score(lambda z: z.flatten(1) @ weights, x, y)
    assert (found.trace == 0).all() and (found.error == 0).all()
    assert torch.allclose(found.values, weights.T[y].square().sum(1) / 2)
    assert (fisher.exact_trace(lambda z: (z.flatten(1) @ weights)[:, 0], x) == 0).all()


@pytest.mark.parametrize("kind", ["joint", "marginal"])
def test_a_smooth_nets_trace_is_that_of_torchs_hessian(smooth, images, kind):
    x, y = images[0], torch.tensor([0, 4, 1, 2, 3, 3])

    def energy(z, y):
        return -smooth(z)[range(len(z)), y] if kind == "joint" else -smooth(z).exp().sum(1).log()

    hessians = [torch.autograd.functional.hessian(lambda z, i=i: energy(z[None], y[i:i + 1]).sum(), x[i]).view(16, 16)
                for i in range(6)]
    traces = torch.stack([hessian.trace() for hessian in hessians])
    assert traces.abs().min() > 1e-4
    assert torch.allclose(fisher.exact_trace(lambda z: energy(z, y), x), traces, rtol=1e-8)
    found = scores(smooth, x, y, draws=300, generator=1)[kind]
    assert ((found.trace - traces).abs() < 4 * found.error).all()
    assert abs((found.trace - traces).mean()) < 4 * found.trace_error
    # of an estimate with v_i = +-1
    variance = torch.stack([2 * (hessian.square().sum() - hessian.diagonal().square().sum()) for hessian in hessians])
    assert torch.allclose(found.error, (variance / 300).sqrt(), rtol=0.2)


def test_a_relu_nets_joint_trace_is_0_and_its_marginal_trace_that_of_the_classes_spread(images):
    x, y = images
    model = perceptron(nn.ReLU())
    joint, marginal = scores(model, x, y, draws=400, generator=2).values()
    assert (joint.trace == 0).all() and joint.scale == 0
    p = model(x).softmax(1)
    z = x.clone().requires_grad_()
    J = torch.stack([torch.autograd.grad(model(z)[:, k].sum(), z)[0].flatten(1) for k in range(5)], 1)
    expected = -((p * J.square().sum(2)).sum(1) - (p[:, :, None] * J).sum(1).square().sum(1))
    assert ((marginal.trace - expected).abs() < 4 * marginal.error).all() and (expected < 0).all()
    assert marginal.scale == 0   # no factor lowers a score without positive curvature


# Errors of estimates

@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_stated_errors_are_those_that_many_seeds_show(sigma):
    model, x, y = Quadratic(), pixels(3), torch.tensor([0, 1, 2])
    many = fisher.joint_fisher_score(model, x.repeat(400, 1, 1, 1), y.repeat(400), sigma=sigma, draws=6, generator=0,
                                     batch=1200)
    traces, stated = many.trace.view(400, 3), many.error.view(400, 3).square().mean(0).sqrt()
    assert torch.allclose(traces.std(0), stated, rtol=0.12)
    assert many.trace_error == pytest.approx(stated.square().mean().sqrt().item() / 1200**0.5)
    assert (traces.mean(0) - model.traces()).abs().max() < 4 * (stated / 20).max()
    # that of a mean over three images
    assert traces.mean(1).std().item() == pytest.approx((stated.square().sum().sqrt() / 3).item(), rel=0.15)


def test_a_single_draw_states_no_error(smooth, images):
    assert fisher.marginal_fisher_score(smooth, images[0], draws=1).error.isnan().all()


# With noise

def test_noise_adds_sigma_squared_tr_a_squared_and_leaves_the_trace():
    """|A (x + sigma e) + b|^2 / 2 has the mean (|g|^2 + sigma^2 tr A^2) / 2; its own spread is that of e' A^2 e."""
    model, x, y, sigma, n = Quadratic(), pixels(1), torch.tensor([1]), 0.4, 3000
    found = fisher.joint_fisher_score(model, x.repeat(n, 1, 1, 1), y.repeat(n), sigma=sigma, draws=2, generator=3,
                                      batch=n)
    gradient, A = model.gradients(x)[0, 1], model.A[1]
    expected = (gradient.square().sum() + sigma**2 * (A @ A).trace()) / 2
    # pairs of opposite sign: the term linear in e drops out
    error = sigma**2 / 2 * (2 * (A @ A @ A @ A).trace() / (2 * n)).sqrt()
    assert abs(found.square.mean() - expected) < 4 * error
    assert found.square.std().item() == pytest.approx((error * n**0.5).item(), rel=0.15)
    assert abs(found.trace.mean() - A.trace()) < 4 * found.trace_error and found.trace_error < 0.05 * A.norm()


def test_the_noisy_score_of_a_smooth_net_is_that_of_its_averaged_energy(smooth):
    """The trace is the mean over noise of tr grad^2 E(x + sigma e), here by exact Hessians."""
    x, y, sigma, n = pixels(1), torch.tensor([3]), 0.5, 4000
    found = fisher.joint_fisher_score(smooth, x.repeat(n, 1, 1, 1), y.repeat(n), sigma=sigma, draws=1, generator=4,
                                      batch=n)
    z = (x + sigma * numbers(n, 1, 4, 4, seed=5)).requires_grad_()
    traces = fisher.exact_trace(lambda z: -smooth(z)[:, 3], z)
    squares = torch.autograd.grad(-smooth(z)[:, 3].sum(), z)[0].flatten(1).square().sum(1) / 2
    for ours, theirs in ((found.trace, traces), (found.square, squares)):
        assert abs(ours.mean() - theirs.mean()) < 4 * ((ours.var() + theirs.var()) / n).sqrt()


@pytest.mark.parametrize("spread, sigma", [(0.1, 0.2), (0.08, 0.05)])
def test_the_energy_of_gaussian_data_explains_what_a_wiener_filter_removes(spread, sigma):
    """x ~ N(1/2, s^2 I): the noisy images' energy is |x - 1/2|^2 / 2 (s^2 + sigma^2), and sigma^2 / (s^2 + sigma^2) of
    the noise can be told."""
    x = (0.5 + spread * numbers(3000, 1, 4, 4, seed=6)).clamp(0, 1)

    def model(z):
        energy = (z - 0.5).flatten(1).square().sum(1) / (2 * (spread**2 + sigma**2))
        return torch.stack([-energy, energy - 50], 1)

    found = fisher.joint_fisher_score(model, x, torch.zeros(3000, dtype=torch.long), sigma=sigma, draws=2, generator=7,
                                      batch=3000)
    share = sigma**2 / (spread**2 + sigma**2)
    assert found.explained == pytest.approx(share, rel=0.03)
    assert found.scale == pytest.approx(1, rel=0.03)   # no factor is better than the true energy's
    assert found.mean == pytest.approx(-8 / (spread**2 + sigma**2), rel=0.03)   # F = D / 2 v - D / v
    wrong = fisher.joint_fisher_score(model, x, torch.ones(3000, dtype=torch.long), sigma=sigma, draws=2, generator=7,
                                      batch=3000)
    assert wrong.explained == pytest.approx(-share, rel=0.03) and wrong.scale == 0


# Scale

@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["joint", "marginal"])
def test_what_a_factor_of_the_energy_does(smooth, images, kind, sigma):
    """The factor is the logits' for E(x, y); for E(x), whose softmax it would sharpen, a class far above all others
    shows it."""
    x, y = images[0], torch.tensor([0, 4, 1, 2, 3, 3]) if kind == "joint" else torch.zeros(6, dtype=torch.long)
    net = smooth if kind == "joint" else lambda z: torch.cat([smooth(z)[:, :1], smooth(z)[:, :1] - 1e4], 1)
    one, ten = (scores(lambda z, c=c: c * net(z), x, y, sigma=sigma, draws=20, generator=8)[kind] for c in (1, 10))
    assert torch.allclose(ten.square, 100 * one.square)
    assert torch.allclose(ten.trace, 10 * one.trace) and torch.allclose(ten.error, 10 * one.error)
    assert ten.length == pytest.approx(10 * one.length) and ten.scale == pytest.approx(one.scale / 10)
    if sigma:
        assert ten.explained == pytest.approx(one.explained, rel=1e-9) and abs(one.explained) > 1e-6
    else:
        assert math.isnan(ten.explained)


def test_scale_is_the_factor_of_the_lowest_score(images):
    x, y = images[0], torch.zeros(6, dtype=torch.long)
    model = Quadratic(diagonal=True)
    model.A = model.A.abs()
    best = fisher.joint_fisher_score(model, x, y).scale
    assert best > 0
    lower, least, higher = (fisher.joint_fisher_score(lambda z, a=a: a * model(z), x, y).mean
                            for a in (0.9 * best, best, 1.1 * best))
    assert least < min(lower, higher) and lower == pytest.approx(higher)


# What must not matter

@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_batches_and_neighbours_change_nothing(smooth, sigma):
    x, y, seeds = pixels(10), torch.arange(10) % 5, torch.arange(10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    for kind in ("joint", "marginal"):
        whole, few, seven = (scores(smooth, x, y, sigma=sigma, draws=3, generator=seeds, batch=batch)[kind]
                             for batch in (100, 3, 7))
        mixed = scores(smooth, x[order], y[order], sigma=sigma, draws=3, generator=seeds[order], batch=4)[kind]
        for name in ("square", "trace", "error", "values"):
            values = getattr(whole, name)
            assert all(torch.allclose(values, getattr(other, name), rtol=1e-10) for other in (few, seven)), name
            assert torch.allclose(values[order], getattr(mixed, name), rtol=1e-10), name
        assert not torch.equal(whole.trace, scores(smooth, x, y, sigma=sigma, draws=3, generator=seeds + 1)[kind].trace)


def test_weights_and_grad_mode_are_left_alone(images):
    model = perceptron(nn.GELU()).requires_grad_(True)
    with torch.no_grad():
        found = scores(model, images[0], images[1], draws=2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(getattr(score, name).requires_grad for score in found.values()
                   for name in ("square", "trace", "error"))


def test_the_type_of_the_images_is_kept(smooth, images):
    single = copy.deepcopy(smooth).float()
    for sigma in (0.0, 0.2):
        ours = scores(single, images[0].float(), images[1], sigma=sigma, generator=0)
        theirs = scores(smooth, *images, sigma=sigma, generator=0)
        for kind in ours:
            assert ours[kind].square.dtype == ours[kind].trace.dtype == torch.float32
            assert torch.allclose(ours[kind].values.double(), theirs[kind].values, rtol=1e-3, atol=1e-4)


# Bad input

def infinite(x):
    """Logits that are infinite at the last image only, which the check at the door does not see."""
    return torch.cat([x.flatten(1)[:, :3].exp(), (x.flatten(1)[:, 3:4] / (x.flatten(1)[:, 4:5] - 0.75))], 1)


BATCH_NORM = build_model("resnet10", width=4, channels=1, generator=0).double()
BAD = [
    ({"x": pixels(6) * 255}, "images must lie in .0, 1.; .* Divide by 255 first"),
    ({"x": pixels(6)[0]}, r"images must be a tensor of shape \(B, C, H, W\)"),
    ({"x": pixels(6, side=5)}, r"the model does not take images of shape \(1, 5, 5\)"),
    ({"draws": 0}, "'draws' is 0"), ({"batch": 0}, "'batch' is 0"), ({"sigma": -0.1}, "'sigma' is -0.1"),
    ({"sigma": float("nan")}, "'sigma' is nan"),
    ({"sigmas": 0.1}, "parameter 'sigmas' does not exist; did you mean 'sigma'"),
    ({"model": lambda x: x.flatten(1) / 0}, "the model's logits are not finite"),
    ({"model": lambda x: torch.softmax(x.flatten(1), 1)}, "the model returns probabilities"),
    ({"model": infinite, "x": torch.cat([pixels(5), torch.full((1, 1, 4, 4), 0.75, dtype=torch.float64)])},
     "Fisher score is not finite; look for inf"),
    ({"model": BATCH_NORM, "x": pixels(6, side=8)}, "batch norms or dropouts in train mode")]
LABELS = [
    ({"y": torch.tensor([0, 5, 1, 1, 1, 1])}, "labels must lie in 0..4"),
    ({"y": torch.zeros(5, dtype=torch.long)}, r"labels must be int64 of shape \(6,\)")]


@pytest.mark.parametrize("kind, change, message", [("joint", *bad) for bad in BAD + LABELS]
                                                  + [("marginal", *bad) for bad in BAD])
def test_what_does_not_fit_is_refused_in_a_sentence(smooth, images, kind, change, message):
    given = {"model": smooth, "x": images[0], "draws": 2} | change
    with pytest.raises(ValueError, match=message) as error:
        if kind == "joint":
            fisher.joint_fisher_score(**({"y": images[1]} | given))
        else:
            fisher.marginal_fisher_score(**given)
    assert len(str(error.value).splitlines()) == 1
