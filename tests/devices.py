"""A device that is not there: tensors that claim to lie on it hold their values, so that all code runs.

PyTorch's meta device stands for it. A tensor of the CPU that meets one of it is an error, as on a GPU, and so is
float64 where the device is to have none, as on Apple's.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor on the device; `here` holds its values."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, strides=here.stride(), dtype=here.dtype,
                                                   device=DEVICE, storage_offset=here.storage_offset())

    def __init__(self, here):
        self.here = here

    def tolist(self):
        return self.here.tolist()

    def __repr__(self):
        return f"Elsewhere({self.here})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} was called outside the mode")


class Device(TorchDispatchMode):
    """While active, the meta device computes. `float64` says whether it can in that type."""

    def __init__(self, float64=True):
        super().__init__()
        self.float64 = float64

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.ops.aten._efficientzerotensor.default:   # forward mode's zeros without memory
            function = torch.ops.aten.zeros.default
        seen = {"there": False, "here": False}

        def look(value):
            if isinstance(value, Elsewhere):
                seen["there"] = True
            elif isinstance(value, torch.Tensor) and value.ndim:   # a number of the CPU may meet any device
                seen["here"] = True

        tree_map(look, (args, kwargs))
        target = kwargs.get("device")
        goes = torch.device(target) if target is not None else None
        moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        index = function in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default,
                             torch.ops.aten.index_put.default, torch.ops.aten._index_put_impl_.default)
        if seen["there"] and seen["here"] and not moves and not (index and isinstance(args[0], Elsewhere)):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two: {function}")
        if goes == DEVICE:
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map(_here, args), **tree_map(_here, kwargs))
        there = goes == DEVICE if goes is not None else seen["there"]
        if function is torch.ops.aten.copy_.default:
            there = isinstance(args[0], Elsewhere)
        if function in (torch.ops.aten._local_scalar_dense.default,) or not there:
            return self._same(args, kwargs, out)
        return self._same(args, kwargs, tree_map(self._there, out))

    def _there(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        if value.dtype in (torch.float64, torch.complex128) and not self.float64:
            raise TypeError("Cannot convert a tensor to the device: it has no float64")
        return Elsewhere(value)

    @staticmethod
    def _same(args, kwargs, out):
        """What was changed in place comes back as the tensor that it was."""
        if isinstance(out, Elsewhere):
            for arg in (*args, *kwargs.values()):
                if isinstance(arg, Elsewhere) and arg.here is out.here:
                    return arg
        return out


def _here(value):
    return value.here if isinstance(value, Elsewhere) else value


def move(value):
    """A tensor, or a module with all it holds, on the device: within the mode."""
    if isinstance(value, torch.nn.Module):
        for module in value.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        moved = Elsewhere(tensor.detach().clone())
                        table[name] = torch.nn.Parameter(moved, tensor.requires_grad) if table is module._parameters \
                            else moved
        return value
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value


class _Tables(TorchFunctionMode):
    """torch.tensor fills its memory itself, unseen by the other mode."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return function(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def device(float64=True):
    with Device(float64), _Tables():
        yield move
