"""What the machine offers a training: bf16 matrix units, a compiler. It is asked, not guessed from its name."""

import functools
import importlib.util
import platform

import torch

WORTH = 2000   # steps of a training from which on compiling takes less time than it saves


def device_type():
    """Of the device that Lightning Fabric chooses."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator else "cpu"


@functools.cache
def has_bf16_units(device):
    """Whether a device multiplies matrices faster in bf16 than in float32: by AMX on a CPU, by tensor cores on a GPU.

    AVX-512's bf16 instructions do not count: with them alone, training takes longer than in float32.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def choose_precision(wanted, source):
    """Precision of the arithmetic, "32-true" or "bf16-mixed"; "auto" is bf16 where the device gains by it.

    Raises ValueError for bf16 on a device without the units for it.
    """
    if wanted == "32-true" or has_bf16_units(device := device_type()):
        return "32-true" if wanted == "32-true" else "bf16-mixed"
    if wanted == "bf16-mixed":
        raise ValueError(f"{source}: precision 'bf16-mixed' needs bf16 matrix units, which this {device} lacks: it "
                         "would take longer than in float32; choose 'auto' or '32-true'")
    return "32-true"


def choose_compile(wanted, device, steps, tell):
    """Whether to compile a training of so many steps; "auto" does where the device gains by it and it pays off.

    tell   called with a line for the user where compiling was wanted and cannot be had.
    """
    if not wanted or wanted == "auto" and not (has_bf16_units(device) and steps >= WORTH):
        return False
    reason = _compiler_fails(device)
    if reason:
        tell(f"not compiled, as torch.compile does not work here ({reason})")
    return not reason


@functools.cache
def _compiler_fails(device):
    """Why torch.compile does not work on a device: the first line of its complaint; "" where it works."""
    if device == "cuda" and not importlib.util.find_spec("triton"):
        return "triton is not installed"
    try:
        torch.compile(lambda x: (x + 1).relu().sum())(torch.ones(64, device=device))
    except Exception as problem:   # of many kinds: a compiler or a header is missing, a version is not supported
        return str(problem).strip().partition("\n")[0]
    return ""


def environment(fabric, compiled):
    """What a reader needs to know of the machine that made a checkpoint, and of how it was used."""
    cuda = fabric.device.type == "cuda"
    return {"python": platform.python_version(), "torch": torch.__version__, "processes": fabric.world_size,
            "processor": _processor(), "precision": fabric._precision.precision, "compiled": compiled,
            "device": torch.cuda.get_device_name(fabric.device) if cuda else f"cpu, {torch.get_num_threads()} threads"}


def _processor():
    """The processor's name, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
