import numpy as np
import pytest
import torch
from robustgen import data, quality
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score


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
    assert quality.nearest_ssim(x, real, candidates=16).tolist() == pytest.approx(expected, abs=1e-4)
    few = quality.nearest_ssim(x, real, candidates=4)
    assert (few <= quality.nearest_ssim(x, real, candidates=16) + 1e-6).all()


def test_a_copy_is_found_among_the_real_images(digits):
    assert torch.allclose(quality.nearest_ssim(digits[0][3:5], digits[0], candidates=1), torch.ones(2), atol=1e-5)


def test_two_samples_of_one_distribution_cannot_be_told_apart():
    images = data.load("mnist", "test", 1200, seed=0).unit.flatten(1)[:, ::13]
    assert quality.two_sample_accuracy(images[:600], images[600:]) == pytest.approx(0.5, abs=0.06)
    assert quality.two_sample_accuracy(images[:600], images[600:900] + 0.2) > 0.95   # unequal sizes are balanced


def test_class_entropy_is_in_bits():
    classes = torch.tensor([0, 0, 1, 3, 3, 3])
    assert quality.class_entropy(classes) == pytest.approx(entropy(np.bincount(classes), base=2))
    assert quality.class_entropy(torch.zeros(5, dtype=torch.long)) == 0


def test_chance_is_agreement_over_pairs_of_different_images():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (9,), generator=g), torch.randint(6, (9,), generator=g)
    pairs = [a[i] == b[j] for i in range(9) for j in range(9) if i != j]
    assert quality.by_chance(a, b) == pytest.approx(sum(pairs).item() / len(pairs))
    assert quality.by_chance(torch.zeros(5).long(), torch.zeros(5).long()) == 1   # of one class only, agreement says nothing


def test_recognition_is_agreement_its_chance_and_cohens_kappa():
    g = torch.Generator().manual_seed(0)
    made = torch.randint(4, (4000,), generator=g)
    seen = [torch.where(torch.rand(4000, generator=g) < share, made, torch.randint(4, (4000,), generator=g)) for share in (0.2, 0.7)]
    share, chance, kappa = quality.recognition(made, *seen)
    assert share.mean().item() == pytest.approx(np.mean([(made == s).float().mean() for s in seen]), abs=1e-6)
    assert chance == pytest.approx(np.mean([quality.by_chance(made, s) for s in seen]))
    assert kappa.mean().item() == pytest.approx(np.mean([cohen_kappa_score(made, s) for s in seen]), abs=2e-3)
    one = torch.zeros(6, dtype=torch.long)
    assert (quality.recognition(one, one)[2] == 0).all()   # of one class only, agreement says nothing
