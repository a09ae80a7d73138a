"""The training objectives by name."""

from ..utils.arguments import call_with, known
from .classification import AdversarialCE, CrossEntropy, GradNorm, NoisyCE, PreJEAT, Smoothness
from .contrast import DualAT
from .denoising import Autoencoding, Denoising, JointDenoising
from .jem import JEAT, JEM
from .progressive import ProgressiveJointDenoising

OBJECTIVES = {objective.__name__: objective for objective in (
    CrossEntropy, NoisyCE, GradNorm, Smoothness, AdversarialCE, PreJEAT, DualAT, JEAT, JEM, JointDenoising,
    ProgressiveJointDenoising, Denoising, Autoencoding)}


def build_objective(model, name, *, source="build_objective", **kwargs):
    """The objective of that name around `model`; `source` begins the error that a wrong argument raises."""
    make = OBJECTIVES[known("objective", name, OBJECTIVES, f"{source}: ")]
    return call_with(make, dict(model=model, **kwargs), source)
