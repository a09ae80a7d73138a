"""Running a trained net: on which device, in which mode, over how many images at once."""

import copy
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..utils.arguments import positive_integer, validated
from ..utils.validation import check_classifier


@validated(batch=positive_integer)
@torch.no_grad()
def logits_of(model, x, *, batch=500):
    """The model's logits (B, K), without gradients, from any number of images."""
    x, _ = check_classifier(model, x)
    return torch.cat([model(part) for part in x.split(batch)])


@contextmanager
def evaluating(model):
    """The model in eval mode for a while, its weights frozen: compiled code would else compute their gradients, too.

    A function has neither, and passes.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]   # frozen batch norms are in eval mode alone
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def fold_batch_norms(model):
    """A copy of a model in eval mode in which no batch norm follows a convolution in an nn.Sequential.

    For attacks and probes, which run a frozen net thousands of times; not for training.
    Raises ValueError for a model in train mode, whose batch norms depend on the batch.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"only a module has batch norms to fold, got a {type(model).__name__}; give the net inside it")
    if model.training:
        raise ValueError("a model in train mode cannot be folded, as its batch norms depend on the batch; call "
                         "model.eval() first")
    model = copy.deepcopy(model)
    for layers in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(layers) - 1):
            if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(layers[i], layers[i + 1]), nn.Identity()
    return model.requires_grad_(False)


def best_device():
    """The accelerator, if there is one, else the CPU. On a GPU, TF32 is turned off: it would round probed gradients to
    1e-3."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
