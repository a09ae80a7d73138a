"""Settings of notebook 3."""

from typing import Annotated, Literal

from pydantic import Field

from ..utils.fields import Count, Fraction, Index, NonNegative, Positive, ordered, settings, within


@settings
class Settings:
    """Notebook 3. Noise levels are in 0-255 units, radii in units of [0, 1]."""

    seed: Index              # of the images and all random draws
    batch: Count             # images of one forward pass; changes no result
    test_images: Annotated[int, Field(ge=10)]     # of the accuracies
    psnr_images: Annotated[int, Field(ge=2)]      # that are denoised for Tables 1 and 3 (paper: all)
    sigmas: Annotated[list[Positive], Field(min_length=1)]         # of Tables 1 and 3 (paper: 15, 25, 50)
    range_sigmas: Annotated[list[Positive], Field(min_length=2)]   # within the training range and beyond it
    range_images: Annotated[int, Field(ge=2)]
    shown: Count             # images of Figure 3
    shown_sigma: Positive    # their noise (paper: 50)
    largest: Count           # eigenvectors shown (paper: 3)
    smallest: Count          # paper: 2
    krylov_steps: Count      # products with the Jacobian
    check_images: Annotated[int, Field(ge=2)]     # at which the Jacobian's symmetry, D = J y and eq. 9 are checked
    limit_sigmas: Annotated[list[Positive], Field(min_length=2)]   # of the adversarial gradient, from the largest
    limit_images: Annotated[int, Field(ge=2)]
    attack_images: Annotated[int, Field(ge=2)]    # of Figure 4
    attack_steps: Count      # of PGD, each 2.5 eps / steps long
    eps_linf: Annotated[list[Positive], Field(min_length=2)]
    eps_l2: Annotated[list[Positive], Field(min_length=2)]
    grid_images: Annotated[int, Field(ge=2)]      # of attack strength x noise level
    grid_steps: Count
    grid_draws: Count        # of the noise, at each step of an attack through it
    # of the noise, or of the denoiser, before the net; the first is 0, for none
    grid_sigmas: Annotated[list[NonNegative], Field(min_length=2)]
    grid_eps: Annotated[list[NonNegative], Field(min_length=2)]      # max norm
    ood: Annotated[list[Literal["mnist", "imagenette"]], Field(min_length=1)]   # the other datasets
    ood_images: Annotated[int, Field(ge=2)]
    ood_sigmas: Annotated[list[NonNegative], Field(min_length=1)]    # of noise added to both datasets
    samples: Annotated[int, Field(ge=2)]          # drawn of each class
    start_images: Annotated[int, Field(ge=2)]     # whose mean and covariance the samplers begin with
    highest: Positive        # noise level at which they begin (training: up to 100)
    lowest: Positive         # and end
    blind_step: Annotated[float, Field(gt=0, lt=1)]   # h of blind sampling
    blind_beta: Fraction
    blind_lowest: Positive   # implied noise level at which it ends
    blind_steps: Count       # at most
    levels: Annotated[int, Field(ge=2)]           # of ancestral sampling
    langevin_levels: Annotated[int, Field(ge=2)]
    langevin_steps: Count    # at each level
    langevin_step_size: Positive
    risk_dimension: Annotated[int, Field(ge=2)]   # of the Gaussian classes, and the number of parameters
    risk_sizes: Annotated[list[Count], Field(min_length=2)]   # training sets, from the smallest
    risk_repetitions: Annotated[int, Field(ge=2)]   # data sets of each size
    risk_population: Count   # points that expectations are taken over

    def __post_init__(self):
        within(self, "test_images", "psnr_images", "range_images", "shown", "check_images", "limit_images",
               "attack_images", "grid_images", "ood_images")
        ordered(self, "sigmas", "range_sigmas", "eps_linf", "eps_l2", "grid_sigmas", "grid_eps", "ood_sigmas",
                "risk_sizes", falling=("limit_sigmas",))
        if self.grid_sigmas[0] != 0 or self.lowest > self.highest:
            raise ValueError("'grid_sigmas' should begin with 0, and 'lowest' not be above 'highest'")
