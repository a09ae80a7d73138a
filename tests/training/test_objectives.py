"""Every objective against an independent computation in float64, and what they must not do."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from robustgen.attacks.gradient_based import pgd
from robustgen.core import dynamics, rng
from robustgen.core.autodiff import gradient_and_values
from robustgen.data import augment
from robustgen.data.datasets import Images
from robustgen.models.builders import build_model
from robustgen.models.inference import evaluating
from robustgen.training import classification, contrast, denoising, jem, progressive
from robustgen.training.registry import OBJECTIVES, build_objective
from robustgen.training.replay import ReplayBuffer

SEEDS = rng.seeds(0, 4)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=g), torch.tensor([0, 3, 3, 9])


def net(name="resnet10", **kwargs):
    kwargs = kwargs or {"width": 4}
    return build_model(name, generator=0, **kwargs).double()


def energy_net():
    return net("wrn_28_10", depth=10, width=1, norm="none")


def gradresnet(**kwargs):
    return net("gradresnet", width=8, blocks=[1, 1], **kwargs)


def joint(model, task="joint", **changes):
    settings = dict(task=task, sigma_classification=[0, 20], sigma_denoising=[1, 100], margin=0, mixed=False, every=2)
    return denoising.JointDenoising(model, **(settings | changes))


def dual(model, **changes):
    settings = dict(weight=0.2, start="uniform", contrast_steps=4, contrast_step=0.3, norm="linf", eps=0.03, step=1.0,
                    steps=2, random_start=True)
    return contrast.DualAT(model, **settings | changes)


JEM = dict(sgld_steps=3, sgld_step=0.25, sgld_noise=0.005, buffer=12, reinit=0.3, start="uniform")


def prepared(objective, x, y):
    objective.prepare(Images((x * 255).byte(), y, tuple("0123456789")), 0, len(x), len(x), seed=5)
    objective.chains.chains = objective.chains.chains.double()
    return objective


def weights_gradient(model, loss):
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)


def same(ours, theirs):
    return all((a is None and b is None) or torch.allclose(a, b, rtol=1e-8, atol=1e-10)
               for a, b in zip(ours, theirs, strict=True))


# Each formula, and its gradient in the weights, written out again with plain autograd.

def test_cross_entropy(batch):
    x, y = batch
    model = net().eval()
    loss, log = classification.CrossEntropy(model)(x, y)
    assert torch.allclose(loss, -model(x).log_softmax(1)[range(4), y].mean())
    assert log["accuracy"] == (model(x).argmax(1) == y).double().mean()


def test_noisy_ce_is_the_loss_at_noised_images_and_its_noise_is_normal(batch):
    x, y = batch
    model = net().eval()
    noise = rng.normal(SEEDS, (3, 8, 8)).double()
    assert torch.allclose(classification.NoisyCE(model, sigma=0.3)(x, y, SEEDS)[0],
                          cross_entropy(model(x + 0.3 * noise), y))
    assert rng.normal(rng.seeds(1, 500), (3, 8, 8)).std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradient_norm_and_its_weight_gradient(batch, mode):
    x, y = batch
    model = net().train(mode == "train")
    loss, log = classification.GradNorm(model, lam=0.7)(x, y)
    z = x.clone().requires_grad_()
    values = cross_entropy(model(z), y, reduction="none")
    gradient, = torch.autograd.grad(values.sum(), z, create_graph=True)
    expected = (values + 0.7 * gradient.flatten(1).norm(dim=1) ** 2).mean()
    assert torch.allclose(loss, expected) and torch.allclose(loss, values.mean() + 0.7 * log["penalty"])
    assert same(weights_gradient(model, loss), weights_gradient(model, expected))


def test_the_running_statistics_of_batch_norm_move_as_in_an_ordinary_pass(batch):
    x, y = batch
    ours, theirs = net(), net()
    classification.GradNorm(ours, lam=1.0)(x, y)
    theirs(x)
    assert all(torch.allclose(a.double(), b.double()) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    assert all(int(b) == 1 for name, b in ours.named_buffers() if name.endswith("num_batches_tracked"))


def test_smoothness_penalty(batch):
    x, y = batch
    model = energy_net()
    loss, _ = classification.Smoothness(model, lam=0.5, sigma=0.2)(x, y, SEEDS)
    noisy = x + 0.2 * rng.normal(SEEDS, (3, 8, 8)).double()
    expected = cross_entropy(model(x), y) + 0.5 * ((model(noisy) - model(x)) ** 2).sum(1).mean()
    assert torch.allclose(loss, expected) and same(weights_gradient(model, loss), weights_gradient(model, expected))


@pytest.mark.parametrize("norm, eps, steps, random_start",
                         [("linf", 0.03, 1, True), ("l2", 0.5, 1, True), ("l2", 0.5, 4, False),
                          ("linf", 0.03, 4, True)])
def test_adversarial_ce_is_the_loss_at_pgd_images_and_attack_gradients_stay_out(batch, norm, eps, steps, random_start):

    x, y = batch
    settings = dict(norm=norm, eps=eps, step_size=eps / 2, steps=steps, random_start=random_start)
    model, other = net(), net()
    reached = pgd(other.eval(), x, y, **settings, generator=SEEDS)   # the attack's mode is eval, the loss's train
    expected = weights_gradient(other, cross_entropy(other.train()(reached), y))
    classification.AdversarialCE(model, **settings)(x, y, SEEDS)[0].backward()
    assert model.training and same([p.grad for p in model.parameters()], expected)
    # the attack left no trace in batch norm
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    assert (reached - x).abs().max() > 0


def test_a_list_of_radii_gives_each_image_one(batch):
    x, y = batch
    # away from black and white, where the clamp would shorten the way
    x, y = 0.4 + 0.2 * x.repeat(16, 1, 1, 1), y.repeat(16)
    objective = classification.AdversarialCE(net().eval(), norm="l2", eps=[0.1, 0.4], step_size=0.4, steps=1,
                                             random_start=False)
    seen = []
    objective.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    objective(x, y, rng.seeds(3, 64))
    lengths = (seen[-1] - x).flatten(1).norm(dim=1)
    near = torch.isclose(lengths[:, None], torch.tensor([0.1, 0.4], dtype=lengths.dtype), rtol=1e-4)
    assert near.any(1).all() and (near.sum(0) > 10).all()


def test_prejeat_trains_on_images_that_raise_the_joint_energy(batch):
    x, y = batch
    model = net().eval()
    loss, _ = classification.PreJEAT(model, eps=0.03, step_size=0.03, steps=1, random_start=False)(x, y)
    z = x.clone().requires_grad_()
    gradient, = torch.autograd.grad(-model(z)[range(4), y].sum(), z)
    assert torch.allclose(loss, cross_entropy(model((x + 0.03 * gradient.sign()).clamp(0, 1)), y))   # eq. 18


@pytest.mark.parametrize("progress, steps", [(0.0, 0), (0.1, 0), (0.5, 2), (0.99, 4)])
def test_dual_at(batch, progress, steps):
    """Adversarial training, and a discriminator of real images and images that climb its logit in ever more steps."""
    x, y = batch
    model = net().eval()
    objective = dual(model)
    objective.prepare(Images((x * 255).byte(), y, tuple("0123456789")), 0, 4, 4, seed=1)
    objective.progress = progress
    begin = reached = rng.uniform(rng.fold(SEEDS, 2), x.shape[1:]).double()
    for _ in range(steps):
        z = reached.clone().requires_grad_()
        gradient, = torch.autograd.grad(model(z).logsumexp(1).sum(), z)
        reached = (z + 0.3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1).detach()
    assert (model(reached).logsumexp(1) > model(begin).logsumexp(1)).all() or not steps
    adversarial, _ = classification.AdversarialCE(model, norm="linf", eps=0.03, step_size=0.015, steps=2,
                                                  random_start=True)(x, y, rng.fold(SEEDS, 1))
    real, drawn = model(x).logsumexp(1), model(reached).logsumexp(1)
    expected = adversarial - 0.2 * (torch.sigmoid(real).log() + torch.sigmoid(-drawn).log()).mean()
    loss, log = objective(x, y, SEEDS)
    assert torch.allclose(loss, expected) and torch.allclose(log["energy_sampled"], -drawn.mean())
    assert same(weights_gradient(model, loss), weights_gradient(model, expected))


def test_dual_ats_starts_are_images(batch):
    x, y = batch
    images = Images((x * 255).byte(), torch.tensor([0, 1, 0, 1]), tuple("01"))
    objective = dual(net().eval(), start="class_gaussian", contrast_steps=0)
    objective.prepare(images, 0, 4, 4, seed=1)
    drawn = objective.contrast(SEEDS, x.dtype)
    assert drawn.shape == x.shape and drawn.min() == 0 and drawn.max() == 1   # a normal draw leaves [0, 1]


def test_langevin_is_algorithm_1s_line(batch):
    x, _ = batch
    model = energy_net()
    alpha = 0.02
    reached = dynamics.sgld(x, lambda x: -model(x).logsumexp(1), steps=2, step_size=alpha / 2, noise=alpha**0.5,
                            generator=SEEDS)
    z = x
    for t in range(2):
        z = z.detach().requires_grad_()
        gradient, = torch.autograd.grad(-torch.log(model(z).exp().sum(1)).sum(), z)
        z = z - alpha / 2 * gradient + alpha**0.5 * rng.normal(SEEDS, (3, 8, 8), stream=t).double()
    assert torch.allclose(reached, z.detach())


def test_jem(batch):
    x, y = batch
    model = energy_net()
    a, b = (prepared(jem.JEM(model, sigma=0.1, **JEM), x, y) for _ in range(2))
    loss, log = a(x, y, SEEDS)
    sampled = b.sample(SEEDS, x.dtype)
    real = x + 0.1 * rng.normal(rng.fold(SEEDS, 3), (3, 8, 8)).double()
    energy, energy_sampled = (-model(z).logsumexp(1).mean() for z in (real, sampled))
    expected = cross_entropy(model(real), y) + energy - energy_sampled
    assert torch.allclose(loss, expected) and torch.allclose(log["energy"], energy)
    assert torch.allclose(log["energy_sampled"], energy_sampled)
    assert same(weights_gradient(model, loss), weights_gradient(model, expected))
    assert not sampled.requires_grad and all(p.grad is None for p in model.parameters())


def test_jeat_is_algorithm_1(batch):
    x, y = batch
    model, eps = energy_net(), 0.05
    a, b = (prepared(jem.JEAT(model, eps=eps, **JEM), x, y) for _ in range(2))
    loss, _ = a(x, y, SEEDS)
    z = x.clone().requires_grad_()
    gradient, = torch.autograd.grad(-model(z)[range(4), y].sum(), z)
    u = eps * (2 * rng.uniform(rng.fold(SEEDS, 3), (3, 8, 8)).double() - 1)
    adversarial = (x + (u + eps * gradient.sign()).clamp(-eps, eps)).clamp(0, 1)
    sampled = b.sample(SEEDS, x.dtype)
    expected = (-model(adversarial)[range(4), y] + model(sampled).logsumexp(1)).mean()   # E(x_adv, y) - E(x~)
    assert torch.allclose(loss, expected) and same(weights_gradient(model, loss), weights_gradient(model, expected))


def test_the_replay_buffer_keeps_chains_and_begins_some_afresh(batch):
    x, y = batch
    objective = prepared(jem.JEM(energy_net(), sigma=0.0, **JEM), x, y)
    before = objective.chains.chains.clone()
    reached = objective.sample(SEEDS, x.dtype)
    changed = (objective.chains.chains != before).flatten(2).any(2)
    assert (changed.sum(1) == 1).all() and torch.equal(objective.chains.chains[changed], reached)
    buffer = ReplayBuffer(lambda seeds: torch.full((len(seeds), 1, 2, 2), 7.0), 0, 400, 3, seed=1)
    buffer.chains.zero_()
    drawn, slot = buffer.draw(rng.seeds(2, 400), 0.25)
    assert (drawn == 7).flatten(1).all(1).float().mean() == pytest.approx(0.25, abs=0.06)
    assert set(slot.tolist()) == {0, 1, 2}


def test_two_shards_of_the_buffer_hold_what_the_whole_holds(batch):
    whole = ReplayBuffer(dynamics.uniform_start(Images(torch.zeros(1, 3, 4, 4), torch.zeros(1), ())), 0, 6, 2, seed=3)
    halves = [ReplayBuffer(whole.start, first, 3, 2, seed=3).chains for first in (0, 3)]
    assert torch.equal(whole.chains, torch.cat(halves))


def test_class_gaussian_draws_have_the_mean_and_covariance_of_a_class():
    g = torch.Generator().manual_seed(0)
    pixels = (torch.rand(60, 1, 2, 2, generator=g) * 255).byte()
    images = Images(pixels, torch.arange(60) % 2, ("a", "b"))
    draws = dynamics.class_gaussian_start(images)(rng.seeds(0, 40000)).flatten(1)
    flats = [pixels[images.y == c].flatten(1).float() / 255 for c in (0, 1)]
    assert torch.allclose(draws.mean(0), sum(f.mean(0) for f in flats) / 2, atol=0.01)
    mixture = sum(f.T.cov() + f.mean(0).outer(f.mean(0)) for f in flats) / 2 - draws.mean(0).outer(draws.mean(0))
    assert torch.allclose(draws.T.cov(), mixture, atol=0.005)


@pytest.mark.parametrize("model", [gradresnet, lambda: gradresnet(norm="batch"), lambda: gradresnet(activation="relu")])
def test_the_joint_objectives_denoising_half_is_the_score_matching_loss_and_differentiates_twice(batch, model):
    x, y = batch
    model = model().train()
    loss, _ = joint(model, "denoising")(x, y, SEEDS)
    seeds = rng.fold(SEEDS, 1)
    sigma = denoising.squared_uniform([1, 100], rng.fold(seeds, 1)).double().view(-1, 1, 1, 1) / 255
    e = rng.normal(rng.fold(seeds, 2), (3, 8, 8)).double()
    noisy = (x + sigma * e).requires_grad_()
    log_density = -0.5 * model.density(model.features(noisy))[:, 0] ** 2
    score, = torch.autograd.grad(log_density.sum(), noisy, create_graph=True)
    expected = (sigma * score + e).square().mean()   # eq. 13, a pixel
    assert torch.allclose(loss, expected) and same(weights_gradient(model, loss), weights_gradient(model, expected))


@pytest.mark.parametrize("model", [lambda: net("drunet", width=4, blocks=1), gradresnet])
def test_plain_denoising_is_the_mean_squared_error(batch, model):
    x, y = batch
    model = model()
    loss, _ = denoising.Denoising(model, sigma=[1, 100])(x, y, SEEDS)
    sigma = denoising.squared_uniform([1, 100], rng.fold(SEEDS, 1)).double()
    noisy = x + sigma.view(-1, 1, 1, 1) / 255 * rng.normal(rng.fold(SEEDS, 2), (3, 8, 8)).double()
    # eq. 8, a pixel
    assert torch.allclose(loss, ((model.denoise(noisy, sigma) - x).flatten(1).norm(dim=1) ** 2 / 192).mean())


def test_sigma_is_the_square_of_a_uniform_variable():
    sigma = denoising.squared_uniform([1, 100], rng.seeds(0, 20000))
    roots = sigma.sqrt().sort().values
    assert sigma.min() >= 1 and sigma.max() <= 100
    assert (roots - torch.linspace(1, 10, 20000)).abs().max() < 0.15   # the distribution function of U(1, 10)


def test_joint_denoising_is_both_halves_each_on_its_own_images(batch):
    x, y = batch
    model = gradresnet()
    loss, log = joint(model, margin=2, mixed=True)(x, y, SEEDS)
    denoised, _ = joint(model, "denoising")(x[::2], y[::2], SEEDS[::2])
    seeds = rng.fold(SEEDS, 2)
    z, own, partners = augment.mix(augment.crop(x, rng.fold(seeds, 1), 2), rng.fold(seeds, 2))
    sigma = denoising.squared_uniform([0, 20], rng.fold(seeds, 3)).double().view(-1, 1, 1, 1)
    logp = model(z + sigma / 255 * rng.normal(rng.fold(seeds, 4), (3, 8, 8)).double()).log_softmax(1)
    classified = -(own * logp[range(4), y] + (1 - own) * logp[range(4), y[partners]]).mean()
    assert torch.allclose(loss, denoised + classified)
    assert torch.allclose(log["denoising"], denoised) and torch.allclose(log["classification"], classified)
    assert same(weights_gradient(model, loss), weights_gradient(model, denoised + classified))


@pytest.mark.parametrize("task, rests", [("classification", "density"), ("denoising", "classify")])
def test_a_single_task_is_its_half_and_the_other_heads_weights_rest(batch, task, rests):
    x, y = batch
    model = gradresnet()
    loss, log = joint(model, task)(x, y, SEEDS)
    assert torch.equal(loss, log[task])
    loss.backward()
    assert getattr(model, rests).weight.grad is None and all(p.grad is not None for p in model.stem.parameters())


def test_autoencoding(batch):
    x, y = batch
    model = net("autoencoder", latent=4, width=4, size=8)
    assert torch.allclose(denoising.Autoencoding(model)(x, y)[0], ((model(x) - x) ** 2).sum() / x.numel())


# What holds of all of them

def everyone():
    return {
        "CrossEntropy": lambda: classification.CrossEntropy(energy_net()),
        "NoisyCE": lambda: classification.NoisyCE(energy_net(), sigma=0.1),
        "GradNorm": lambda: classification.GradNorm(energy_net(), lam=0.1),
        "Smoothness": lambda: classification.Smoothness(energy_net(), lam=0.1, sigma=0.1),
        "AdversarialCE": lambda: classification.AdversarialCE(energy_net(), norm="linf", eps=0.03, step_size=0.02,
                                                              steps=2, random_start=True),
        "PreJEAT": lambda: classification.PreJEAT(energy_net(), eps=0.03, step_size=0.03, steps=1, random_start=False),
        "DualAT": lambda: dual(energy_net()),
        "JEM": lambda: jem.JEM(energy_net(), sigma=0.1, **JEM),
        "JEAT": lambda: jem.JEAT(energy_net(), eps=0.03, **JEM),
        "JointDenoising": lambda: joint(gradresnet(), margin=1, mixed=True),
        "ProgressiveJointDenoising": lambda: progressive.ProgressiveJointDenoising(
            gradresnet(), task="joint", sigma_classification=[1, 70], sigma_denoising=[1, 70], mixed=True, side=6,
            stages=[{"until": 1, "images": 1.0, "side": 4}]),
        "Denoising": lambda: denoising.Denoising(gradresnet(), sigma=[1, 100]),
        "Autoencoding": lambda: denoising.Autoencoding(net("autoencoder", latent=4, width=4, size=8)),
    }


def test_the_list_of_all_is_complete():
    assert set(everyone()) == set(OBJECTIVES)


@pytest.mark.parametrize("name", everyone())
def test_the_same_seeds_give_the_same_loss_whatever_the_neighbours(name, batch):
    """Two halves of a batch have, on average, the loss of the whole: what two processes see is what one sees."""
    x, y = batch
    images = Images((x * 255).byte(), y, tuple("0123456789"))

    def loss(first, count):
        objective = everyone()[name]()
        objective.prepare(images, first, count, 4, seed=1)
        part = slice(first, first + count)
        return objective(x[part], y[part], SEEDS[part])[0]

    assert torch.allclose(loss(0, 4), (loss(0, 2) + loss(2, 2)) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", everyone())
def test_only_the_outer_loss_reaches_the_weights(name, batch):
    x, y = batch
    objective = everyone()[name]()
    objective.prepare(Images((x * 255).byte(), y, tuple("0123456789")), 0, 4, 4, seed=1)
    loss, log = objective(x, y, SEEDS)
    assert all(p.grad is None for p in objective.parameters()) and loss.requires_grad
    assert not any(value.requires_grad for value in log.values())
    assert objective.model.training


@pytest.mark.parametrize("name, settings, message", [
    ("CrossEntropi", {}, "objective 'CrossEntropi' does not exist; did you mean 'CrossEntropy'?"),
    ("NoisyCE", {"sigma": -1.0}, "NoisyCE: 'sigma' is -1.0: it should be greater than 0"),
    ("GradNorm", {"lam": float("nan")}, "GradNorm: 'lam' is nan"),
    ("DualAT", dict(weight=0.0, start="uniform", contrast_steps=1, contrast_step=0.3, norm="linf", eps=0.1, step=1.0,
                    steps=1, random_start=True), "DualAT: 'weight' is 0.0: it should be greater than 0"),
    ("JEM", {**JEM, "sigma": 0.0, "sgld_steps": 0}, "'sgld_steps' is 0: it should be greater than or equal to 1"),
    ("JEAT", {**JEM, "eps": 0.1, "reinit": 1.5}, "'reinit' is 1.5"),
    ("JEAT", {**JEM, "eps": 0.1, "stat": "uniform"}, "parameter 'stat' does not exist; did you mean 'start'?"),
    ("JointDenoising", dict(task="classification", sigma_classification=[20, 0], sigma_denoising=[1, 100], margin=0,
                            mixed=False, every=1),
     "'sigma_classification' is .20, 0.: it should be the lowest and the highest noise level"),
    ("Denoising", {"sigma": [0, 100]},
     "'sigma' is .0, 100.: it should be the lowest and the highest noise level, in 0-255 units, from 0.01 up"),
    ("Denoising", {"sigma": [1, 100]}, "the model cannot denoise; choose one of gradresnet, dncnn, drunet"),
])
def test_wrong_settings_are_told_in_one_sentence(name, settings, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build_objective(net(), name, **settings)


def test_a_buffer_smaller_than_a_batch_is_refused(batch):
    x, y = batch
    objective = jem.JEM(energy_net(), sigma=0.0, **(JEM | {"buffer": 3}))
    with pytest.raises(ValueError, match="'buffer' is 3: it should hold a chain for each of the 4 images of a batch"):
        prepared(objective, x, y)


@pytest.mark.parametrize("build", [
    lambda: classification.CrossEntropy(net()),
    lambda: classification.CrossEntropy(net("mnist_cnn", width=4, hidden=8)),
    lambda: classification.AdversarialCE(net(), norm="l2", eps=0.3, step_size=0.2, steps=2, random_start=True),
    lambda: classification.GradNorm(net(), lam=0.1), lambda: joint(gradresnet())],
    ids=["CrossEntropy", "CrossEntropy, plain CNN", "AdversarialCE", "GradNorm", "JointDenoising"])
def test_objectives_compile_into_whole_graphs(build, batch, monkeypatch):
    """Traced by dynamo and AOTAutograd without a break, as a GPU would compile them; on CPU no code is generated."""
    from torch._dynamo.testing import CompileCounterWithBackend

    x, y = batch
    eager, compiled = build(), build()
    if "Conv2d(1," in repr(eager):
        x = torch.rand(4, 1, 28, 28, dtype=x.dtype)
    counter, compiler = CompileCounterWithBackend("aot_eager"), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend=counter, fullgraph=True))
    compiled.compile()
    a, b = eager(x, y, SEEDS)[0], compiled(x, y, SEEDS)[0]
    assert torch.allclose(a, b) and same(weights_gradient(eager.model, a), weights_gradient(compiled.model, b))
    assert 1 <= counter.frame_count <= 2   # one for the loss; one more for the attack, or the other half
    assert counter.op_count > 10           # and the net is in it


def test_input_gradient_gives_what_its_function_gives(batch):
    x, y = batch
    model = net().eval()
    gradient, values, logits = gradient_and_values(model, lambda model, x: (model(x).logsumexp(1), model(x)), x)
    z = x.clone().requires_grad_()
    expected, = torch.autograd.grad(model(z).logsumexp(1).sum(), z)
    assert torch.allclose(gradient, expected)
    assert torch.allclose(values, model(x).logsumexp(1)) and torch.allclose(logits, model(x))


def test_a_gradresnets_unused_head_rests_whatever_the_objective():
    """DDP waits for the gradient of every weight that is to be trained."""
    assert not classification.CrossEntropy(gradresnet()).model.density.weight.requires_grad
    assert not denoising.Denoising(gradresnet(), sigma=[1, 100]).model.classify.weight.requires_grad
    assert all(p.requires_grad for p in joint(gradresnet()).parameters())


def test_a_share_that_is_no_multiple_of_every_is_refused(batch):
    with pytest.raises(ValueError, match="'every' is 3, but a process has 4 images of a batch"):
        joint(gradresnet(), every=3).prepare(None, 0, 4, 4, 0)


def test_weights_rest_while_an_attack_looks_for_images(batch):

    model = gradresnet()
    model.density.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    with evaluating(model):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.training and [p.requires_grad for p in model.parameters()] == flags


def test_any_classifier_trains_on_the_classification_half(batch):
    x, y = batch
    loss, log = joint(net(), "classification", margin=1, mixed=True)(x, y, SEEDS)
    assert torch.equal(loss, log["classification"])
    assert set(joint(net(), "classification").test(x, y)) == {"test_accuracy"}
    with pytest.raises(ValueError, match="cannot denoise"):
        joint(net())
