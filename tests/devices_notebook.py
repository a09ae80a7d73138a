"""Run a notebook at profile test in this process, on the device that is not there, without float64: FILE."""

import sys

import matplotlib
import nbformat
from IPython.core.interactiveshell import InteractiveShell

import devices
from robustgen.core import images
from robustgen.models import inference

matplotlib.use("agg")
images.has_double = lambda device: str(device) == "cpu"
inference.best_device = lambda: devices.DEVICE
shell = InteractiveShell.instance()
with devices.device(float64=False):
    for cell in nbformat.read(sys.argv[1], as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace('profile = "laptop"', 'profile = "test"')
            shell.run_cell(source, store_history=True).raise_error()
