"""The Bayes-optimal classifier of a finite set of images, against torch.distributions and autograd in float64."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from robustgen.attacks.evaluation import accuracy
from robustgen.attacks.gradient_based import pgd
from robustgen.core import rng
from robustgen.probes import scores
from robustgen.probes.bayes_optimal import Bayes
from robustgen.utils.validation import check_classifier

SIGMA = 60.0
PIXELS = (3, 4, 4)
LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 2])   # unordered, 3 + 2 + 4


def images(n, seed=0):
    return torch.rand(n, *PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = 0.5 + 0.2 * (images(len(LABELS)) - 0.5)   # near one another, so that posteriors are not all 0 or 1


@pytest.fixture
def model():
    return Bayes(X, LABELS, sigma=SIGMA)


@pytest.fixture
def y():
    return scores.noisy_images(X, sigma=SIGMA, generator=1)[:6]


@pytest.fixture
def c():
    return torch.tensor([0, 1, 2, 2, 1, 0])


def mixture(x, sigma):
    """p(y) of images with equal weights."""
    normals = Independent(Normal(x.flatten(1), sigma / 255), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(x), dtype=torch.float64)), normals)


def log_joint(y, sigma=SIGMA):
    """log p(y, c) of each class, (B, 3)."""
    return torch.stack([mixture(X[LABELS == k], sigma).log_prob(y.flatten(1))
                        + ((LABELS == k).sum() / len(LABELS)).log() for k in range(3)], 1)


def gradient(function, y):
    y = y.clone().requires_grad_()
    return torch.autograd.grad(function(y).sum(), y)[0]


def test_logits_are_the_mixtures_log_joint_density_up_to_a_constant(model, y):
    difference = model(y) - log_joint(y)
    assert model(y).dtype == torch.float64 and torch.allclose(difference, difference[0, 0].expand_as(difference))
    posterior = model(y).softmax(1)
    assert torch.allclose(posterior, log_joint(y).softmax(1)) and (posterior.amax(1) < 0.99).any()


@pytest.mark.parametrize("sigma", [20.0, SIGMA, 200.0])
def test_the_denoiser_is_the_posterior_mean(model, y, c, sigma):
    weights = Independent(Normal(X.flatten(1), sigma / 255), 1).log_prob(y.flatten(1)[:, None])   # (B, N)
    assert torch.allclose(scores.denoise(model, y, sigma), (weights.softmax(1) @ X.flatten(1)).view_as(y))
    for i, k in enumerate(c):
        own = weights[i, LABELS == k].softmax(0) @ X[LABELS == k].flatten(1)
        assert torch.allclose(scores.denoise(model, y, sigma, c)[i].flatten(), own)


@pytest.mark.parametrize("sigma", [20.0, SIGMA, 200.0])
def test_the_score_is_the_gradient_of_the_mixtures_log_density(model, y, c, sigma):
    """At any noise level, not that of the classifier alone."""
    assert torch.allclose(scores.score(model, y, sigma),
                          gradient(lambda z: mixture(X, sigma).log_prob(z.flatten(1)), y))
    of_class = gradient(lambda z: log_joint(z, sigma)[torch.arange(6), c], y)
    assert torch.allclose(scores.score(model, y, sigma, c), of_class)
    assert not torch.allclose(of_class, scores.score(model, y, sigma), rtol=0.01)


def test_each_image_may_have_its_own_noise_level(model, y):
    levels = torch.tensor([10.0, 20, 30, 60, 90, 120])
    assert torch.allclose(scores.denoise(model, y, levels),
                          torch.cat([scores.denoise(model, y[i:i + 1], float(s)) for i, s in enumerate(levels)]))


def test_the_log_odds_gradient_points_from_the_other_classes_mean_to_the_own(model, y, c):
    """grad log p(c | y) / p(not c | y) = (mu_c - mu_not_c) / sigma^2."""
    weights = Independent(Normal(X.flatten(1), SIGMA / 255), 1).log_prob(y.flatten(1)[:, None])
    expected = []
    for i, k in enumerate(c):
        own, other = (weights[i, part].softmax(0) @ X[part].flatten(1) for part in (LABELS == k, LABELS != k))
        expected.append((own - other) / (SIGMA / 255) ** 2)
    assert torch.allclose(scores.log_odds_score(model, y, c), torch.stack(expected).view_as(y))


def test_the_class_score_is_the_difference_of_the_scores(model, y, c):
    expected = scores.score(model, y, SIGMA, c) - scores.score(model, y, SIGMA)
    assert torch.allclose(scores.class_score(model, y, c), expected, atol=1e-9)


def test_float32_gives_the_same_but_for_rounding(y, c):
    exact, rounded = Bayes(X, LABELS, sigma=SIGMA), Bayes(X.float(), LABELS, sigma=SIGMA)
    # logits are differences of numbers of about a hundred, of which float32 keeps some 1e-5
    assert torch.allclose(rounded(y.float()).log_softmax(1), exact(y).log_softmax(1), atol=1e-3)
    for found, expected in ((scores.score(rounded, y.float(), SIGMA, c), scores.score(exact, y, SIGMA, c)),
                            (scores.log_odds_score(rounded, y.float(), c), scores.log_odds_score(exact, y, c))):
        assert found.dtype == torch.float32 and torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_order_of_the_set_does_not_matter(model, y, c):
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    other = Bayes(X[order], LABELS[order], sigma=SIGMA)
    assert torch.allclose(other(y), model(y))
    assert torch.allclose(scores.denoise(other, y, SIGMA, c), scores.denoise(model, y, SIGMA, c))
    assert model.classes == 3 and model.counts == other.counts == [3, 2, 4]


@pytest.mark.parametrize("sigma", [SIGMA, 200.0])
def test_no_other_classifier_is_more_often_right_on_its_noisy_images(sigma):
    """Against the nearest image and the nearest class mean; and it is right as often as it says."""
    noisy = torch.cat([scores.noisy_images(X, sigma=sigma, generator=rng.seeds(draw, len(X)))
                       for draw in range(1000)]).flatten(1)
    labels = LABELS.repeat(1000)
    means = torch.stack([X[LABELS == k].mean(0) for k in range(3)]).flatten(1)
    posterior = Bayes(X, LABELS, sigma=sigma)(noisy.view(-1, *PIXELS)).softmax(1)
    found = {"Bayes": posterior.argmax(1), "image": LABELS[torch.cdist(noisy, X.flatten(1)).argmin(1)],
             "mean": torch.cdist(noisy, means).argmin(1)}
    accuracy = {name: (value == labels).double().mean().item() for name, value in found.items()}
    assert 0.4 < accuracy["Bayes"] < 0.9 and accuracy["Bayes"] > accuracy["image"], accuracy
    assert accuracy["Bayes"] > accuracy["mean"] + 0.01, accuracy
    assert accuracy["Bayes"] == pytest.approx(posterior.amax(1).mean().item(), abs=0.015)


def test_weights_are_those_of_the_images_as_they_were_given(model):
    y = X + 0.1 * torch.randn(X.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(3))
    distances = (y[:, None] - X).flatten(2).square().sum(2)
    assert torch.allclose(model.weights(y), (-distances / (2 * (SIGMA / 255) ** 2)).softmax(1).double(), atol=1e-9)


def test_it_is_a_model_as_any_other(model, y, c):
    clean, labels = X[:6], LABELS[:6]
    assert check_classifier(model, clean, labels)[1] == 3 and accuracy(model, clean, labels) == 1
    adversarial = pgd(model, clean, labels, norm="l2", eps=1.0, step_size=0.2, steps=10)
    before, after = (model(x).softmax(1)[torch.arange(6), labels] for x in (clean, adversarial))
    assert (after < before).all()
    assert not any(p.requires_grad for p in model.parameters()) and set(model.state_dict()) == {"x", "place"}


@pytest.mark.parametrize("call, message", [
    (lambda: Bayes(X, 3 * (LABELS > 0), sigma=SIGMA),
     r"^classes \[1, 2\] have no images; give some of each, or renumber the classes$"),
    (lambda: Bayes(X, LABELS[:4], sigma=SIGMA), r"^labels must be int64 of shape \(9,\), got"),
    (lambda: Bayes(X, LABELS - 1, sigma=SIGMA), "^labels must lie in 0..1"),
    (lambda: Bayes(255 * X, LABELS, sigma=SIGMA), "Divide by 255 first"),
    (lambda: Bayes(X, LABELS, sigma=0.0), "^Bayes: 'sigma' is 0.0: it should be greater than 0"),
    (lambda: Bayes(X, LABELS, sigma=SIGMA)(X[..., :3]),
     r"^the set's images have shape \(3, 4, 4\), and these \(3, 4, 3\); give such as the set's$"),
    (lambda: scores.denoise(Bayes(X, LABELS, sigma=SIGMA), X[:1], SIGMA, torch.tensor([3])),
     "^labels must lie in 0..2"),
    (lambda: scores.log_density(Bayes(X, LABELS, sigma=SIGMA), X[:1]), "the model, a Bayes, has no density"),
])
def test_what_does_not_fit_is_told_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
