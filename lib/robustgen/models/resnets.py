"""Residual networks, made for 32x32 images: ResNet, Wide ResNet, GradResNet. Images in [0, 1] to logits."""

from typing import Literal

import torch
from torch import nn

from ..core.autodiff import gradient_and_values
from ..utils.arguments import list_of, positive_integer, validated


class _Block(nn.Module):
    """He et al.'s basic block: conv, norm, ReLU, conv, norm, + shortcut, ReLU."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(),
            _conv(outputs, outputs), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(_Pointwise(inputs, outputs, stride),
                                                                 nn.BatchNorm2d(outputs))

    def forward(self, x):
        return (self.body(x) + self.shortcut(x)).relu()


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution of every `step`-th pixel a side.

    The pixels are picked first: torch's own strided one (2.13, CPU, channels last) crashes in the second derivative of
    an odd batch.
    """

    def __init__(self, inputs, outputs, step, bias=False):
        super().__init__(inputs, outputs, 1, bias=bias)
        self.step = step

    def forward(self, x):
        return super().forward(x[..., ::self.step, ::self.step])


def _conv(inputs, outputs, stride=1, bias=False, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


@validated(blocks=list_of(positive_integer), width=positive_integer, channels=positive_integer,
           classes=positive_integer, stem_stride=positive_integer)
def resnet(*, blocks: list, width: int = 64, channels: int = 3, classes: int = 10, stem_stride: int = 1,
           stem_kernel: Literal[3, 7] = 3):
    """ResNet with a 3x3 stem and no max-pooling, `blocks` basic blocks a stage, stages of width 1, 2, 4, 8 times
    `width`.

    Width 64 is the published one: 11,173,962 parameters with blocks [2, 2, 2, 2], 4,903,242 with [1, 1, 1, 1].
    stem_stride   2 for larger images (HE-PGD on Imagenette).
    stem_kernel   7 for ImageNet.
    """
    layers, inputs = [_conv(channels, width, stem_stride, kernel=stem_kernel), nn.BatchNorm2d(width), nn.ReLU()], width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(count):
            layers.append(_Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def resnet10(*, width: int = 64, **kwargs):
    """`resnet` with one block a stage."""
    return resnet(blocks=[1, 1, 1, 1], width=width, **kwargs)


def resnet18(*, width: int = 64, **kwargs):
    """`resnet` with two blocks a stage."""
    return resnet(blocks=[2, 2, 2, 2], width=width, **kwargs)


class _WideBlock(nn.Module):
    """Pre-activation block: (norm, activation, conv) twice, + shortcut from the first activation."""

    def __init__(self, inputs, outputs, stride, norm, activation, bias):
        super().__init__()
        self.before = nn.Sequential(norm(inputs), activation())
        self.body = nn.Sequential(_conv(inputs, outputs, stride, bias), norm(outputs), activation(),
                                  _conv(outputs, outputs, bias=bias))
        self.shortcut = None if inputs == outputs else _Pointwise(inputs, outputs, stride, bias)

    def forward(self, x):
        z = self.before(x)
        return self.body(z) + (x if self.shortcut is None else self.shortcut(z))


@validated(depth=positive_integer, width=positive_integer, channels=positive_integer, classes=positive_integer)
def wrn_28_10(*, depth: int = 28, width: int = 10, norm: Literal["batch", "none"] = "batch", channels: int = 3,
              classes: int = 10):
    """Wide ResNet (Zagoruyko & Komodakis 2016): WRN-28-10 has depth 28, width 10, batch norm and 36,479,194 parameters.

    norm   "none" is JEM's variant: no norm, convolutions with biases, leaky ReLU 0.2.
    depth  6 n + 4, for n blocks in each of three stages of 16, 32, 64 times `width`.

    Images are shifted to [-1, 1] inside.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"'depth' is {depth}: it should be 6 n + 4, such as 10, 16, 28")
    plain = norm == "none"
    parts = dict(norm=(lambda n: nn.Identity()) if plain else nn.BatchNorm2d,
                 activation=(lambda: nn.LeakyReLU(0.2)) if plain else nn.ReLU, bias=plain)
    layers, inputs = [_Centred(), _conv(channels, 16, bias=plain)], 16
    for stage in range(3):
        outputs = 16 * width * 2**stage
        for block in range(blocks):
            layers.append(_WideBlock(inputs, outputs, 2 if stage and not block else 1, **parts))
            inputs = outputs
    net = nn.Sequential(*layers, parts["norm"](inputs), parts["activation"](), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(inputs, classes))
    if plain:   # no norm mends a bad scale: He initialisation, and block outputs that sum to about unit variance
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                nn.init.zeros_(layer.bias)
        for block in net:
            if isinstance(block, _WideBlock):
                block.body[-1].weight.data /= (3 * blocks) ** 0.5
    return net


class _Centred(nn.Module):
    def forward(self, x):
        return 2 * x - 1


class _GradBlock(nn.Module):
    """GradResNet's basic block (Figure 2): conv, GELU, conv, + shortcut, GELU, one norm."""

    def __init__(self, inputs, outputs, stride, activation, norm, bias):
        super().__init__()
        self.body = nn.Sequential(_conv(inputs, outputs, stride, bias), activation(),
                                  _conv(outputs, outputs, bias=bias))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _Pointwise(inputs, outputs, stride, bias)
        self.after = nn.Sequential(activation(), norm(outputs))

    def forward(self, x):
        return self.after(self.body(x) + self.shortcut(x))


class GradResNet(nn.Module):
    """A ResNet of log p(y, c): its forward pass classifies, its input gradient denoises (section 3, eqs. 10-12).

    features f(y) (B, K); log p(c | y) = log-softmax(W f(y)); log p(y) = -1/2 (w' f(y))^2 up to a constant.
    The net is bias-free and takes images y in [0, 1] plus noise as they are, without a mean subtracted.
    """

    def __init__(self, blocks, width, activation, norm, bias, side, channels, classes, stem_stride, stem_kernel):
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, width, stem_stride, bias, stem_kernel), activation())
        self.stages, self.sides, inputs = nn.ModuleList(), nn.ModuleList(), width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            parts = [_GradBlock(outputs if block else inputs, outputs, 2 if stage and not block else 1, activation,
                                norm, bias) for block in range(count)]
            self.stages.append(nn.Sequential(*parts))
            if side and stage < len(blocks) - 1:
                self.sides.append(nn.Linear(outputs, outputs // 2, bias=bias))
            inputs = outputs
        total = inputs + sum(layer.out_features for layer in self.sides)
        self.classify = nn.Linear(total, classes, bias=False)   # W
        self.density = nn.Linear(total, 1, bias=False)          # w
        # A score is large in units of [0, 1], so w' f must be: torch's default takes long to grow, and four times this
        # learns nothing.
        nn.init.normal_(self.density.weight, std=4 / total**0.5)

    def features(self, y):
        z, pooled = self.stem(y), []
        for stage in self.stages:
            z = stage(z)
            pooled.append(z.mean((2, 3)))
        return torch.cat([side(p) for side, p in zip(self.sides, pooled)] + pooled[-1:], 1)

    def forward(self, y, density=False):
        """Logits of log p(c | y), (B, C); with `density`, log p(y) up to a constant instead, (B,) (eqs. 10, 11)."""
        features = self.features(y)
        return -0.5 * self.density(features)[:, 0] ** 2 if density else self.classify(features)

    def score(self, y):
        """Gradient of log p(y) with respect to y, in units of [0, 1]; differentiable again."""
        return gradient_and_values(self, lambda net, y: (net(y, True), ()), y)[0]

    def denoise(self, y, sigma):
        """D(y) = y + sigma^2 grad log p(y) (eq. 7). sigma: (B,) in 0-255 units."""
        return y + (sigma / 255).view(-1, 1, 1, 1) ** 2 * self.score(y)


@validated(width=positive_integer, blocks=list_of(positive_integer), channels=positive_integer,
           classes=positive_integer, stem_stride=positive_integer)
def gradresnet(*, width: int = 64, blocks: list | tuple = (2, 2, 2, 2), activation: Literal["gelu", "relu"] = "gelu",
               norm: Literal["group", "batch"] = "group", bias: bool = False, side: bool = True, channels: int = 3,
               classes: int = 10, stem_stride: int = 1, stem_kernel: Literal[3, 7] = 3):
    """GradResNet (section 3.2): ResNet18 with GELU, one GroupNorm a block, no biases, side connections.

    width   64 is the published one; a multiple of 8, as a group has 8 channels.
    activation, norm, bias, side   the ablations of Table 3.
    stem_stride, stem_kernel       2 and 7 for ImageNet, as in ResNet18.
    """
    if width % 8:
        raise ValueError(f"'width' is {width}: it should be a multiple of 8, as a group of the norm has 8 channels")

    def group(channels):
        layer = nn.GroupNorm(channels // 8, channels)
        if not bias:
            layer.register_parameter("bias", None)
        return layer

    def batch(channels):
        layer = nn.BatchNorm2d(channels)
        if not bias:
            layer.register_parameter("bias", None)
        return layer

    return GradResNet(list(blocks), width, {"gelu": nn.GELU, "relu": nn.ReLU}[activation],
                      {"group": group, "batch": batch}[norm], bias, side, channels, classes, stem_stride, stem_kernel)
