"""The nets: published sizes, what GradResNet's density, score and ablations are, and what is refused."""

import pytest
import torch

from robustgen.models.builders import build_model
from robustgen.models.checkpoints import load_weights, save_weights
from robustgen.models.inference import fold_batch_norms


def parameters(name, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(name, **kwargs).parameters())


@pytest.mark.parametrize("name, settings, published", [
    ("mnist_cnn", dict(width=32, hidden=100), 320 + 9248 + 18496 + 36928 + 313700 + 1010),
    ("resnet18", dict(width=64), 11_173_962),   # the usual ResNet18 for CIFAR-10
    ("resnet10", dict(width=64), 4_903_242),
    ("wrn_28_10", dict(depth=28, width=10, norm="batch"), 36_479_194),   # 36.5 M (Zagoruyko & Komodakis 2016)
    # published with batch norm's scales merged into the convolutions
    ("dncnn", dict(depth=20, width=64), 668_227 + 18 * 64),
    ("drunet", dict(width=64), 32_640_960),
])
def test_nets_have_their_published_number_of_parameters(name, settings, published):
    assert parameters(name, **settings) == published


def test_gradresnet_is_resnet18_less_norms_and_biases_plus_sides_and_a_density():
    # of resnet18: two a block, the stem's, three shortcuts'
    norms = sum(2 * width for width in [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5)
    sides = 64 * 32 + 128 * 64 + 256 * 128
    heads = (512 + 32 + 64 + 128) * (10 + 1) - (512 * 10 + 10)
    groups = 2 * (64 + 128 + 256 + 512)   # one scale a channel and block
    assert parameters("gradresnet", width=64) == 11_173_962 - norms + sides + heads + groups


def test_jems_wide_resnet_has_biases_and_no_norm():
    net = build_model("wrn_28_10", depth=10, width=1, norm="none")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert all(m.bias is not None for m in net.modules() if isinstance(m, torch.nn.Conv2d))


SIZES = {"mnist_cnn": (1, 28, 28), "resnet10": (3, 32, 32), "resnet18": (3, 32, 32), "wrn_28_10": (3, 32, 32),
         "gradresnet": (3, 32, 32)}
SMALL = {"mnist_cnn": dict(width=4, hidden=8), "resnet10": dict(width=4), "resnet18": dict(width=4),
         "wrn_28_10": dict(depth=10, width=1, norm="batch"), "gradresnet": dict(width=8)}


@pytest.mark.parametrize("name", SIZES)
def test_classifiers_give_ten_logits(name):
    assert build_model(name, generator=0, **SMALL[name])(torch.rand(2, *SIZES[name])).shape == (2, 10)


def test_the_wide_resnet_centres_its_images():
    net = build_model("wrn_28_10", depth=10, width=1, norm="none", generator=0)
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(net(x), net[1:](2 * x - 1))


def gradresnet(**kwargs):
    return build_model("gradresnet", width=8, blocks=[1, 1], generator=0, **kwargs).double()


@pytest.fixture
def y():
    return torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, settings", [("gradresnet", {"width": 8, "blocks": [1, 1]}), ("resnet10", {"width": 8}),
                                            ("wrn_28_10", {"depth": 10, "width": 1, "norm": "none"})])
def test_the_second_derivative_of_an_odd_batch_is_that_of_its_images(name, settings):
    """In float32, channels last, on two threads: there torch's strided 1x1 convolution crashes the process."""
    model = build_model(name, generator=0, **settings).eval()
    x = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)

    def penalty_gradient(x):
        x = x.clone().requires_grad_()
        slope, = torch.autograd.grad(model(x).logsumexp(1).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), model.parameters(), allow_unused=True)[0]

    assert torch.allclose(penalty_gradient(x), sum(penalty_gradient(part) for part in x.split(3)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"activation": "relu"}, {"norm": "batch"}, {"bias": True}, {"side": False}])
def test_gradresnets_score_is_the_gradient_of_its_log_density(change, y):
    net = gradresnet(**change).eval()
    score, step, i = net.score(y), 1e-6, (1, 2, 3, 4)
    assert torch.allclose(net(y, density=True), -0.5 * (net.features(y) @ net.density.weight[0]) ** 2)
    up, down = y.clone(), y.clone()
    up[i] += step
    down[i] -= step
    finite = (net(up, density=True) - net(down, density=True)).sum() / (2 * step)
    assert torch.allclose(score[i], finite, rtol=1e-5)
    sigma = torch.tensor([10.0, 25.0, 50.0], dtype=torch.float64)
    assert torch.allclose(net.denoise(y, sigma), y + (sigma / 255).view(-1, 1, 1, 1) ** 2 * score)


def test_the_ablations_change_what_they_name():
    def kinds(net):
        return {type(m).__name__ for m in net.modules()}

    assert {"GELU", "GroupNorm"} <= kinds(gradresnet()) and "BatchNorm2d" not in kinds(gradresnet())
    assert "ReLU" in kinds(gradresnet(activation="relu")) and "GELU" not in kinds(gradresnet(activation="relu"))
    assert "BatchNorm2d" in kinds(gradresnet(norm="batch")) and "GroupNorm" not in kinds(gradresnet(norm="batch"))
    assert not any("bias" in name for name, _ in gradresnet().named_parameters())
    assert any("bias" in name for name, _ in gradresnet(bias=True).named_parameters())
    assert gradresnet().classify.in_features == 16 + 4 and gradresnet(side=False).classify.in_features == 16


def test_group_norm_has_eight_channels_a_group():
    groups = [m for m in build_model("gradresnet", width=16).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert groups and all(m.num_channels // m.num_groups == 8 and m.bias is None for m in groups)


def test_a_bias_free_relu_gradresnet_does_not_see_the_scale_of_its_images(y):
    """Features of degree 0: the score of a t times brighter image is 1 / t the score."""
    net = gradresnet(activation="relu").eval()
    a, b = net.score(10 * y) * 10, net.score(y)
    assert (a - b).norm() / b.norm() < 1e-3   # the norm's epsilon


def test_denoisers_keep_the_shape_and_drunet_sees_sigma():
    x = torch.rand(2, 3, 16, 16)
    blind = build_model("dncnn", depth=4, width=8, generator=0).eval()
    told = build_model("drunet", width=4, blocks=1, generator=0)
    assert blind.denoise(x).shape == told.denoise(x, torch.tensor([5.0, 5.0])).shape == x.shape
    assert not torch.allclose(told.denoise(x, torch.tensor([5.0, 5.0])), told.denoise(x, torch.tensor([50.0, 50.0])))


def test_drunet_refuses_odd_sizes():
    with pytest.raises(ValueError, match=r"multiples of 8; these are \(15, 16\). Pad them"):
        build_model("drunet", width=4, blocks=1).denoise(torch.rand(1, 3, 15, 16), torch.tensor([5.0]))


def test_the_autoencoder_goes_through_its_latent_numbers():
    net = build_model("autoencoder", latent=5, width=8, generator=0)
    x = torch.rand(2, 3, 32, 32)
    assert net.encode(x).shape == (2, 5) and torch.equal(net(x), net.decode(net.encode(x)))
    assert 0 <= net(x).min() <= net(x).max() <= 1


@pytest.mark.parametrize("name, settings, message", [
    ("resnet19", {}, "model 'resnet19' does not exist; did you mean 'resnet1"),
    ("gradresnet", {"width": 12}, "'width' is 12: it should be a multiple of 8"),
    ("wrn_28_10", {"depth": 12, "width": 1, "norm": "none"}, "'depth' is 12: it should be 6 n \\+ 4"),
    ("gradresnet", {"width": 8, "activation": "tanh"}, "'activation' is 'tanh'"),
    ("resnet10", {"widht": 8}, "parameter 'widht' does not exist; did you mean 'width'?"),
    ("autoencoder", {"latent": 4, "width": 4, "size": 20}, "'size' is 20: it should be a multiple of 8"),
])
def test_wrong_settings_are_told_in_one_sentence(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **settings)


@pytest.mark.parametrize("name", SMALL)
def test_every_net_comes_back_from_its_checkpoint(name, tmp_path):
    architecture = {"name": name, **SMALL[name]}
    net = build_model(**architecture, generator=3)
    save_weights(net.state_dict(), tmp_path / "x.safetensors", architecture)
    back = load_weights(tmp_path / "x.safetensors", architecture)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), back.state_dict().values()))


def test_half_precision_checkpoints_refuse_weights_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="not finite as torch.float16; set 'weights' to float32"):
        save_weights({"w": torch.tensor([1e6])}, tmp_path / "x.safetensors", {}, torch.float16)


@pytest.mark.parametrize("name, settings", [
    ("resnet10", dict(width=8)), ("wrn_28_10", dict(depth=10, width=1, norm="batch")),
    ("mnist_cnn", dict(width=4, hidden=8))])
def test_folding_keeps_the_function_and_leaves_no_norm_behind_a_convolution(name, settings):

    model = build_model(name, **settings, generator=0)
    channels = 1 if name == "mnist_cnn" else 3
    x = torch.rand(6, channels, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            model(x)   # statistics that are not those of the start
    with pytest.raises(ValueError, match="train mode cannot be folded.* call model.eval"):
        fold_batch_norms(model)
    model = model.eval().double()
    folded, x = fold_batch_norms(model), x.double().requires_grad_()
    assert torch.allclose(folded(x), model(x))
    ours, theirs = (torch.autograd.grad(net(x).logsumexp(1).sum(), x)[0] for net in (folded, model))
    assert torch.allclose(ours, theirs)
    if name == "resnet10":
        assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
        assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
