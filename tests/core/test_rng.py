import pytest
import scipy.stats
import torch

from robustgen.core import rng


@pytest.mark.parametrize("draw, law", [(rng.normal, "norm"), (rng.uniform, "uniform")])
def test_draws_follow_their_law_and_are_independent(draw, law):
    x = draw(rng.seeds(0, 400), (29, 31))
    assert scipy.stats.kstest(x.flatten().numpy(), law).pvalue > 1e-3
    across = torch.corrcoef(x.flatten(1))[~torch.eye(400, dtype=torch.bool)]
    assert across.std() < 1.1 / (29 * 31) ** 0.5 and across.abs().max() < 6 / (29 * 31) ** 0.5
    other = draw(rng.seeds(0, 400), (29, 31), stream=1)
    assert abs(torch.corrcoef(torch.stack([x.flatten(), other.flatten()]))[0, 1]) < 0.01


@pytest.mark.parametrize("draw", [rng.normal, rng.uniform])
def test_an_image_meets_the_same_noise_in_any_batch(draw):
    whole = draw(rng.seeds(torch.Generator().manual_seed(3), 10), (1, 5, 5))
    generator = torch.Generator().manual_seed(3)
    parts = torch.cat([draw(rng.seeds(generator, n), (1, 5, 5)) for n in (3, 7)])
    # the last bit of a float32 logarithm or sine may depend on its place in a vector register
    assert torch.allclose(whole, parts, rtol=0, atol=2e-6) and (draw is rng.normal or torch.equal(whole, parts))


def test_fold_matches_splitmix64_in_plain_integers():
    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    expected = mix((42 + 0x9E3779B97F4A7C15 * 8) % 2**64)
    assert int(rng.fold(42, 7)) % 2**64 == expected


def test_a_wrong_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="one int64 seed for each of 4 images"):
        rng.seeds(torch.zeros(3, dtype=torch.int64), 4)
