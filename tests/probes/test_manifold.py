"""On- and off-manifold robustness, against explicit matrices, reverse mode, scipy and closed forms."""

import math
import warnings

import pytest
import scipy.linalg
import torch
from torch import nn

from robustgen.core import rng
from robustgen.core.images import psnr
from robustgen.models.builders import build_model
from robustgen.probes import manifold

SHAPE = (2, 3, 4)   # 24 pixels
WEAK, ALIGNED, EXCESSIVE = manifold.REGIMES


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def basis():
    """Of three images: five directions each, at the third only three."""
    tangents = normal(3, 5, *SHAPE)
    tangents[2, 3:] = tangents[2, :2]
    with pytest.warns(UserWarning, match="1 of 3 tangent spaces have fewer than 5 dimensions, at least 3"):
        return manifold.orthonormal(tangents)


@pytest.fixture
def x():
    return torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def projectors(basis):
    """P explicitly, (B, pixels, pixels)."""
    q = basis.flatten(2)
    return q.mT @ q


def times(p, v):
    return (p @ v.flatten(1)[..., None]).view_as(v)


def smooth_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))
    return net.double().eval().requires_grad_(False)


class Linear(nn.Module):
    """f(x) = <g, x>, and as a classifier of two classes its logits (f, 0)."""

    def __init__(self, g):
        super().__init__()
        self.g = g

    def forward(self, x):
        return (x * self.g).sum((1, 2, 3))


# Bases

@pytest.mark.parametrize("latent, size, images, batch", [(8, 32, 1, 16), (5, 16, 3, 2)])
def test_the_basis_spans_the_columns_that_reverse_mode_gives(latent, size, images, batch):
    autoencoder = build_model("autoencoder", latent=latent, width=8, size=size, generator=0).eval()
    z = normal(images, latent).float()
    basis = manifold.tangent_basis(autoencoder.decode, z, batch=batch)
    assert basis.shape == (images, latent, 3, size, size) and basis.dtype == torch.float32 and not basis.requires_grad
    exact = autoencoder.double()
    for i in range(images):
        # (pixels, latent)
        jacobian = torch.func.jacrev(lambda z: exact.decode(z[None]).flatten(), chunk_size=768)(z[i].double())
        q, _ = torch.linalg.qr(jacobian.detach())
        assert (projectors(basis)[i] - q @ q.T).abs().max() < 1e-4


def test_a_basis_is_orthonormal_largest_directions_first_and_an_images_own():
    decode = build_model("autoencoder", latent=6, width=4, size=16, generator=0).eval().decode
    z = normal(5, 6).float()
    basis = manifold.tangent_basis(decode, z, batch=2)
    flat = basis.flatten(2)
    assert torch.allclose(flat @ flat.mT, torch.eye(6).expand(5, 6, 6), atol=1e-5)
    assert (manifold.basis_rank(basis) == 6).all()
    for part in (manifold.tangent_basis(decode, z),
                 torch.cat([manifold.tangent_basis(decode, one) for one in z.split(1)])):
        assert torch.allclose(projectors(part), projectors(basis), atol=1e-5)
    tangents = normal(2, 4, *SHAPE)
    u = torch.linalg.svd(tangents.flatten(2).mT)[0][:, :, :4]
    assert torch.allclose((manifold.orthonormal(tangents).flatten(2) @ u).abs(), torch.eye(4).double().expand(2, 4, 4),
                          atol=1e-9)


def test_where_directions_are_lacking_the_basis_is_smaller_and_that_is_told():
    scale = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1e-5]])
    a = normal(4, 24).float()
    with pytest.warns(UserWarning, match="^2 of 3 tangent spaces have fewer than 4 dimensions, at least 2; their "
                                         "bases are that much smaller$"):
        basis = manifold.orthonormal((scale[:, :, None] * a).view(3, 4, *SHAPE))
    assert manifold.basis_rank(basis).tolist() == [4, 2, 2] and (basis[1:, 2:] == 0).all()
    # a share, whatever the tangents' size
    with pytest.warns(UserWarning, match=r"^2 of 3 tangent spaces have fewer than 4 dimensions, at least 2;"):
        small = manifold.orthonormal((1e-6 * scale[:, :, None] * a).view(3, 4, *SHAPE))
    assert manifold.basis_rank(small).tolist() == [4, 2, 2]
    assert (projectors(basis)[1] - torch.linalg.pinv(a[:2]) @ a[:2]).abs().max() < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = manifold.orthonormal((scale[:1, :, None] * a).view(1, 4, *SHAPE))
        assert manifold.basis_rank(whole).tolist() == [4]
        # a lower bar
        low = manifold.orthonormal((scale[2:, [0, 2, 3], None] * a[[0, 2, 3]]).view(1, 3, *SHAPE), rtol=1e-7)
        assert manifold.basis_rank(low).tolist() == [3]


def test_a_decoder_that_is_lame_in_some_latents_has_a_smaller_basis():
    decode = build_model("autoencoder", latent=6, width=4, size=16, generator=0).eval().decode
    with pytest.warns(UserWarning, match="4 of 4 tangent spaces have fewer than 6 dimensions, at least 3"):
        basis = manifold.tangent_basis(lambda z: decode(z * torch.tensor([1, 0, 1, 0, 1, 0.0])), normal(4, 6).float(),
                                       batch=2)
    assert (manifold.basis_rank(basis) == 3).all()


@pytest.mark.parametrize("make", [
    lambda: manifold.tangent_basis(lambda z: 0 * z.sum(1)[:, None, None, None].expand(-1, *SHAPE), normal(2, 3)),
    lambda: manifold.orthonormal(torch.zeros(2, 3, *SHAPE)),
    lambda: manifold.orthonormal(torch.full((2, 3, *SHAPE), torch.nan)),
    lambda: manifold.orthonormal(torch.full((2, 3, *SHAPE), torch.inf)),
], ids=["constant decoder", "zero tangents", "NaN", "infinite"])
def test_a_space_without_a_direction_is_refused(make):
    with pytest.raises(ValueError, match="^2 of 2 tangent spaces have no direction: the images do not depend on z "
                                         "there, or are not finite$"):
        make()


# Projection

def test_the_two_parts_are_those_of_the_explicit_projector(basis, x):
    v, p = normal(3, *SHAPE, seed=2), projectors(basis)
    on, off = manifold.split_tangent(v, basis)
    assert torch.allclose(on, times(p, v)) and torch.allclose(off, v - times(p, v))
    assert torch.allclose(on + off, v) and ((on * off).sum((1, 2, 3)).abs() < 1e-12).all()
    again, rest = manifold.split_tangent(on, basis)
    assert torch.allclose(again, on) and rest.abs().max() < 1e-12
    assert torch.allclose(p @ p, p)
    assert torch.allclose(p.diagonal(dim1=1, dim2=2).sum(1), manifold.basis_rank(basis).double())


def test_principal_angles_are_scipys(basis):
    other = manifold.orthonormal(normal(3, 7, *SHAPE, seed=3))
    other[0, :2] = basis[0, :2]   # shared directions have angle zero
    other[:1] = manifold.orthonormal(other[:1])
    for a, b in ((basis, other), (other, basis)):
        found = manifold.principal_angles(a, b)
        assert found.shape == (3, 5)
        for i, r in enumerate([5, 5, 3]):
            expected = scipy.linalg.subspace_angles(basis[i].flatten(1)[:r].T.numpy(), other[i].flatten(1).T.numpy())
            expected = torch.rad2deg(torch.from_numpy(expected[::-1].copy()))
            assert torch.allclose(found[i, :r], expected, atol=1e-4)
            assert found[i, r:].isnan().all()
    assert (found[0, :2] < 1e-4).all() and found[0, 2] > 5
    assert (manifold.principal_angles(basis, basis).nan_to_num(0) < 1e-4).all()


def test_the_angle_between_two_lines_is_theirs():
    a, b = torch.zeros(2, 1, 1, 2, 2), torch.zeros(2, 1, 1, 2, 2)
    a[:, 0, 0, 0, 0] = 1
    for i, degrees in enumerate((30, 90)):
        b[i, 0, 0, 0] = torch.tensor([math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))])
    assert manifold.principal_angles(a, b).flatten().tolist() == pytest.approx([30, 90], abs=1e-4)


def test_random_directions_have_length_one_and_lie_on_and_off_the_manifold(basis):
    on, off = manifold.directions(basis, draws=6, generator=0)
    for part in (on, off):
        assert part.shape == (3, 6, *SHAPE) and part.dtype == torch.float64
        assert torch.allclose(part.flatten(2).norm(dim=2), torch.ones(3, 6).double())
    p = projectors(basis)
    assert torch.allclose(on.flatten(2) @ p, on.flatten(2)) and (off.flatten(2) @ p).abs().max() < 1e-12
    assert torch.linalg.matrix_rank(on.flatten(2)).tolist() == [5, 5, 3]   # every direction of the space


def test_directions_are_the_same_in_any_batch_and_uniform_in_the_space(basis):
    seeds = rng.seeds(0, 3)
    whole = manifold.directions(basis, draws=4, generator=0)
    for i in range(3):
        assert all(torch.allclose(a[i:i + 1], b)
                   for a, b in zip(whole, manifold.directions(basis[i:i + 1], draws=4, generator=seeds[i:i + 1])))
    on, _ = manifold.directions(basis[:1], draws=20000, generator=1)
    parts = on[0].flatten(1) @ basis[0].flatten(1).T
    assert torch.allclose(parts.T @ parts / 20000, torch.eye(5).double() / 5, atol=0.01)
    assert parts.mean(0).abs().max() < 0.02


# Sensitivity

@pytest.mark.parametrize("batch", [500, 1])
def test_sensitivity_is_the_mean_change_of_the_probabilities(basis, x, batch):
    model, radii, draws = smooth_net(), [0.1, 1.0, 5.0], 4

    def change(i, step):
        return (model(x[i:i + 1] + step).softmax(1) - model(x[i:i + 1]).softmax(1)).norm()

    found = manifold.sensitivity(model, x, basis, radii=radii, draws=draws, generator=0, batch=batch)
    for side, moves in zip(found, manifold.directions(basis, draws=draws, generator=0)):
        expected = [[torch.stack([change(i, r * u) for u in moves[i]]).mean() for r in radii] for i in range(3)]
        assert side.shape == (3, 3) and not side.requires_grad
        assert torch.allclose(side, torch.tensor(expected, dtype=torch.float64))
    assert not torch.allclose(*found)


def test_a_net_that_sees_only_one_side_of_the_manifold_moves_on_it_alone(basis, x):
    model, one = smooth_net(), basis[:1]
    for side in (0, 1):
        def one_sided(z):
            return model(manifold.split_tangent(z, one.expand(len(z), *one.shape[1:]))[side])

        found = manifold.sensitivity(one_sided, x[:1], one, radii=[0.5, 2.0], draws=5)
        assert (found[side] > 1e-3).all() and (found[1 - side] < 1e-12).all()


@pytest.mark.parametrize("mask, moves", [(torch.zeros(1, 1, 3, 4), False), (torch.ones(1, 1, 3, 4), True),
                                         (torch.ones(3, 2, 3, 4), True)])
def test_a_mask_of_ones_lets_all_noise_through_and_one_of_zeros_none(x, mask, moves):
    model, sigma, draws = smooth_net(), 0.3, 8
    found = manifold.masked_sensitivity(model, x, mask, sigma=sigma, draws=draws, generator=0)
    noise = rng.normal(rng.seeds(0, 3), (draws, *SHAPE)).double()
    changes = [model(x[i] + sigma * noise[i]).softmax(1) - model(x[i:i + 1]).softmax(1) for i in range(3)]
    expected = torch.stack([change.norm(dim=1).mean() for change in changes])
    assert torch.allclose(found, moves * expected) and (found > 0.01).all() == moves
    alone = manifold.masked_sensitivity(model, x, mask, sigma=sigma, draws=draws, generator=0, batch=1)
    assert torch.allclose(found, alone)


def test_noise_outside_the_mask_is_not_seen(x):
    mask = torch.zeros(1, 1, 3, 4)
    mask[..., :2] = 1
    half = smooth_net()
    half[1].weight.data.view(16, *SHAPE)[..., 2:] = 0   # looks at the left half alone
    whole = manifold.masked_sensitivity(half, x, torch.ones(1), sigma=0.3, generator=0)
    assert torch.allclose(whole, manifold.masked_sensitivity(half, x, mask, sigma=0.3, generator=0))
    assert (whole > 0.01).all()
    assert (manifold.masked_sensitivity(half, x, 1 - mask, sigma=0.3, generator=0) < 1e-12).all()


@pytest.mark.parametrize("call, message", [
    (lambda x, basis: manifold.sensitivity(smooth_net(), x, basis[:2], radii=[1.0]),
     r"^the basis is of 2 images of shape \(2, 3, 4\), and there are 3 of \(2, 3, 4\); take that of these images$"),
    (lambda x, basis: manifold.sensitivity(smooth_net(), x, basis.flatten(3)[..., None], radii=[1.0]),
     r"the basis is of 3 images of shape \(2, 12, 1\)"),
    (lambda x, basis: manifold.sensitivity(smooth_net(), x, basis, radii=[1.0, 0.0]),
     "sensitivity: 'radii.1' is 0.0: it should be greater than 0"),
    (lambda x, basis: manifold.sensitivity(nn.Sequential(smooth_net(), nn.Dropout()), x, basis, radii=[1.0]),
     "in train mode; call model.eval.. first"),
    (lambda x, basis: manifold.sensitivity(smooth_net(), 255 * x, basis, radii=[1.0]), "Divide by 255 first"),
    (lambda x, basis: manifold.masked_sensitivity(nn.Sequential(smooth_net(), nn.Dropout()), x, torch.ones(1),
                                                  sigma=1.0),
     "in train mode"),
    (lambda x, basis: manifold.masked_sensitivity(smooth_net(), x, torch.ones(1), sigma=-1.0), "'sigma' is -1.0"),
    (lambda x, basis: manifold.directions(basis, draws=0), "'draws' is 0"),
])
def test_what_does_not_fit_is_told(basis, x, call, message):
    with pytest.raises(ValueError, match=message):
        call(x, basis)


# Theorem 1

def test_gradient_alignment_has_its_closed_form(basis):
    g = normal(3, *SHAPE, seed=4)
    on, off = manifold.split_tangent(g, basis)
    expected = (g - times(projectors(basis), g)).square().sum((1, 2, 3)) / g.square().sum((1, 2, 3))
    assert torch.allclose(manifold.rho_on(g, basis), expected)
    assert manifold.rho_on(on, basis).abs().max() < 1e-20
    assert torch.allclose(manifold.rho_on(off, basis), torch.ones(3).double())
    unit = [part / part.flatten(1).norm(dim=1).view(3, 1, 1, 1) for part in (on, off)]
    assert torch.allclose(manifold.rho_on(3 * unit[0] + 4 * unit[1], basis), torch.tensor(16 / 25).double())


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18])
def test_gradient_alignment_does_not_depend_on_the_gradients_size_even_in_float32(basis, scale):
    g = normal(3, *SHAPE, seed=4)
    assert torch.allclose(manifold.rho_on((scale * g).float(), basis.float()).double(), manifold.rho_on(g, basis),
                          rtol=1e-4)


def test_a_zero_gradient_has_no_alignment_and_a_flat_function_no_robustness(basis, x):
    g = normal(3, *SHAPE, seed=4)
    g[1] = 0
    assert manifold.rho_on(g, basis).isnan().tolist() == [False, True, False]
    assert manifold.rho_off(lambda z: 0 * z.sum((1, 2, 3)), x, basis, sigma=0.1).isnan().all()


def test_of_a_linear_function_both_measures_are_one_and_the_same_at_any_noise_level(basis, x):
    """E <g, u_off>^2 = sigma^2 ||g - P g||^2, and E <g, u>^2 = sigma^2 ||g||^2."""
    g = normal(*SHAPE, seed=4)
    exact = manifold.rho_on(g.expand(3, *SHAPE), basis)
    for sigma in (1e-3, 1.0, 100.0):
        found = manifold.rho_off(Linear(g), x, basis, sigma=sigma, draws=40000, batch=40000, generator=0)
        # relative standard error at most 2 / sqrt(40000) (1 - rho) = 1 %, about 0.3 % here
        assert torch.allclose(found, exact, rtol=0.02)
    few = manifold.rho_off(Linear(g), x, basis, sigma=0.1, draws=50, generator=0)
    on, off = manifold.split_tangent(0.1 * rng.normal(rng.seeds(0, 3), (50, *SHAPE)).double().flatten(0, 1),
                                     basis.repeat_interleave(50, 0))
    top, rest = ((part * g).sum((1, 2, 3)).view(3, 50).square().mean(1) for part in (off, on))
    assert torch.allclose(few, top / (top + rest))   # the products of the two parts cancel


def test_relative_off_manifold_robustness_tends_to_the_gradients_alignment(basis, x):
    """Theorem 1: rho_1 -> rho_2 as sigma -> 0. At sigma 1 the net's curvature still parts them."""
    model = smooth_net()

    def f(z):
        return model(3 * z)[:, 0]

    z = x.clone().requires_grad_()
    limit = manifold.rho_on(torch.autograd.grad(f(z).sum(), z)[0], basis)
    away = [(manifold.rho_off(f, x, basis, sigma=sigma, draws=40000, batch=40000, generator=0) / limit - 1).abs()
            for sigma in (1e-3, 1.0)]
    assert (away[0] < 0.02).all() and (away[1].max() > 0.05)


def test_robustness_is_an_images_own_whatever_the_batch(basis, x):
    model = smooth_net()
    settings = dict(sigma=0.1, draws=30)
    whole = manifold.rho_off(lambda z: model(z)[:, 0], x, basis, generator=0, **settings)
    assert torch.allclose(whole, manifold.rho_off(lambda z: model(z)[:, 0], x, basis, generator=0, batch=7, **settings))
    alone = manifold.rho_off(lambda z: model(z)[:, 0], x[1:2], basis[1:2], generator=rng.seeds(0, 3)[1:2], **settings)
    assert torch.allclose(whole[1:2], alone)


# Autoencoders

def test_encoded_bases_are_those_at_the_latents_and_a_bad_reach_is_told():
    autoencoder = build_model("autoencoder", latent=4, width=4, size=16, generator=0).eval()
    inside = autoencoder.decode(normal(3, 4).float())
    x = torch.cat([inside, torch.zeros(1, 3, 16, 16)]).detach()
    with pytest.warns(UserWarning, match=r"^1 of 4 images are outside the autoencoder's reach, at worst \d\.\d dB of "
                                         "15; their tangent spaces mean little$"):
        basis, reach = manifold.encoded_basis(autoencoder, x)
    assert torch.allclose(reach, psnr(x, autoencoder(x))) and (reach[:3] > 20).all() and reach[3] < 10
    expected = manifold.tangent_basis(autoencoder.decode, autoencoder.encode(x))
    assert torch.allclose(projectors(basis), projectors(expected), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifold.encoded_basis(autoencoder, x, lowest=1.0)
    with pytest.raises(ValueError, match="Divide by 255 first"):
        manifold.encoded_basis(autoencoder, 255 * x)


def test_a_mask_or_tangents_that_cannot_fit_are_told():
    net = build_model("mnist_cnn", width=4, hidden=8, generator=0).eval()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"^a mask of shape \(3, 1, 28, 28\) does not fit images of shape "
                                         r"\(2, 1, 28, 28\)"):
        manifold.masked_sensitivity(net, x, torch.ones(3, 1, 28, 28), sigma=0.1)
    with pytest.raises(ValueError, match="^5 tangents cannot be independent in 4 pixels; give fewer$"):
        manifold.orthonormal(torch.rand(1, 5, 1, 2, 2))
    with pytest.raises(ValueError, match="^the basis is of 1 images"):
        manifold.rho_on(x, torch.rand(1, 2, 1, 28, 28))


# Regimes

@pytest.mark.parametrize("on, off, expected", [
    ([1.0, 1.0, 1.0], [2.0, 1.5, 1.0], [WEAK, WEAK, WEAK]),                                    # equal is still weak
    ([1.0, 1.0, 0.8, 0.4], [1.5, 0.5, 0.2, 0.1], [WEAK, ALIGNED, ALIGNED, EXCESSIVE]),         # the paper's order
    ([1.0, 0.9, 0.5], [0.1, 0.1, 0.1], [ALIGNED, ALIGNED, ALIGNED]),                           # half is not below half
    # a net that has stopped to react is not weak
    ([1.0, 0.2, 0.0], [2.0, 0.3, 0.0], [WEAK, EXCESSIVE, EXCESSIVE]),
    # only past the family's largest
    ([0.3, 1.0, 0.49], [0.1, 0.1, 0.1], [ALIGNED, ALIGNED, EXCESSIVE]),
    ([0.5], [0.1], [ALIGNED]),
])
def test_the_regimes_follow_the_rule(on, off, expected):
    assert manifold.regimes(on, off) == expected
