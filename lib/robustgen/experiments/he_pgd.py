"""Settings of notebook 6."""

from typing import Annotated, Literal

from pydantic import Field

from ..utils.fields import Count, Index, NonNegative, Positive, settings


@settings
class Settings:
    """Notebook 6."""

    datasets: Annotated[list[Literal["cifar10", "imagenette"]], Field(min_length=1)]   # natural images
    seeds: Annotated[list[Index], Field(min_length=1)]   # of the standard nets and the random starts
    images: Annotated[int, Field(ge=2)]       # held-out test images
    validation: Annotated[int, Field(ge=2)]   # further test images, for thresholds and lam
    batch: Count             # images attacked at once; changes no result
    eps: Positive            # max norm (paper: 8/255)
    eps_large: Positive      # paper: 16/255
    step_size: Positive      # paper: 1/255
    steps: Count             # paper: 40
    shown_steps: Annotated[list[Index], Field(min_length=1)]   # of Figures 2b and 3b
    eps_l2: Positive         # of l2-PGD, with steps of step_size_l2
    step_size_l2: Positive
    lams: Annotated[list[NonNegative], Field(min_length=1)]   # the sweep
    lam: NonNegative         # paper: 1.2
    quasi_eps: Positive      # training radius of the quasi-robust net
    robust_eps: Positive     # and of the robust one
    pictures: Count          # images of Figure 4
    mnist_images: Annotated[int, Field(ge=2)]
    # radii on digits, max norm; the lower middle one and the last are followed closely
    mnist_eps: Annotated[list[Positive], Field(min_length=1)]
