"""Settings of notebook 1."""

from typing import Annotated

from pydantic import Field

from ..utils.fields import Count, Index, Positive, settings


@settings
class Settings:
    """Notebook 1."""

    seeds: Annotated[list[Index], Field(min_length=1)]   # of the nets compared in Tables 1 and 2
    images: Count            # test images whose spectra are averaged (paper: 32)
    n_draws: Count           # noise draws an image of the energy ratio (paper: 128)
    sigma: Positive          # standard deviation of that noise (paper: 0.25)
    residual_sigma: Positive # the same for the visual residuals of Figure 1C (paper: 0.35)
    residual_draws: Count    # noise draws whose residuals are classified
    k: Annotated[int, Field(ge=2)]   # leading eigenvalues; tail@k is the last of them (paper: 8)
    attack_images: Count     # test images attacked for Table 2
    eps: Positive            # l2 radius of the attack (paper: 1.5)
    step_size: Positive      # paper: 0.2
    steps: Count             # paper: 20
    phase_images: Count      # test images attacked for each cell of the phase diagram
