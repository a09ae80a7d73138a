import foolbox
import pytest
import torch
import torchattacks
from robustgen import ascent, attacks, energy


def foolbox_pgd(net, x, y, norm, eps, step_size, steps):
    kind = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack, "l2": foolbox.attacks.L2ProjectedGradientDescentAttack}[norm]
    attack = kind(abs_stepsize=step_size, steps=steps, random_start=False)
    return attack.run(foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, foolbox.criteria.Misclassification(y), epsilon=eps)


def torchattacks_pgd(net, x, y, norm, eps, step_size, steps):
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    return kind(net, eps=eps, alpha=step_size, steps=steps, random_start=False)(x, y)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 1.5)])
@pytest.mark.parametrize("theirs", [foolbox_pgd, torchattacks_pgd])
def test_pgd_agrees_with_other_libraries(net, digits, norm, eps, theirs):
    settings = dict(norm=norm, eps=eps, step_size=eps / 4, steps=10)
    ours = attacks.pgd(net, *digits, **settings)
    assert torch.allclose(ours, theirs(net, *digits, **settings), atol=1e-5)
    assert not torch.allclose(ours, digits[0], atol=eps / 100)


@pytest.mark.parametrize("norm, eps", [("linf", 0.2), ("l2", 3.0)])
def test_pgd_stays_in_the_ball_and_in_the_unit_cube_and_raises_the_loss(net, digits, norm, eps):
    x, y = digits
    reached = attacks.pgd(net, x, y, norm=norm, eps=eps, step_size=eps / 2, steps=8, random_start=True, generator=0)
    order = {"linf": float("inf"), "l2": 2}[norm]
    assert torch.linalg.vector_norm((reached - x).flatten(1), order, dim=1).max() <= eps + 1e-5
    assert reached.min() >= 0 and reached.max() <= 1
    loss = torch.nn.functional.cross_entropy
    assert (loss(net(reached), y, reduction="none") >= loss(net(x), y, reduction="none")).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_do_not_depend_on_the_batch(net, digits, norm):
    x, y = digits
    settings = dict(norm=norm, eps=0.5, step_size=0.1, steps=2, random_start=True)
    whole = attacks.pgd(net, x, y, **settings, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    parts = [attacks.pgd(net, x[part], y[part], **settings, generator=generator) for part in (slice(0, 5), slice(5, 32))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_random_start_fills_the_l2_ball_uniformly():
    x = torch.full((2000, 1, 2, 2), 0.5)
    radius = ascent.norm(ascent.random_in_ball("l2", x, 0.4, 0) - x).flatten() / 0.4
    assert radius.max() <= 1 + 1e-6 and abs((radius**4).mean() - 0.5) < 0.02   # (r/eps)^P is uniform in P dimensions


def test_the_gradient_climbed_is_right_by_finite_differences(digits):
    x = digits[0][:3].double()
    weights = torch.randn(784, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def objective(v):
        return (v.flatten(1) @ weights).sin()[:, 0]

    step = ascent.ascend(x, objective, step=lambda g: g, project=lambda v: v, steps=1) - x
    h = 1e-6 * torch.eye(784, dtype=torch.float64)[400].view(1, 1, 28, 28)
    assert torch.allclose(step.flatten(1)[:, 400], (objective(x + h) - objective(x - h)) / 2e-6, atol=1e-6)


def test_robust_accuracy_is_that_of_a_plain_loop(net, digits):
    x, y = digits
    settings = dict(norm="l2", eps=1.0, step_size=0.2, steps=6)
    right = net(x).argmax(1) == y
    for steps in range(1, 7):   # right at every iterate
        right &= net(attacks.pgd(net, x, y, **settings | {"steps": steps})).argmax(1) == y
    for batch in (5, 100):
        assert attacks.robust_accuracy(net, x, y, **settings, batch=batch) == right.float().mean()
    assert 0 < right.float().mean() < 1


def test_an_attack_leaves_no_gradient_in_the_weights(digits):
    from robustgen import models

    model = models.build("mnist_cnn", width=4, hidden=8, generator=0)
    attacks.pgd(model, *digits, norm="l2", eps=1.0, step_size=0.5, steps=2)
    assert all(p.grad is None for p in model.parameters())


def test_cross_entropy_is_joint_minus_marginal_energy():
    logits = torch.randn(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 10
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(energy.joint_energy(logits, y) - energy.marginal_energy(logits), expected)


def nan(x):
    return torch.where(torch.arange(len(x))[:, None, None, None] == 1, torch.nan, x)


@pytest.mark.parametrize("change, message", [
    (lambda x, y: (x * 255, y), "reach from 0 to 255. Divide by 255 first"),
    (lambda x, y: (x - 0.5, y), "reach from -0.5 to 0.5. Undo the normalisation"),
    (lambda x, y: (nan(x), y), "NaN or infinite"),
    (lambda x, y: ((x * 255).byte(), y), "Use .float\\(\\) / 255"),
    (lambda x, y: (x[0], y), "shape \\(B, C, H, W\\)"),
    (lambda x, y: (x.repeat(1, 3, 1, 1), y), "does not take images of shape \\(3, 28, 28\\)"),
    (lambda x, y: (x, y + 5), "labels must lie in 0..9"),
    (lambda x, y: (x, y - 1), "labels must lie in 0..9"),
    (lambda x, y: (x, y[:3]), "labels must be int64 of shape \\(32,\\)"),
])
def test_bad_images_and_labels_are_refused_in_a_sentence(net, digits, change, message):
    x, y = change(*digits)
    with pytest.raises(ValueError, match=message):
        attacks.pgd(net, x, y, norm="l2", eps=1.0, step_size=0.5, steps=2)


@pytest.mark.parametrize("wrong, message", [
    ({"norm": "l1"}, "'norm' is 'l1': it should be 'linf' or 'l2'"),
    ({"eps": -1.0}, "'eps' is -1.0: it should be greater than 0"),
    ({"epsilon": 1.0}, "parameter 'epsilon' does not exist; did you mean 'eps'"),
    ({"steps": 2.5}, "'steps' is 2.5"),
])
def test_bad_settings_are_refused_in_a_sentence(net, digits, wrong, message):
    settings = dict(norm="l2", eps=1.0, step_size=0.5, steps=2) | wrong
    with pytest.raises(ValueError, match=message):
        attacks.pgd(net, *digits, **settings)
