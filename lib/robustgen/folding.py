"""Batch norms as part of the convolutions before them: the same function, in fewer passes over memory."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(model):
    """A copy of a model in eval mode in which no batch norm follows a convolution in an nn.Sequential.

    For attacks and probes, which run a frozen net thousands of times; not for training.
    Raises ValueError for a model in train mode, whose batch norms depend on the batch.
    """
    if model.training:
        raise ValueError("a model in train mode cannot be folded, as its batch norms depend on the batch; call model.eval() first")
    model = copy.deepcopy(model)
    for layers in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(layers) - 1):
            if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(layers[i], layers[i + 1]), nn.Identity()
    return model.requires_grad_(False)
