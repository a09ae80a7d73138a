import pytest
import torch
from test_drift import SETTINGS, drift, smooth, x0  # noqa: F401 (fixtures)

from robustgen.core import rng
from robustgen.probes import spectral
from robustgen.sampling import spectrum_edits
from robustgen.sampling.drift import pgdd
from robustgen.sampling.starts import gaussian_start


def directions(smooth, x0, seeds, edit, where):  # noqa: F811
    """The direction that one noiseless step of PGDD with an edit takes from `where`."""
    noisy = drift(seeds, x0, 0.2)
    where = where.clone().requires_grad_()
    return spectrum_edits.edited_gradient(smooth(where), where, noisy, smooth(noisy), edit).flatten(1)


@pytest.mark.parametrize("edit", [spectrum_edits.powered(1.0), spectrum_edits.truncated(5),
                                  spectrum_edits.floored(0.0)])
def test_an_edit_that_changes_nothing_leaves_pgdd(smooth, x0, edit):  # noqa: F811
    plain, edited = (pgdd(smooth, x0, generator=0, edit=e, **SETTINGS) for e in (None, edit))
    assert torch.allclose(plain.images, edited.images, atol=1e-9)
    assert torch.allclose(plain.gradient_norms, edited.gradient_norms)


@pytest.mark.parametrize("name, edit, expected", [
    ("truncated", spectrum_edits.truncated(2), lambda s: s * torch.tensor([1, 1, 0, 0, 0])),
    ("flat", spectrum_edits.powered(0.0), lambda s: torch.ones_like(s)),
    ("squared", spectrum_edits.powered(2.0), lambda s: s**2),
    ("floored", spectrum_edits.floored(0.3), lambda s: s + 0.3 * s[0]),
    ("replaced", spectrum_edits.replaced([8.0, 4.0, 2.0, 1.0, 0.0]),
     lambda s: s[0] * torch.tensor([1, 0.5, 0.25, 0.125, 0]).double()),
])
def test_edits_weigh_the_eigenvectors_of_the_gram_operator(smooth, x0, name, edit, expected):  # noqa: F811
    """Against the singular value decomposition in pixel space: -2 V L' V' e, e from the feature difference within V."""
    seeds = rng.seeds(5, len(x0))
    where = pgdd(smooth, x0, generator=7, **SETTINGS).images   # off the start, where J'J e is no longer exact
    found = directions(smooth, x0, seeds, edit, where)
    for i in range(len(x0)):
        noisy = drift(seeds[i:i + 1], x0[i:i + 1], 0.2)
        j = torch.func.jacfwd(lambda z: smooth(z)[0])(where[i:i + 1]).reshape(5, -1)
        d, e = (smooth(where[i:i + 1]) - smooth(noisy))[0], (noisy - where[i:i + 1]).flatten()
        _, s, vh = torch.linalg.svd(j, full_matrices=False)
        inside = -torch.linalg.pinv(j) @ d
        gradient = -2 * vh.T @ (expected(s**2).double() * (vh @ inside))
        if name == "floored":
            gradient -= 2 * 0.3 * s[0] ** 2 * (e - vh.T @ (vh @ e))
        assert torch.allclose(found[i], gradient, rtol=1e-6, atol=1e-9 * gradient.abs().max())


def test_pgdds_gradient_tends_to_the_gram_operator_at_first_order(smooth, x0):  # noqa: F811
    """Halving e halves the relative distance of eq. 7 from eq. 8, as for any smooth net; a linear one has none."""
    error = spectral.linearisation(smooth, x0, radii=[1e-2, 5e-3, 2.5e-3], generator=0)
    assert torch.allclose(error[:, 0] / error[:, 1], torch.full((7,), 2.0).double(), rtol=0.1)
    assert torch.allclose(error[:, 1] / error[:, 2], torch.full((7,), 2.0).double(), rtol=0.1)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).double()
    assert spectral.linearisation(linear, x0, radii=[1.0], generator=0).max() < 1e-10


def test_it_does_so_on_a_real_net(net):
    """At a tenth of a grey level nearly no kink lies between x and x + e."""
    start = gaussian_start(8, (1, 28, 28), generator=1).double()
    import copy
    error = spectral.linearisation(copy.deepcopy(net).double(), start, layer="7", radii=[1.0, 1e-4], generator=0)
    assert error[:, 1].median() < 1e-2 < error[:, 0].median()


def test_what_an_edit_may_be_is_checked():
    for make, message in ((lambda: spectrum_edits.truncated(0), "greater than or equal to 1"),
                          (lambda: spectrum_edits.powered(-1.0), "greater than or equal to 0")):
        with pytest.raises(ValueError, match=message):
            make()


