import numpy as np
import pytest
import scipy.stats
import torch

from robustgen.core import rng
from robustgen.probes import jacobian, spectral


@pytest.fixture(scope="module")
def dense(net, digits):
    """The Jacobian of four images in float64, by autograd's own dense routine."""
    x = digits[0][:4].double()
    double = torch.nn.Sequential(*net).double()
    j = torch.stack([torch.autograd.functional.jacobian(lambda v: double(v[None])[0], image).flatten(1) for image in x])
    net.float()
    return j


def test_gram_matvec_matches_the_dense_product(net, digits, dense):
    v = rng.normal(rng.seeds(0, 4), (1, 28, 28))
    ours = jacobian.gram_matvec(net, digits[0][:4], v).flatten(1).double()
    theirs = (dense.mT @ (dense @ v.double().flatten(1)[:, :, None]))[:, :, 0]
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max())


@pytest.mark.parametrize("method", ["exact", "subspace", "lanczos"])
def test_every_method_finds_the_dense_spectrum(net, digits, dense, method):
    theirs = torch.linalg.svdvals(dense)[:, :6] ** 2
    ours = spectral.spectrum(net, digits[0][:4], 6, method=method, tolerance=1e-6, generator=0)
    assert ours.shape == (4, 6) and not ours.requires_grad
    assert torch.allclose(ours, theirs, rtol=1e-3)


def test_energy_ratio_agrees_with_the_dense_operator_and_does_not_depend_on_batch_or_sigma(net, digits, dense):
    x, seeds = digits[0][:4], rng.seeds(0, 4)
    ours = spectral.energy_ratio(net, x, n_draws=16, generator=seeds)
    noise = rng.normal(seeds, (16, 784)).double()
    response = noise @ dense.mT @ dense
    assert torch.allclose(ours.double(), (response.norm(dim=2) / noise.norm(dim=2)).mean(1), rtol=1e-3)
    # float32 rounding differs between batches and processors
    assert torch.allclose(spectral.energy_ratio(net, x[2:], n_draws=16, generator=seeds[2:]), ours[2:], rtol=1e-4)
    assert torch.allclose(spectral.energy_ratio(net, x, n_draws=16, sigma=2.0, generator=seeds), ours, rtol=1e-4)


def test_few_draws_take_the_matrix_free_way_to_the_same_response(net, digits):
    x = digits[0][:2]
    noise, free = spectral.noise_response(net, x, 4, 0.25, generator=0)      # 10 > 2 * 4: products
    j = jacobian.logit_jacobian(net, x)
    assert torch.allclose(free.flatten(2), noise.flatten(2) @ j.mT @ j, rtol=1e-3, atol=1e-5)


def test_expected_energy_is_sigma2_times_the_sum_of_squared_eigenvalues(net, digits):
    x = digits[0][:2]
    _, response = spectral.noise_response(net, x, 4000, 0.25, generator=0)
    energy = response.double().flatten(2).square().sum(2)
    exact = 0.25**2 * spectral.spectrum(net, x).square().sum(1)              # eq. 3
    error = energy.std(1) / 4000**0.5
    assert ((energy.mean(1) - exact).abs() < 4 * error).all()


def test_power_law_is_scipys_regression_and_exact_on_a_power_law():
    values = torch.tensor([[9.0, 4.0, 2.5, 1.0, 0.2], [3.0, 2.9, 1.1, 1.0, 0.9]], dtype=torch.float64)
    exponent, r2 = spectral.power_law(values)
    for row, a, r in zip(values, exponent, r2):
        fit = scipy.stats.linregress(np.log(np.arange(1, 6)), np.log(row))
        assert a == pytest.approx(-fit.slope) and r == pytest.approx(fit.rvalue**2)
    exponent, r2 = spectral.power_law(torch.arange(1, 9).double() ** -1.7)
    assert exponent == pytest.approx(1.7) and r2 == pytest.approx(1)
    with pytest.raises(ValueError, match="three positive eigenvalues"):
        spectral.power_law(torch.tensor([1.0, 0.0, 0.0]))


def test_tail_and_participation_ratio():
    assert spectral.tail(torch.arange(10, 0, -1), 8) == 3
    assert spectral.participation_ratio(torch.tensor([2.0, 2.0, 2.0, 0.0])) == 3


def test_class_agreement_counts_equal_answers(net, digits):
    x = digits[0]
    other = x.flip(0)
    same = (net(x).argmax(1) == net(other).argmax(1)).double()
    assert torch.equal(spectral.class_agreement(net, x, torch.stack([x, other], 1)), (1 + same) / 2)


def test_scalings_reach_from_black_to_white():
    images = torch.tensor([[-2.0, 0.0, 2.0], [1.0, 3.0, 5.0]]).view(2, 1, 1, 3)
    assert spectral.full_range(images).flatten(1).tolist() == [[0, 0.5, 1], [0, 0.5, 1]]
    assert torch.allclose(spectral.bright(images).flatten(1), torch.tensor([[0, 0, 1], [0.2, 0.6, 1]]))


@pytest.mark.parametrize("call, message", [
    (lambda net, x: spectral.spectrum(net, x, 11), "k = 11 must lie in 1..10"),
    (lambda net, x: spectral.spectrum(net, x, method="power"), "it should be 'exact', 'subspace' or 'lanczos'"),
    (lambda net, x: spectral.spectrum(net, x * 255),
     "must lie in \\[0, 1\\]; these reach from 0 to 255. Divide by 255"),
    (lambda net, x: spectral.energy_ratio(net, x, sigma=-1.0), "'sigma' is -1.0: it should be greater than 0"),
])
def test_bad_input_is_refused_in_a_sentence(net, digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(net, digits[0])
