"""Tensors in files by strangers, which torch.save or pickle wrote: they are pickles, and nothing in them is run.

torch.load(weights_only=True) refuses a file that names anything unusual, such as an optimizer's settings. Without that
argument torch.load is not safe even with an unpickler that is: it runs TorchScript and, where a pickled module's source
differs from the one installed, can be made to write a file.
"""

import collections
import io
import os
import pickle
import zipfile

import torch


def read_pickle(file):
    """What torch.save put into a file, as a zip archive or the way it did before torch 1.6, or pickle, with tensors on
    the CPU.

    Whatever is neither a tensor nor a plain value (number, string, list, tuple, dict, ...) comes as a class that does
    nothing; a module that Nvidia's torch_utils.persistence pickled with its source comes as its __dict__.
    Raises nearly any exception for a file of another kind.
    """
    with open(file, "rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        if not zipped:
            return _read_pickles(stream)
        storages = {}
        with zipfile.ZipFile(stream) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            checkpoint = _Tensors(archive.open(name), storages).load()
            for key, storage in storages.items():
                _fill(storage, archive.open(f"{name.removesuffix('.pkl')}/{key}"))
    return checkpoint


def _read_pickles(stream):
    storages = {}
    first = _Tensors(stream, storages).load()
    if not isinstance(first, int):   # torch.save begins with a magic number
        return first
    *_, checkpoint, keys = (_Tensors(stream, storages).load() for _ in range(4))   # version and system come next
    for key in keys:
        stream.seek(8, os.SEEK_CUR)   # the number of elements, known already
        _fill(storages[key], stream)
    return checkpoint


def _fill(storage, stream):
    numbers = storage.view(torch.uint8).numpy()
    if stream.readinto(numbers) < len(numbers):
        raise EOFError("it is cut off")


class _Tensors(pickle.Unpickler):
    """Unpickles tensors, whose numbers are elsewhere in the file: `storages` gets them as flat tensors of zeros, by
    their key."""

    def __init__(self, stream, storages):
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module, name):
        return ALLOWED.get((module, name), _Ignored)

    def persistent_load(self, saved):
        if saved[0] != "storage":   # a module's source
            return _Ignored
        _, dtype, key, _, size = saved[:5]
        if key not in self.storages:
            self.storages[key] = torch.zeros(size, dtype=dtype)
        return self.storages[key]


class _Anything(type):
    def __setitem__(cls, key, value):
        pass


class _Ignored(metaclass=_Anything):
    """Stands for whatever else a pickle names: calling, filling or setting it does nothing."""

    def __new__(cls, *args, **kwargs):
        return cls

    @staticmethod
    def __setstate__(state):
        pass

    append = extend = add = __setstate__


class _Container(dict):
    """Stands for a module that is pickled as torch does it: its __dict__."""

    __setstate__ = dict.update


def _tensor(storage, offset, size, stride, *_):
    return storage.as_strided(size, stride, offset)


ALLOWED = {   # what a pickle may name; __call__, as it could set attributes of a function
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor.__call__,
    ("torch._utils", "_rebuild_parameter"): (lambda tensor, *_: tensor).__call__,
    # how pickle, not torch.save, keeps numbers
    ("torch.storage", "_load_from_bytes"): (lambda saved: _read_pickles(io.BytesIO(saved))).__call__,
    ("torch.nn.modules.container", "ModuleDict"): _Container,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): (lambda meta: meta["state"]).__call__,
    ("dnnlib.util", "EasyDict"): dict,
} | {("torch", f"{kind}Storage"): dtype for kind, dtype in {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Byte": torch.uint8, "Bool": torch.bool}.items()}
