"""The training objectives by name."""

from .classification import AdversarialCE, CrossEntropy, GradNorm, NoisyCE, Objective, PreJEAT, Smoothness
from .config import checked, known
from .denoising import Autoencoding, Denoising, JointDenoising
from .jem import JEAT, JEM
from .progressive import ProgressiveJointDenoising

OBJECTIVES = {objective.__name__: objective for objective in (
    CrossEntropy, NoisyCE, GradNorm, Smoothness, AdversarialCE, PreJEAT, JEAT, JEM, JointDenoising, ProgressiveJointDenoising,
    Denoising, Autoencoding)}

__all__ = ["OBJECTIVES", "Objective", "build", *OBJECTIVES]


def build(model, name, *, source="objectives.build", **kwargs):
    """The objective of that name around `model`; `source` begins the error that a wrong argument raises."""
    make = OBJECTIVES[known("objective", name, OBJECTIVES, f"{source}: ")]
    return checked(make, dict(model=model, **kwargs), source)
