"""torchvision, importable beside any build of torch: `from robustgen.utils.torchvision_import import torchvision`.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its C++ operators do not load, and the import
stops where it describes two of them to torch. Declared by name, they let the import go on: models, datasets
and transforms work, only calls of these detection operators do not.
"""

try:
    import torchvision
except RuntimeError as error:
    if "does not exist" not in str(error):
        raise
    import sys

    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]   # the half-imported package
    _operators = torch.library.Library("torchvision", "FRAGMENT")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
