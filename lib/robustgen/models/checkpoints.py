"""Weights on disk: safetensors with the architecture in the header."""

import json

import torch

from ..utils import paths
from .builders import build_model


def save_weights(weights, file, architecture, dtype=torch.float32, **header):
    """Write a state dict, with the arguments of build_model in the header, whole or not at all.

    dtype    of the numbers in the file. Raises ValueError if they do not fit into it, OSError if the disk
             is full.
    header   what else the header shall tell, as JSON.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
               for key, value in weights.items()}
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{file.name}: the weights are not finite as {dtype}; set 'weights' to float32, or "
                         "train again")
    with paths.atomic(file) as new:
        try:
            save_file(tensors, new, metadata={key: json.dumps(value)
                                               for key, value in (header | {"architecture": architecture}).items()})
        except SafetensorError as error:   # is no OSError
            raise OSError(f"{paths.shown(file)} could not be written ({error}); make room there, then give the same "
                          "command again") from None


def read_checkpoint(file, remedy="make it again"):
    """Architecture and state dict of a checkpoint, the tensors in the precision of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as checkpoint:
            return (json.loads(checkpoint.metadata()["architecture"]),
                    {key: checkpoint.get_tensor(key) for key in checkpoint.keys()})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a whole checkpoint ({error}); delete it and {remedy}") from None


def load_weights(file, architecture, remedy="make it again"):
    """The model in a checkpoint, in eval mode. `architecture` must be what it was saved with."""
    found, tensors = read_checkpoint(file, remedy)
    if found != architecture:
        raise ValueError(f"{file} holds {found}, but the settings ask for {architecture}; delete it and {remedy}")
    model = build_model(**architecture, generator=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{file} does not fit {architecture}: {str(error).splitlines()[-1].strip()}; delete it and "
                         f"{remedy}") from None
    return model.eval().requires_grad_(False)
