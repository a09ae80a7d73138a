"""The nets by name. Classifiers take images in [0, 1] to logits; normalisation is part of the model."""

import torch
from torch import nn

from ..utils.arguments import call_with, known, non_negative_integer, optional, positive_integer, validated
from . import denoisers, resnets


@validated(width=positive_integer, hidden=positive_integer)
def mnist_cnn(*, width: int = 32, hidden: int = 100):
    """The MNIST CNN of Kolter & Madry's tutorial (implicit denoiser paper, appendix B)."""
    def conv(inputs, outputs, stride):
        return nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride), nn.ReLU()

    return nn.Sequential(
        *conv(1, width, 1), *conv(width, width, 2),
        *conv(width, 2 * width, 1), *conv(2 * width, 2 * width, 2),
        nn.Flatten(), nn.Linear(7 * 7 * 2 * width, hidden), nn.ReLU(),
        nn.Linear(hidden, 10))


def he_initialise(model):
    """Draw all convolutions and linear layers anew: normal weights of variance 2 / fan-in, no bias (He et al. 2015).

    PyTorch's own weights are smaller, and adversarial training of a net without norms idles at first.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


INITIALISATIONS = {"torch": lambda model: None, "he": he_initialise}
BUILDERS = {
    "mnist_cnn": mnist_cnn, "resnet": resnets.resnet, "resnet10": resnets.resnet10, "resnet18": resnets.resnet18,
    "wrn_28_10": resnets.wrn_28_10, "gradresnet": resnets.gradresnet,
    "dncnn": denoisers.dncnn, "drunet": denoisers.drunet, "autoencoder": denoisers.autoencoder,
}


@validated(generator=optional(non_negative_integer))
def build_model(name: str, *, generator: int | None = None, channels_last: bool = True, initialisation: str = "torch",
                source: str = "build_model", **kwargs: object) -> nn.Module:
    """Build a model with fresh weights: by default the published architecture.

    name           of BUILDERS; kwargs are its arguments, such as width=16 or classes=100.
    generator      an int seed: the same seed gives the same weights, whatever was drawn before.
    channels_last  memory layout of the convolutions: faster nearly everywhere.
    initialisation "torch" is PyTorch's own (the builder's where one is part of the architecture), or "he".
    source         where the arguments come from, for the error that a wrong one raises.
    """
    make = BUILDERS[known("model", name, BUILDERS, f"{source}: ")]
    initialise = INITIALISATIONS[known("initialisation", initialisation, INITIALISATIONS, f"{source}: ")]
    with torch.random.fork_rng(devices=[]):
        if generator is not None:
            torch.manual_seed(generator)
        model = call_with(make, kwargs, source)
        initialise(model)
    return model.to(memory_format=torch.channels_last) if channels_last else model
