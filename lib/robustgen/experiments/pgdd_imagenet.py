"""Settings of notebook 2."""

from typing import Annotated, Literal

from pydantic import Field

from ..utils.fields import Count, Fraction, Index, NonNegative, Positive, part, settings


@part
class Strip:
    """A row of Figures 2, 3 or S1: a net, a layer, a start, and how PGDD runs from it (`drift.pgdd`)."""

    net: str                 # a run of the zoo, or a net of the hub
    member: dict             # which net of the run, such as {eps: 1.0}; {} for the hub's
    layer: str | None        # a module's name; null for the logits
    start: Literal["gaussian", "perlin"]
    drift_noise: Positive
    diffusion_noise: NonNegative
    eps: Positive
    step_size: Positive      # l2 length
    steps: Count
    smoothing_sigma: NonNegative   # of sPGDD; 0 for PGDD
    smoothing_draws: Count


@settings
class Settings:
    """Notebook 2."""

    strips: Annotated[list[Strip], Field(min_length=1)]
    columns: Annotated[int, Field(ge=2)]        # iterates shown of each strip
    check_images: Count      # starts at which eqs. 7 to 9 are checked
    check_radii: Annotated[list[Positive], Field(min_length=2)]   # l2 lengths of e, from the largest
    # of the robust MNIST nets of Figure 4, from the smallest (paper: 0.25, 0.5, 1)
    radii: Annotated[list[Positive], Field(min_length=1)]
    # after which their nets are followed; the last is the final one
    epochs: Annotated[list[Count], Field(min_length=1)]
    noise_seeds: Annotated[int, Field(ge=2)]      # starts (paper: 100)
    inference_seeds: Annotated[int, Field(ge=2)]  # trajectories from each (paper: 10)
    drift_noise: Positive    # PGDD of Figures 4 and 5, and of what follows from them
    diffusion_noise: NonNegative
    step_size: Positive
    steps: Count
    confidence: Fraction     # a trajectory has converged when its class has stayed, with this confidence,
    hold: Count              # for the last `hold` steps
    seed: Index              # of the standard nets that generate, and of all random draws
    judge_seeds: Annotated[list[Index], Field(min_length=1)]      # of the nets that are asked what they see
    tsne_images: Annotated[int, Field(ge=10)]     # real ones, and as many generated
    tsne_seeds: Annotated[list[Index], Field(min_length=1)]
    train_images: Count      # real images among which the nearest is looked for
    quasi_eps: Positive      # training radius of the quasi-robust CIFAR-10 net, max norm
    robust_eps: Positive     # and of the robust one
    natural_trajectories: Annotated[int, Field(ge=2)]       # on each CIFAR-10 net
    natural_step_size: Positive
    natural_steps: Count
    smoothing_sigma: Positive                     # of sPGDD on the standard one
    smoothing_draws: Count
    adaptive_steps: Count    # at most
    edit_trajectories: Annotated[int, Field(ge=2)]          # digits for each edit of the spectrum
    edit_photos: Annotated[int, Field(ge=2)]                # and photographs, of natural_trajectories
    truncations: list[Count]
    powers: list[NonNegative]
    floors: list[NonNegative]
    batch: Count             # images of one forward pass; changes no result
