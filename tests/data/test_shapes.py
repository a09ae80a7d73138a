"""The rendered shapes: their tangents, what tells the classes apart and what does not, and how `data` reads them."""

import itertools
import warnings

import pytest
import torch

from robustgen.data.datasets import CLASSES, load_data
from robustgen.data.shapes import (
    COUNTS,
    DISTRACTOR,
    FACTORS,
    SIGNAL,
    draw_factors,
    read_shapes,
    render_shapes,
    shape_coverage,
    shape_tangents,
)
from robustgen.probes import manifold

TURNLESS = ("disc", "ring")   # they look the same however they are turned
DRAWN = {split: draw_factors(split, torch.arange(200)) for split in COUNTS}


def factors(n, seed=0):
    return torch.rand(n, len(FACTORS), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def corners(n, seed=0):
    return factors(n, seed).round()


@pytest.mark.parametrize("factor", range(len(FACTORS)), ids=lambda i: FACTORS[i])
def test_a_tangent_is_the_images_finite_difference(factor):
    z, y, h = factors(10), torch.arange(10), 1e-5
    step = h * torch.eye(len(FACTORS), dtype=z.dtype)[factor]
    difference = (render_shapes(z + step, y) - render_shapes(z - step, y)) / (2 * h)
    found = shape_tangents(z, y)
    assert found.shape == (10, 12, 3, 32, 32) and torch.allclose(found[:, factor], difference, atol=1e-6)


@pytest.mark.parametrize("z", [factors(500), corners(500), 0 * factors(10), 0 * factors(10) + 1],
                         ids=["inside", "corners", "zeros", "ones"])
def test_pixels_and_coverage_lie_in_the_unit_range(z):
    y = torch.arange(len(z)) % 10
    for found, channels in ((render_shapes(z, y), 3), (render_shapes(z.float(), y), 3), (shape_coverage(z, y), 1)):
        assert found.shape == (len(z), channels, 32, 32)
        assert torch.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_float32_renders_the_same_images():
    z, y = DRAWN["test"]
    assert render_shapes(z.float(), y).dtype == torch.float32
    assert torch.allclose(render_shapes(z.float(), y).double(), render_shapes(z, y), atol=1e-4)


def test_an_image_is_a_smooth_function_of_its_factors():
    """Second differences along random directions settle as their step shrinks: there is no kink and no jump, not even
    at the corners."""
    z, y = torch.cat([factors(40), corners(40)]), torch.arange(80) % 10
    v = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
    v = v / v.norm(dim=1, keepdim=True)
    second = [(render_shapes(z + h * v, y) - 2 * render_shapes(z, y) + render_shapes(z - h * v, y)).flatten(1) / h**2
              for h in (1e-4, 5e-5)]
    assert torch.isfinite(second[0]).all()
    assert ((second[0] - second[1]).norm(dim=1) < 1e-3 * second[0].norm(dim=1)).all()


@pytest.mark.parametrize("name", CLASSES["shapes"])
def test_an_edge_that_moves_across_pixels_has_no_kink(name):
    """The largest second difference along a line of 0.4 pixels stays what it is at half the step; at a kink it would
    double."""
    largest = []
    for n in (161, 321):
        z = torch.full((n, len(FACTORS)), 0.47, dtype=torch.float64)
        z[:, 0] = torch.linspace(0.5, 0.55, n, dtype=z.dtype)
        line = shape_coverage(z, torch.full((n,), CLASSES["shapes"].index(name)))
        largest.append((line.diff(n=2, dim=0).abs().max() / (0.05 / (n - 1)) ** 2).item())
    assert largest[0] == pytest.approx(largest[1], rel=0.01)


def test_the_tangent_space_has_a_dimension_for_each_factor_but_a_round_shapes_rotation():
    z, y = (part[:20] for part in DRAWN["test"])
    with pytest.warns(UserWarning, match="^4 of 20 tangent spaces have fewer than 12 dimensions, at least 11; their "
                                         "bases are that much smaller$"):
        basis = manifold.orthonormal(shape_tangents(z, y))
    turnless = torch.tensor([CLASSES["shapes"][c] in TURNLESS for c in y])
    assert torch.equal(manifold.basis_rank(basis), 12 - turnless.long())
    rotation = shape_tangents(z, y)[:, FACTORS.index("rotation")].flatten(1).norm(dim=1)
    assert (rotation[turnless] < 1e-9).all() and (rotation[~turnless] > 0.1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")   # the others' spaces are whole
        manifold.orthonormal(shape_tangents(z[~turnless], y[~turnless]))


def test_images_of_one_draw_differ_only_where_a_silhouette_covers():
    z = factors(20).repeat_interleave(10, 0)
    y = torch.arange(200) % 10
    image, covered = render_shapes(z, y).view(20, 10, 3, 32, 32), shape_coverage(z, y).view(20, 10, 1, 32, 32)
    for a, b in itertools.combinations(range(10), 2):
        differ = (image[:, a] - image[:, b]).abs()
        assert (differ <= (covered[:, a] - covered[:, b]).abs() + 1e-12).all()
        assert differ[(torch.maximum(covered[:, a], covered[:, b]) < 1e-6).expand_as(differ)].max() < 1e-6


def test_the_distractor_shows_through_what_the_shape_leaves_and_the_signal_only_where_it_covers():
    z = factors(10).repeat_interleave(10, 0)
    y = torch.arange(100) % 10
    signal, distractor = shape_tangents(z, y).split([len(SIGNAL), len(DISTRACTOR)], 1)
    covered = shape_coverage(z, y)[:, None]
    left = (1 - covered).view(10, 10, 1, 1, 32, 32)
    distractor = distractor.view(10, 10, 6, 3, 32, 32)
    # (1 - coverage) times the same in every class
    assert torch.allclose(distractor * left[:, :1], distractor[:, :1] * left, atol=1e-12)
    assert (left < 0.01).sum() > 1000 and (distractor.abs() < 20 * left + 1e-12).all()
    assert (distractor.abs().amax((0, 1, 3, 4, 5)) > 0.3).all()
    outside = (covered < 1e-8).expand_as(signal)
    assert outside.sum() > 1000 and signal[outside].abs().max() < 1e-5


def test_the_light_does_not_turn_with_the_shape():
    """A square that is turned by a quarter looks the same; rotation reaches over a third of a turn, so that is 0.75 of
    it."""
    z = factors(5)
    z[:, FACTORS.index("rotation")] = 0.1
    turned = z.clone()
    turned[:, FACTORS.index("rotation")] += 0.75
    square = torch.full((5,), CLASSES["shapes"].index("square"))
    assert torch.allclose(render_shapes(z, square), render_shapes(turned, square), atol=1e-6)
    assert not torch.allclose(render_shapes(z, square + 1), render_shapes(turned, square + 1), atol=1e-2)


def test_ten_consecutive_positions_share_their_factors_and_have_a_class_each():
    z, y = DRAWN["train"]
    groups = z.view(20, 10, 12)
    assert (groups == groups[:, :1]).all() and len(groups[:, 0].unique(dim=0)) == 20
    assert torch.equal(y.view(20, 10), torch.arange(10).expand(20, 10))


def test_factors_are_uniform_and_independent():
    z, _ = draw_factors("train", torch.arange(0, COUNTS["train"], 10))
    assert z.min() >= 0 and z.max() <= 1 and z.dtype == torch.float64
    assert torch.allclose(z.mean(0), torch.tensor(0.5).double(), atol=0.04)
    assert torch.allclose(z.std(0), torch.tensor(12**-0.5).double(), atol=0.02)
    assert (torch.corrcoef(z.T) - torch.eye(12)).abs().max() < 0.15   # 1000 draws: 4.5 standard errors


def test_splits_share_no_draw():
    train, test = (draw_factors(split, torch.arange(COUNTS[split]))[0].unique(dim=0) for split in ("train", "test"))
    assert len(train) == 1000 and len(test) == 200 and len(torch.cat([train, test]).unique(dim=0)) == 1200


def test_a_position_has_the_same_image_in_any_batch():
    whole = draw_factors("test", torch.arange(200))
    few = torch.tensor([150, 3, 77])
    assert all(torch.equal(a[few], b) for a, b in zip(whole, draw_factors("test", few)))
    renders, _ = read_shapes("test")
    assert len(renders) == 2000
    assert (renders[range(600)][few] == renders[few.numpy()]).all()   # more than one part of 500 against one of three


@pytest.mark.parametrize("split, n, seed", [("test", 40, 0), ("test", 40, 1), ("train", 40, 0)])
def test_loaded_images_are_the_renders_rounded(split, n, seed):
    images = load_data("shapes", split, n, seed)
    chosen = torch.randperm(COUNTS[split], generator=torch.Generator().manual_seed(seed))[:n]
    z, y = draw_factors(split, chosen)
    assert images.x.dtype == torch.uint8 and images.x.shape == (n, 3, 32, 32) and images.y.dtype == torch.int64
    assert torch.equal(images.x, (255 * render_shapes(z, y)).round().byte())
    assert torch.equal(images.y, y) and torch.equal(y, chosen % 10) and images.classes == CLASSES["shapes"]


def test_all_of_a_split_comes_in_order():
    images = load_data("shapes", "test")
    assert len(images) == 2000 and torch.equal(images.y, torch.arange(2000) % 10)
    assert torch.equal(images.x[:200], (255 * render_shapes(*DRAWN["test"])).round().byte())


def test_changing_loaded_images_does_not_change_those_loaded_later():
    first = load_data("shapes", "test", 5)
    kept = first.x.clone()
    first.x.zero_()
    assert torch.equal(load_data("shapes", "test", 5).x, kept)


@pytest.mark.parametrize("split, n", [("train", 10001), ("test", 2001)])
def test_asking_for_more_than_there_are_is_told(split, n):
    with pytest.raises(ValueError, match=f"^shapes has {COUNTS[split]} {split} images; {n} cannot be drawn. Choose 1 "
                                         f"to {COUNTS[split]}.$"):
        load_data("shapes", split, n)


def test_twins_are_further_apart_than_the_rounding_of_their_pixels():
    """The nearest pair of all classes, a disc and a square, is 0.88 apart; rounding moves an image by at most 0.11."""
    twins = render_shapes(*DRAWN["test"]).view(20, 10, -1)
    assert (torch.cdist(twins, twins) + 100 * torch.eye(10)).min() > 0.5 > 4 * 3072**0.5 / 510


def test_silhouettes_tell_the_classes():
    """A mask is nearest to its own class's among the ten in the middle, though it is shifted, enlarged and turned a
    little."""
    z, y = 0.4 + 0.2 * factors(500), torch.arange(500) % 10
    templates = shape_coverage(torch.full((10, 12), 0.5).double(), torch.arange(10)).flatten(1)
    assert torch.equal(torch.cdist(shape_coverage(z, y).flatten(1), templates).argmin(1), y)
    assert (torch.cdist(templates, templates) + 100 * torch.eye(10)).min() > 2
