"""The landscape's numbers for energies whose shape is known."""

import pytest
import torch

from robustgen.models.builders import build_model
from robustgen.probes.landscape import energy_landscape

SHAPE = (1, 4, 4)


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pixels(n, seed=0):
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plane(x, radius=0.5, points=5, **settings):
    """The directions a and b of each image, seen in what the model is shown: (N, 16) each."""
    seen = []

    def model(z):
        seen.append(z)
        return z.flatten(1)

    offsets = energy_landscape(model, x, torch.zeros(len(x), dtype=torch.long), radius=radius, points=points,
                               batch=len(x) * points**2, **settings).offsets
    grid = next(z for z in seen if len(z) == len(x) * points**2).view(len(x), points, points, 16)
    assert torch.allclose(offsets, torch.linspace(-radius, radius, points, dtype=x.dtype))
    assert torch.allclose(grid[:, points // 2, points // 2], x.flatten(1))
    a, b = (grid[:, -1, points // 2] - x.flatten(1)) / radius, (grid[:, points // 2, -1] - x.flatten(1)) / radius
    assert torch.allclose(grid - x.flatten(1)[:, None, None],
                          offsets[:, None, None] * a[:, None, None] + offsets[:, None] * b[:, None, None])
    return a, b


def bowl(centres):
    """Energies E(x, k) = |x - c_k|^2 of one class each."""
    return lambda x: -(x.flatten(1)[:, None] - centres.flatten(1)).square().sum(2)


def test_directions_are_orthonormal_and_of_their_own_seed():
    x = pixels(5)
    a, b = plane(x, generator=3)
    assert torch.allclose((a * a).sum(1), torch.ones(5).double())
    assert torch.allclose((b * b).sum(1), torch.ones(5).double())
    assert (a * b).sum(1).abs().max() < 1e-12
    gram = (torch.cat([a, b]) @ torch.cat([a, b]).T - torch.eye(10)).abs()
    assert gram.max() < 0.95 and gram.max() > 0.05   # each image has a plane of its own
    seeds = torch.arange(5)
    whole, alone = plane(x, generator=seeds), plane(x[3:4] / 2, generator=seeds[3:4])
    assert all(torch.allclose(w[3:4], o) for w, o in zip(whole, alone))


def test_batches_change_nothing():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.GELU(),
                                torch.nn.Linear(8, 4)).double()
    x, y = pixels(6), torch.tensor([0, 1, 2, 3, 0, 1])
    whole = energy_landscape(model, x, y, radius=1.0, points=7, generator=1)
    for batch in (1, 50, 10000):
        found = energy_landscape(model, x, y, radius=1.0, points=7, generator=1, batch=batch)
        assert all(torch.allclose(getattr(whole, name), getattr(found, name))
                   for name in ("rise", "offsets", "centre", "gap"))
    other = energy_landscape(model, x, y, radius=1.0, points=7, generator=2)
    assert not torch.allclose(whole.rise, other.rise, atol=1e-3) and torch.equal(whole.centre, other.centre)
    assert not whole.rise.requires_grad and (whole.rise[:, 3, 3] == 0).all()


def test_rise_is_the_energy_on_the_plane_less_the_images():
    x, y, centres = pixels(2), torch.tensor([1, 0]), numbers(3, *SHAPE, seed=1)
    found = energy_landscape(bowl(centres), x, y, radius=0.8, points=5, generator=4)
    a, b = plane(x, generator=4)
    for i, u in enumerate(found.offsets):
        for j, v in enumerate(found.offsets):
            moved = x.flatten(1) + u * a + v * b - centres.flatten(1)[y]
            assert torch.allclose(found.rise[:, i, j],
                                  moved.square().sum(1) - (x - centres[y]).flatten(1).square().sum(1))
    assert torch.allclose(found.spread, found.rise.flatten(1).std(1))


def test_the_curvature_of_a_quadratic_energy_is_that_along_the_two_directions():
    A, b = numbers(16, 16), numbers(16, seed=1)
    A = A + A.T

    def model(x):
        x = x.flatten(1)
        return torch.stack([-((x @ A) * x).sum(1) / 2 - x @ b, x @ b], 1)

    x = pixels(5)
    one, two = plane(x, generator=5)
    expected = (((one @ A) * one).sum(1) + ((two @ A) * two).sum(1)) / 2
    for points in (3, 9):
        found = energy_landscape(model, x, torch.zeros(5, dtype=torch.long), radius=0.7, points=points, generator=5)
        assert torch.allclose(found.curvature, expected)
    linear = energy_landscape(model, x, torch.ones(5, dtype=torch.long), radius=0.7, points=9, generator=5)
    assert linear.curvature.abs().max() < 1e-10 < expected.abs().min()


def test_a_linear_energy_is_lowest_in_a_corner():
    x, b = pixels(4), numbers(16)

    def model(x):
        return torch.stack([x.flatten(1) @ b, -x.flatten(1) @ b], 1)

    found = energy_landscape(model, x, torch.tensor([0, 1, 0, 1]), radius=0.5, points=5, generator=6)
    slopes = sum((direction @ b).abs() for direction in plane(x, generator=6))
    assert torch.allclose(found.depth, 0.5 * slopes)
    assert torch.allclose(found.distance, torch.full((4,), 0.5 * 2**0.5).double())


def test_an_image_at_the_bottom_of_a_bowl_is_its_planes_lowest_point():
    x = pixels(3)
    found = energy_landscape(bowl(x), x, torch.arange(3), radius=1.0, points=9, generator=7)
    assert (found.depth == 0).all() and (found.distance == 0).all()
    assert torch.allclose(found.curvature, torch.full((3,), 2.0).double()) and (found.centre == 0).all()


def test_depth_and_distance_are_those_of_the_lowest_point_of_the_grid():
    """The bowls' centres lie off the planes, over u = 0.5, v = -0.25 of the grid and over u = 0.3, v = 0.9 between its
    points."""
    x = pixels(2)
    a, b = plane(x, generator=8)
    u, v = torch.tensor([[0.5, -0.25], [0.3, 0.9]]).double().T[:, :, None]
    aside = numbers(2, 16)
    aside = aside - (aside * a).sum(1, keepdim=True) * a - (aside * b).sum(1, keepdim=True) * b
    found = energy_landscape(bowl(x.flatten(1) + u * a + v * b + aside), x, torch.arange(2), radius=1.0, points=9,
                             generator=8)
    # at (0.25, 1): E falls from 0.3^2 + 0.9^2 to 0.05^2 + 0.1^2
    assert found.depth.tolist() == pytest.approx([0.5**2 + 0.25**2, 0.9 - 0.0125])
    assert found.distance.tolist() == pytest.approx([(0.5**2 + 0.25**2) ** 0.5, (0.25**2 + 1) ** 0.5])


def test_in_a_flat_landscape_the_image_is_the_lowest_point():
    """All points tie, as they do for a net whose units are all dead there."""
    x = pixels(2)
    found = energy_landscape(lambda x: 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 2.0, 5.0]), x, torch.tensor([0, 1]),
                             radius=1.0, points=5, generator=0)
    assert (found.depth == 0).all() and (found.spread == 0).all()
    assert found.curvature.abs().max() < 1e-12 and (found.distance == 0).all()


def test_the_gap_is_the_mean_energy_of_the_other_classes_less_the_images_own():
    x, W, y = pixels(6), numbers(16, 4), torch.tensor([0, 1, 2, 3, 3, 2])
    found = energy_landscape(lambda x: x.flatten(1) @ W, x, y, radius=0.1, points=3, generator=0)
    energies = -(x.flatten(1) @ W)
    own = energies[range(6), y]
    others = torch.stack([energies[i, [k for k in range(4) if k != y[i]]].mean() for i in range(6)])
    assert torch.allclose(found.centre, own) and torch.allclose(found.gap, others - own)


@pytest.mark.parametrize("change, message", [
    ({"points": 4}, "'points' is 4: it should be odd and at least 3"),
    ({"points": 1}, "'points' is 1: it should be odd"), ({"points": 0}, "'points' is 0"),
    ({"radius": 0.0}, "'radius' is 0"), ({"radius": -1.0}, "'radius' is -1.0"), ({"batch": 0}, "'batch' is 0"),
    ({"y": torch.tensor([0, 16])}, "labels must lie in 0..15"), ({"x": 255 * pixels(2)}, "images must lie in .0, 1."),
    ({"model": build_model("resnet10", width=4, channels=1, generator=0).double()},
     "batch norms or dropouts in train mode; call model.eval"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(change, message):
    given = {"model": lambda x: x.flatten(1), "x": pixels(2), "y": torch.tensor([0, 1]), "radius": 1.0} | change
    with pytest.raises(ValueError, match=message) as error:
        energy_landscape(**given)
    assert len(str(error.value).splitlines()) == 1
