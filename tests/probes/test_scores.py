"""Densities, scores and denoisers of a joint model, against autograd and dense matrices in float64."""

import pytest
import torch
from torch.nn.functional import log_softmax

from robustgen.core import rng
from robustgen.models.builders import build_model
from robustgen.probes import scores

SIGMA = torch.tensor([15.0, 25.0, 50.0])


@pytest.fixture(scope="module")
def y():
    return torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def c():
    return torch.tensor([0, 4, 9])


def joint(**changes):
    model = build_model("gradresnet", width=8, blocks=[1, 1], generator=0, **changes)
    return model.double().eval().requires_grad_(False)


def drunet():
    return build_model("drunet", width=8, blocks=1, generator=0).double().eval().requires_grad_(False)


def gradient(function, y):
    y = y.clone().requires_grad_()
    return torch.autograd.grad(function(y).sum(), y)[0]


def test_densities_are_equations_10_to_12(y, c):
    model = joint()
    marginal = -0.5 * (model.features(y) @ model.density.weight[0]) ** 2
    conditional = log_softmax(model(y), 1)[torch.arange(3), c]
    assert torch.allclose(scores.log_density(model, y), marginal)
    assert torch.allclose(scores.log_density(model, y, c), marginal + conditional)
    every = torch.stack([scores.log_density(model, y, torch.full((3,), k)) for k in range(10)], 1)
    assert torch.allclose(every.logsumexp(1), marginal)   # p(y) is the sum of p(y, c), eq. 1


def test_denoisers_and_scores_are_equations_6_and_7(y, c):
    model = joint()
    for classes in (None, c):
        expected = gradient(lambda z: scores.log_density(model, z, classes), y)
        assert torch.allclose(scores.score(model, y, SIGMA, classes), expected, atol=1e-8)
        denoised = scores.denoise(model, y, SIGMA, classes)
        assert torch.allclose(denoised, y + (SIGMA / 255).view(-1, 1, 1, 1) ** 2 * expected)


def test_the_score_is_the_densitys_by_finite_differences(y, c):
    model, h = joint(), 1e-6
    v = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    difference = (scores.log_density(model, y + h * v, c) - scores.log_density(model, y - h * v, c)) / (2 * h)
    assert torch.allclose((scores.score(model, y, 25, c) * v).sum((1, 2, 3)), difference, rtol=1e-5)


def test_the_adversarial_gradient_is_the_difference_of_denoisers(y, c):
    """Equation 9."""
    model = joint()
    difference = scores.denoise(model, y, SIGMA, c) - scores.denoise(model, y, SIGMA)
    difference = difference / (SIGMA / 255).view(-1, 1, 1, 1) ** 2
    assert torch.allclose(scores.class_score(model, y, c), difference, rtol=1e-6, atol=1e-9)
    assert torch.allclose(difference, gradient(lambda z: log_softmax(model(z), 1)[torch.arange(3), c], y), atol=1e-9)


def test_the_log_odds_gradient_is_that_of_the_class_score_over_its_rest(y, c):
    model = build_model("resnet10", width=4, generator=0).double().eval()
    p = model(y).softmax(1)[torch.arange(3), c].view(-1, 1, 1, 1)
    assert torch.allclose(scores.log_odds_score(model, y, c), scores.class_score(model, y, c) / (1 - p))
    assert torch.allclose(scores.log_odds_score(model, y, c),
                          gradient(lambda z: torch.logit(model(z).softmax(1)[torch.arange(3), c]), y))


def test_any_denoiser_has_a_score(y):
    model = drunet()
    expected = (model.denoise(y, SIGMA) - y) / (SIGMA / 255).view(-1, 1, 1, 1) ** 2
    assert torch.allclose(scores.score(model, y, SIGMA), expected)


def test_the_denoiser_can_be_differentiated(y):
    model, z = joint(), y.clone().requires_grad_()
    found, = torch.autograd.grad(scores.denoise(model, z, 25).sum(), z)
    ones = torch.ones_like(y)
    assert torch.allclose(found, scores.denoiser_matvec(model, y, 25, ones, transposed=True))


def dense(model, y, sigma):
    """The Jacobians (B, P, P), by finite differences."""
    p, h = y[0].numel(), 1e-6
    columns = [(scores.denoise(model, y + h * e, sigma) - scores.denoise(model, y - h * e, sigma)).flatten(1) / (2 * h)
               for e in torch.eye(p, dtype=y.dtype).view(p, *y.shape[1:])]
    return torch.stack(columns, 2)


@pytest.mark.parametrize("model, symmetric", [(joint(), True), (drunet(), False)])
def test_jacobian_products_are_those_of_the_matrix(model, symmetric, y):
    j = dense(model, y, SIGMA)
    v = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forward, backward = (scores.denoiser_matvec(model, y, SIGMA, v, transposed=t).flatten(1) for t in (False, True))
    assert torch.allclose(forward, (j @ v.flatten(1)[:, :, None])[:, :, 0], atol=1e-6)
    assert torch.allclose(backward, (j.mT @ v.flatten(1)[:, :, None])[:, :, 0], atol=1e-6)
    assert torch.allclose(forward, backward, atol=1e-6) == symmetric


def test_eigenvectors_are_those_of_the_matrix(y):
    model, p = joint(), y[0].numel()
    values, gains, vectors = scores.denoiser_eigenvectors(model, y, 50, largest=3, smallest=2, steps=p, generator=0)
    j = dense(model, y, 50)
    exact = torch.linalg.eigvalsh((j + j.mT) / 2)
    by_size = exact.gather(1, exact.abs().argsort(1, descending=True))
    assert torch.allclose(values[:, :3], by_size[:, :3], rtol=1e-5)
    # a full space holds the least ones, too
    assert torch.allclose(gains[:, 3:], by_size[:, -2:].flip(1).abs(), atol=1e-5)
    flat = vectors.flatten(2)
    assert torch.allclose(flat @ flat.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5), atol=1e-6)
    assert torch.allclose((j @ flat.mT).norm(dim=1), gains, atol=1e-5)
    few = scores.denoiser_eigenvectors(model, y, 50, largest=1, smallest=1, steps=40, generator=0)
    assert torch.allclose(few[0][:, :1], by_size[:, :1], rtol=1e-4)
    assert torch.allclose(few[1][:, 1], by_size[:, -1].abs(), rtol=0.01)


def test_directions_are_the_same_in_any_batch(y):
    model, seeds = joint(), rng.seeds(0, 3)
    whole = scores.denoiser_eigenvectors(model, y, SIGMA, steps=20, generator=seeds)[0]
    alone = scores.denoiser_eigenvectors(model, y[1:2], SIGMA[1:2], steps=20, generator=seeds[1:2])[0]
    assert torch.allclose(whole[1:2], alone, rtol=1e-6)


def test_a_relu_nets_jacobian_follows_from_its_scores_scale(y):
    """With ReLU, no biases and a norm at the end, the score is of degree -1 in y, so J y = 2 y - D(y) by Euler, not
    D(y)."""
    model = joint(activation="relu")
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 0.0
    jy, d = scores.denoiser_matvec(model, y, 50, y), scores.denoise(model, y, 50)
    assert torch.allclose(jy, 2 * y - d, atol=1e-9) and not torch.allclose(jy, d, atol=1e-3)


def test_noise_has_the_stated_level():
    y = scores.noisy_images(torch.full((50, 3, 16, 16), 0.5), sigma=25.0, generator=0)
    assert (y - 0.5).std().item() == pytest.approx(25 / 255, rel=0.02)
    part = scores.noisy_images(torch.full((40, 3, 16, 16), 0.5), sigma=25.0, generator=rng.seeds(0, 50)[10:])
    assert torch.allclose(y[10:], part, atol=1e-6)   # float32 rounding may depend on the place in a batch


@pytest.mark.parametrize("c", [None, torch.tensor([0, 1, 2, 3, 4])])
def test_the_psnr_is_torchmetrics_and_an_images_own(c):
    from robustgen.utils import torchvision_import  # noqa: F401 (torchmetrics imports torchvision)

    # isort: split
    from torchmetrics.functional.image import peak_signal_noise_ratio

    model, x = joint().float(), torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = rng.seeds(0, 5)
    found = scores.denoising_psnr(model, x, sigma=25.0, c=c, generator=seeds, batch=2)
    estimate = scores.denoise(model, scores.noisy_images(x, sigma=25.0, generator=seeds), 25, c)
    expected = [peak_signal_noise_ratio(b, a, data_range=1.0).item() for a, b in zip(x, estimate)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("call, message", [
    (lambda y: scores.denoise(joint(), 255 * y, 25),
     "must be in .0, 1. plus noise of sigma / 255; these reach from .* Divide images of 0-255 by 255"),
    (lambda y: scores.denoise(joint(), (255 * y).byte(), 25), "must be floats .*, got torch.uint8"),
    (lambda y: scores.denoise(joint(), y, 0.0), "sigma must be positive, in 0-255 units such as 25; got 0"),
    (lambda y: scores.denoise(joint(), y, torch.tensor([25.0, -1.0, 25.0])), "sigma must be positive"),
    (lambda y: scores.denoise(joint(), y, torch.tensor([25.0, 25.0])), "one for each of 3 images, got shape .2,."),
    (lambda y: scores.denoise(joint(), y / 0 * 0, 25), "NaN or infinite"),
    (lambda y: scores.denoise(build_model("resnet10", width=4), y, 25),
     "the model, a Sequential, has no denoising head; choose one of gradresnet"),
    (lambda y: scores.denoise(drunet(), y, 25, torch.tensor([0, 1, 2])),
     "the model, a DRUNet, has no density log p.y, c.; choose a gradresnet"),
    (lambda y: scores.log_density(drunet(), y), "has no density"),
    (lambda y: scores.denoise(drunet(), y[..., :7], 25),
     "height and width must be multiples of 8; these are .8, 7.. Pad them."),
    (lambda y: scores.denoiser_eigenvectors(joint(), y, 25, steps=4), "4 steps cannot give 5 directions"),
    (lambda y: scores.denoise(joint(), 2 * y - 1, 1), "these reach from -0.99"),
    (lambda y: scores.denoise(joint(), y, 25, torch.tensor([0])), "labels must be int64 of shape .3,."),
    (lambda y: scores.log_density(joint(), y, torch.tensor([0, 1, 10])), "labels must lie in 0..9"),
    (lambda y: scores.class_score(joint(), y, torch.tensor([0.0, 1, 2])), "labels must be int64"),
    (lambda y: scores.log_density(joint(), 255 * y), "Divide images of 0-255 by 255"),
    (lambda y: scores.denoiser_eigenvectors(drunet(), y, 25), "has no density"),
    (lambda y: scores.noisy_images(y, sigma=-1.0), "'sigma' is -1.0: it should be greater than 0"),
])
def test_bad_input_is_told_in_one_sentence(call, message, y):
    with pytest.raises(ValueError, match=message):
        call(y)
