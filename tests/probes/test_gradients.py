import pytest
import torch

from robustgen.probes.gradients import as_picture, coherence, density, input_gradient


def test_the_loss_gradient_is_the_cross_entropys_direction(net, digits):
    x, y = digits
    z = x.clone().requires_grad_()
    expected, = torch.autograd.grad(torch.nn.functional.cross_entropy(net(z), y, reduction="sum"), z)
    expected = torch.nn.functional.normalize(expected.flatten(1), dim=1)
    found = input_gradient(net, x, y).flatten(1)
    # elsewhere float32 rounds the reference
    unsure = torch.nn.functional.cross_entropy(net(x), y, reduction="none") > 1e-2
    assert unsure.sum() > 3 and torch.allclose(found[unsure], expected[unsure], atol=1e-4)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(x)))


def test_coherence_is_zero_for_noise_one_for_a_constant_and_minus_one_for_a_chequerboard():
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert coherence(noise).abs().max() < 0.02
    assert torch.allclose(coherence(torch.ones(1, 3, 64, 64)), torch.tensor([63 / 64]))
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    assert torch.allclose(coherence(board), torch.tensor([-63 / 64]))


def test_density_counts_what_carries_the_gradient():
    g = torch.zeros(2, 1, 10, 10)
    g[0, 0, :2] = -3
    g[1] = 7
    assert density(g).tolist() == pytest.approx([0.2, 1])
    noise = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    assert density(noise).item() == pytest.approx(1 / 3, abs=0.01)


def test_pictures_are_grey_at_zero_and_lie_in_the_unit_range():
    g = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-9, 1e3]).view(2, 1, 1, 1)
    g[:, :, 0, 0] = 0
    shown = as_picture(g)
    assert shown.shape == (2, 8, 8, 3) and shown.min() >= 0 and shown.max() <= 1
    assert (shown[:, 0, 0] == 0.5).all() and ((shown > 0.5).permute(0, 3, 1, 2) == (g > 0)).all()
    assert (as_picture(torch.zeros(1, 1, 4, 4)) == 0.5).all()
