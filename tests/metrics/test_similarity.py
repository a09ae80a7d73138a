from robustgen.utils.torchvision_import import torchvision  # noqa: F401 (torchmetrics imports it)

# isort: split
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from robustgen.data.datasets import load_data
from robustgen.metrics.frechet import frechet_distance, inception_score
from robustgen.metrics.labels import chance_agreement, class_entropy, recognition
from robustgen.metrics.similarity import nearest, nearest_features, nearest_ssim, two_sample_accuracy


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ssim(a, b):
    """Wang et al.'s SSIM by its definition: 11 x 11 Gaussian window of width 1.5, images mirrored at their borders."""
    def mean(z):
        return gaussian_filter(z, 1.5, truncate=5 / 1.5, mode="mirror")
    ma, mb = mean(a), mean(b)
    va, vb, ab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return ((2 * ma * mb + 0.01**2) * (2 * ab + 0.03**2) / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2))).mean()


def test_nearest_ssim_is_the_largest_over_the_real_images(digits):
    x, real = digits[0][:3], digits[0][8:24]
    expected = [max(ssim(a[0].double().numpy(), b[0].double().numpy()) for b in real) for a in x]
    assert nearest_ssim(x, real, candidates=16).tolist() == pytest.approx(expected, abs=1e-4)
    few = nearest_ssim(x, real, candidates=4)
    assert (few <= nearest_ssim(x, real, candidates=16) + 1e-5).all()   # equal up to rounding where few suffice


def test_a_copy_is_found_among_the_real_images(digits):
    assert torch.allclose(nearest_ssim(digits[0][3:5], digits[0], candidates=1), torch.ones(2), atol=1e-5)


def test_nearest_finds_the_most_similar_of_all_real_images_most_similar_first(digits):
    x, real = digits[0][:3], digits[0][8:24]
    expected = torch.tensor([[ssim(a[0].double().numpy(), b[0].double().numpy()) for b in real] for a in x])
    value, index = nearest(x, real, count=5, candidates=16)
    best = expected.sort(1, descending=True)
    assert torch.equal(index, best.indices[:, :5]) and torch.allclose(value, best.values[:, :5].float(), atol=1e-4)
    assert torch.equal(value[:, 0], nearest_ssim(x, real, candidates=16))
    single = nearest(x[:1], real, count=1, candidates=16)
    assert torch.allclose(single[0], value[:1, :1]) and torch.equal(single[1], index[:1, :1])


def test_candidates_are_the_real_images_of_highest_correlation(digits):
    # of various brightness
    x, real = digits[0][:3], digits[0][8:] / 2 + torch.linspace(0, 0.5, 24)[:, None, None, None]
    correlation = np.corrcoef(x.flatten(1), real.flatten(1))[:3, 3:]
    index = nearest(x, real, count=6, candidates=6)[1]
    assert [set(row) for row in index.tolist()] == [set(row) for row in np.argsort(-correlation, 1)[:, :6].tolist()]


def test_a_copy_is_the_nearest_by_pixels_and_by_features(digits):
    copies, real = digits[0][[7, 3]], digits[0]
    value, index = nearest(copies, real)
    assert index.shape == (2, 10) and index[:, 0].tolist() == [7, 3]
    assert torch.allclose(value[:, 0], torch.ones(2), atol=1e-5)
    distance, index = nearest_features(real.flip(0).flatten(1), real.flatten(1))
    assert torch.equal(index[:, 0], torch.arange(32).flip(0))
    assert (distance[:, 0] == 0).all() and (distance[:, 1:] > 0).all()


def test_nearest_features_are_the_nearest_by_brute_force():
    a, real = normal(4, 6), normal(40, 6, seed=1)
    expected = torch.tensor([[(p - q).square().sum().sqrt() for q in real] for p in a]).sort(1)
    distance, index = nearest_features(a, real, count=7)
    assert torch.equal(index, expected.indices[:, :7]) and torch.allclose(distance, expected.values[:, :7], atol=1e-5)


def test_frechet_distance_agrees_with_scipy_and_torchmetrics():
    """Features of images that torchmetrics turns into bytes, so whole numbers."""
    a, b = ((normal(n, 3, 2, 2, seed=n) * scale + 100).byte() for n, scale in [(60, 20), (80, 30)])
    theirs = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 2, 2))
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = frechet_distance(a.flatten(1).float(), b.flatten(1).float())
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)
    p, q = a.flatten(1).double().numpy(), b.flatten(1).double().numpy()
    root = np.trace(sqrtm(np.cov(p.T) @ np.cov(q.T)).real)
    assert ours == pytest.approx(((p.mean(0) - q.mean(0)) ** 2).sum() + p.var(0, ddof=1).sum() + q.var(0, ddof=1).sum()
                                 - 2 * root, rel=1e-9)


@pytest.mark.parametrize("n", [5, 200])   # fewer and more than the numbers of an image
def test_frechet_distance_of_a_shift_and_of_a_scale_is_known(n):
    a, shift = normal(n, 20).double(), normal(20, seed=1).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)   # of the rounding of 2 tr S, some 40
    assert frechet_distance(a, a[torch.randperm(n)] + shift) == pytest.approx(shift.square().sum().item())
    # (3 - 1)^2 tr S
    assert frechet_distance(a - a.mean(0), 3 * (a - a.mean(0))) == pytest.approx(4 * a.var(0).sum().item())
    far = (a + 1e4).float()
    assert frechet_distance(far, far + 1) == pytest.approx(20, rel=1e-3)   # in float32, squares of 1e4 would hide it


@pytest.mark.filterwarnings("ignore::UserWarning")   # torchmetrics', of one split
def test_inception_score_agrees_with_its_definition_and_torchmetrics():
    logits = 3 * normal(50, 7)
    p = logits.double().softmax(1).numpy()
    expected = [np.exp(np.mean([entropy(row, part.mean(0)) for row in part])) for part in np.split(p, 5)]
    assert inception_score(logits, splits=5).tolist() == pytest.approx(expected)
    whole = inception_score(logits)
    assert whole == pytest.approx(np.exp(np.mean([entropy(row, p.mean(0)) for row in p])))
    assert inception_score(logits.softmax(1)) == pytest.approx(whole, rel=1e-6)
    for mean in (-100, 1 / 7):   # rows that sum to 1 are no probabilities where some numbers are negative
        assert inception_score(logits - logits.mean(1, keepdim=True) + mean) == pytest.approx(whole, rel=1e-4)
    theirs = InceptionScore(feature=Pixels(), splits=1)
    images = (normal(50, 7, 1, 1) * 2 + 9).byte()
    theirs.update(images)
    assert inception_score(images.flatten(1).float()) == pytest.approx(theirs.compute()[0].item(), rel=1e-6)


def test_inception_score_is_from_1_to_the_number_of_classes():
    one_hot = torch.eye(6).repeat(5, 1)
    for outputs, expected in [(torch.full((9, 6), 1 / 6), 1), (torch.zeros(9, 6), 1), (normal(1, 6).repeat(9, 1), 1),
                              (one_hot, 6), (1e4 * one_hot, 6)]:
        assert inception_score(outputs) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("call, message", [
    (lambda f: frechet_distance(f[:1], f), "a Gaussian is fitted to at least 2 images, got 1 and 20; "),
    (lambda f: frechet_distance(f, f[:, 1:]), "features of both samples must be of one length, got 3 and 2"),
    (lambda f: frechet_distance(f, f * torch.nan), "features hold NaN or infinite values"),
    (lambda f: frechet_distance(f.long(), f),
     r"features must be floats of shape \(images, numbers\), got torch.int64 \(20, 3\)"),
    (lambda f: frechet_distance(f.numpy(), f), "got ndarray"),
    (lambda f: nearest_features(f, f[:9]), "count must be at most the number of real images compared, got 10 of 9"),
    (lambda f: nearest_features(f[0], f), r"got torch.float32 \(3,\)"),
    (lambda f: inception_score(f / 0), "outputs hold NaN or infinite values"),
    (lambda f: inception_score(f, splits=21), "splits must be at most the number of images, got 21 of 20"),
    (lambda f: inception_score(f, splits=0), "inception_score: 'splits' is 0"),
    (lambda f: nearest(f, f), r"images must be a tensor of shape \(B, C, H, W\)"),
    (lambda f: nearest(torch.rand(2, 1, 28, 28), torch.rand(20, 1, 32, 32)),
     r"of one shape \(C, H, W\), got \(1, 28, 28\) and \(1, 32, 32\)"),
    (lambda f: nearest(torch.rand(2, 1, 28, 28), torch.rand(9, 1, 28, 28)), "got 10 of 9"),
    (lambda f: nearest(torch.rand(2, 1, 28, 28), torch.rand(9, 1, 28, 28), count=4, candidates=3), "got 4 of 3"),
    (lambda f: nearest(torch.rand(2, 1, 28, 28), torch.rand(9, 1, 28, 28) * 255, count=4), "Divide by 255 first"),
])
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(normal(20, 3))
    assert len(str(error.value).splitlines()) == 1


class Pixels(torch.nn.Module):
    """A feature net for torchmetrics: the pixels themselves."""

    def forward(self, x):
        return x.flatten(1).double()


def test_two_samples_of_one_distribution_cannot_be_told_apart():
    images = load_data("mnist", "test", 1200, seed=0).unit.flatten(1)[:, ::13]
    assert two_sample_accuracy(images[:600], images[600:]) == pytest.approx(0.5, abs=0.06)
    assert two_sample_accuracy(images[:600], images[600:900] + 0.2) > 0.95   # unequal sizes are balanced


def test_class_entropy_is_in_bits():
    classes = torch.tensor([0, 0, 1, 3, 3, 3])
    assert class_entropy(classes) == pytest.approx(entropy(np.bincount(classes), base=2))
    assert class_entropy(torch.zeros(5, dtype=torch.long)) == 0


def test_chance_is_agreement_over_pairs_of_different_images():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (9,), generator=g), torch.randint(6, (9,), generator=g)
    pairs = [a[i] == b[j] for i in range(9) for j in range(9) if i != j]
    assert chance_agreement(a, b) == pytest.approx(sum(pairs).item() / len(pairs))
    # of one class only, agreement says nothing
    assert chance_agreement(torch.zeros(5).long(), torch.zeros(5).long()) == 1


def test_recognition_is_agreement_its_chance_and_cohens_kappa():
    g = torch.Generator().manual_seed(0)
    made = torch.randint(4, (4000,), generator=g)
    seen = [torch.where(torch.rand(4000, generator=g) < share, made, torch.randint(4, (4000,), generator=g))
            for share in (0.2, 0.7)]
    share, chance, kappa = recognition(made, *seen)
    assert share.mean().item() == pytest.approx(np.mean([(made == s).float().mean() for s in seen]), abs=1e-6)
    assert chance == pytest.approx(np.mean([chance_agreement(made, s) for s in seen]))
    assert kappa.mean().item() == pytest.approx(np.mean([cohen_kappa_score(made, s) for s in seen]), abs=2e-3)
    one = torch.zeros(6, dtype=torch.long)
    assert (recognition(one, one)[2] == 0).all()   # of one class only, agreement says nothing
