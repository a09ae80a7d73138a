"""Bias and variance of classifiers (appendix D) against closed forms, scikit-learn and simulation."""

import numpy as np
import pytest
import torch
from torch.func import hessian
from torch.nn.functional import one_hot

from robustgen.core import rng
from robustgen.probes import excess_risk

MEAN = torch.tensor([0.8, 0.3, 0.0, -0.4], dtype=torch.float64)
START = torch.zeros(4, dtype=torch.float64) + 0.1
RIGHT = excess_risk.GaussianClasses(MEAN, torch.ones(2, 4, dtype=torch.float64))
WRONG = excess_risk.GaussianClasses(MEAN,
                                    torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.4, 2.0, 1.0, 0.7]], dtype=torch.float64))
FITS = {"generative": excess_risk.generative(excess_risk.opposite_means),
        "discriminative": excess_risk.discriminative(excess_risk.opposite_means)}


def drawn(truth, n, seed=0):
    x, y = truth.sample(rng.seeds(seed, 1), n)
    return x[0], y[0]


@pytest.fixture(scope="module")
def population():
    return {truth: (x := drawn(truth, 200_000)[0], truth.posterior(x)) for truth in (RIGHT, WRONG)}


def test_the_truth_is_what_it_says():
    x, y = drawn(WRONG, 100_000)
    for c, sign in ((0, -1), (1, 1)):
        assert torch.allclose(x[y == c].mean(0), sign * MEAN, atol=0.03)
        assert torch.allclose(x[y == c].std(0), WRONG.scales[c], atol=0.03)
    from scipy.stats import multivariate_normal

    densities = np.stack([multivariate_normal(s * MEAN, np.diag(WRONG.scales[c] ** 2)).pdf(x[:5])
                          for c, s in ((0, -1), (1, 1))], 1)
    assert np.allclose(WRONG.posterior(x[:5]), densities / densities.sum(1, keepdims=True))


def test_the_family_is_a_density_whose_conditional_is_logistic():
    from scipy.stats import multivariate_normal

    x = drawn(RIGHT, 5)[0]
    log_p = excess_risk.opposite_means(MEAN, x)
    assert np.allclose(log_p[:, 1], multivariate_normal(MEAN, np.eye(4)).logpdf(x) - np.log(2))
    assert torch.allclose(log_p.softmax(1)[:, 1], (2 * x @ MEAN).sigmoid())


def test_fits_are_the_mean_and_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    x, y = WRONG.sample(rng.seeds(1, 3), 300)
    p = one_hot(y, 2).double()
    mean = ((2 * y - 1)[..., None] * x).mean(1)
    assert torch.allclose(excess_risk.minimise(FITS["generative"], x, p, START), mean)
    theta = excess_risk.minimise(FITS["discriminative"], x, p, START)
    for own, data, labels in zip(theta, x, y):
        reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(data, labels)
        assert np.allclose(2 * own, reference.coef_[0], atol=1e-5)


def test_well_specified_constants_are_equations_28_and_29(population):
    x, p = population[RIGHT]
    found = {name: excess_risk.constants(excess_risk.opposite_means, loss, x, p, START) for name, loss in FITS.items()}
    for name, c in found.items():
        assert torch.allclose(c.theta, MEAN, atol=0.01), name
        assert 0 <= c.b < 1e-4
    assert found["discriminative"].v == pytest.approx(4, rel=1e-6)   # m
    s = (2 * x @ MEAN).sigmoid()
    # tr(I^-1 E[4 s (1 - s) x x']), the joint Fisher information being I
    expected = (4 * s * (1 - s) * x.square().sum(1)).mean()
    assert found["generative"].v == pytest.approx(float(expected), rel=0.01) and found["generative"].v < 4


@pytest.mark.parametrize("seed", range(10))
def test_the_excess_risk_of_a_well_specified_family_is_zero_but_never_negative(seed):
    """The true b is 0, so that rounding decides the sign of the difference that it is computed as."""
    x = drawn(RIGHT, 2000, seed)[0]
    p = RIGHT.posterior(x)
    gen, dis = (excess_risk.constants(excess_risk.opposite_means, loss, x, p, START) for loss in FITS.values())
    assert 0 <= dis.b < 1e-12 < gen.b < 1e-2 and 0 < gen.v < dis.v   # theta of gen is off the truth by its sample
    exact, off = excess_risk.excess(excess_risk.opposite_means, torch.stack([MEAN, 1.01 * MEAN]), x, p).tolist()
    assert 0 <= exact < 1e-12 < off


def test_misspecified_constants_are_the_sandwich(population):
    x, p = population[WRONG]
    gen, dis = (excess_risk.constants(excess_risk.opposite_means, loss, x, p, START) for loss in FITS.values())
    assert torch.allclose(gen.theta, MEAN, atol=0.02) and 0.01 < dis.b < gen.b
    covariance = torch.diag(WRONG.scales.square().mean(0))   # of s_c x, so of the estimator times n
    s = (2 * x @ gen.theta).sigmoid()
    curvature = (4 * s * (1 - s))[:, None, None] * x[:, :, None] * x[:, None]
    assert gen.v == pytest.approx(float(torch.trace(covariance @ curvature.mean(0))), rel=0.02)
    assert dis.v != pytest.approx(4, rel=0.02)   # m only where the model is right


def test_the_predicted_risk_is_the_measured_one(population):
    for truth in (RIGHT, WRONG):
        x, p = population[truth]
        for loss in FITS.values():
            c = excess_risk.constants(excess_risk.opposite_means, loss, x, p, START)
            measured = excess_risk.learning_curve(excess_risk.opposite_means, loss, truth.sample, [1000], 400,
                                                  x[:20_000], p[:20_000], START, generator=2)[0]
            # of the same test sample
            bias = float(excess_risk.excess(excess_risk.opposite_means, c.theta[None], x[:20_000], p[:20_000]))
            assert float(measured.mean()) - bias == pytest.approx(c.v / 2000, rel=0.25)


def test_the_excess_is_the_divergence():
    x = drawn(WRONG, 1000)[0]
    p, q = WRONG.posterior(x), excess_risk.opposite_means(MEAN, x).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    assert float(excess_risk.excess(excess_risk.opposite_means, MEAN[None], x, p)) == pytest.approx(float(divergence))


def test_newtons_curvature_is_positive_and_separable_classes_are_refused():
    x = torch.tensor([[-2.0, 0], [-1, 1], [1, 0], [2, 1]], dtype=torch.float64)[None]
    p = one_hot(torch.tensor([[0, 0, 1, 1]]), 2).double()
    curvature = hessian(lambda t: (p[0] * FITS["discriminative"](t, x[0])).sum())(START[:2])
    assert (torch.linalg.eigvalsh(curvature) > 0).all()
    with pytest.raises(ValueError, match="classes of a data set can be separated"):
        excess_risk.minimise(FITS["discriminative"], x, p, START[:2])
