"""Settings of the notebooks, one dataclass each: params/<profile>/<notebook>.yaml, checked."""

from typing import Annotated, Literal

from pydantic import Field

from .fields import Count, EnergyData, EnergyNet, Fraction, Index, NonNegative, Positive, ScoreModel, Strip, ordered, settings, within


@settings
class SpectralMnist:
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


@settings
class HePgd:
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
    mnist_eps: Annotated[list[Positive], Field(min_length=1)]   # radii on digits, max norm; the lower middle one and the last are followed closely


@settings
class PgddImagenet:
    """Notebook 2."""

    strips: Annotated[list[Strip], Field(min_length=1)]
    columns: Annotated[int, Field(ge=2)]        # iterates shown of each strip
    check_images: Count      # starts at which eqs. 7 to 9 are checked
    check_radii: Annotated[list[Positive], Field(min_length=2)]   # l2 lengths of e, from the largest
    radii: Annotated[list[Positive], Field(min_length=1)]   # of the robust MNIST nets of Figure 4, from the smallest (paper: 0.25, 0.5, 1)
    epochs: Annotated[list[Count], Field(min_length=1)]     # after which their nets are followed; the last is the final one
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


@settings
class GradresnetCifar:
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
    grid_sigmas: Annotated[list[NonNegative], Field(min_length=2)]   # of the noise, or of the denoiser, before the net; the first is 0, for none
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
        within(self, "test_images", "psnr_images", "range_images", "shown", "check_images", "limit_images", "attack_images", "grid_images", "ood_images")
        ordered(self, "sigmas", "range_sigmas", "eps_linf", "eps_l2", "grid_sigmas", "grid_eps", "ood_sigmas", "risk_sizes", falling=("limit_sigmas",))
        if self.grid_sigmas[0] != 0 or self.lowest > self.highest:
            raise ValueError("'grid_sigmas' should begin with 0, and 'lowest' not be above 'highest'")


@settings
class OffManifoldLpips:
    """Notebook 4. Radii are l2 norms in units of [0, 1]; `sigma` and `bayes_sigma` are in 0-255 units, other noise in units of [0, 1]."""

    seed: Index              # of the images and all random draws
    images: Annotated[int, Field(ge=2)]       # CIFAR-10 test images at which nets are probed (paper: 2000)
    judged: Annotated[int, Field(ge=2)]       # of the accuracies
    radii: Annotated[list[Positive], Field(min_length=2)]   # of perturbations (paper: 1.44, 2.64, 4.83, 8.86)
    radius: Positive         # the one of Figure 3 and of the regimes (paper: 2.64)
    draws: Count             # random directions an image
    lowest: Positive         # PSNR in dB below which an image is outside the autoencoder's reach
    sigma: Positive          # of the score (paper: 0.5 in [-1, 1], 63.75 of 255)
    scores: Annotated[list[ScoreModel], Field(min_length=1)]   # the first whose net can be had is the one of Figure 3
    conditional: Annotated[list[ScoreModel], Field(min_length=1)]   # the same for Figure 17: told the class
    lpips: Literal["alex", "squeeze"]         # paper: alex
    feature_net: str         # a run whose first net gives the deep features
    feature_layers: Annotated[list[str], Field(min_length=1)]
    theorem_images: Annotated[int, Field(ge=2)]
    theorem_draws: Count
    theorem_sigmas: Annotated[list[Positive], Field(min_length=2)]   # from the largest
    shown: Count             # images of Figures 6, 7 and 8
    shown_family: Literal["cifar10-gradnorm", "cifar10-noise", "cifar10-smoothness", "cifar10-l2"]   # of Figure 6
    distractor_images: Annotated[int, Field(ge=2)]
    distractor_sigmas: Annotated[list[Positive], Field(min_length=2)]
    distractor_draws: Count
    shapes_images: Annotated[int, Field(ge=10)]
    bayes_sigma: Positive    # of the Bayes-optimal classifier's noise
    attack_eps: Positive     # l2-PGD on shapes
    attack_steps: Count      # each 2.5 eps / steps long
    imagenet_images: Annotated[int, Field(ge=2)]   # ImageNet-64 (paper: sigma 1.2 in [-1, 1])
    imagenet_sigma: Positive

    def __post_init__(self):
        if self.radius not in self.radii:
            raise ValueError(f"'radius' is {self.radius}, and should be one of 'radii', {self.radii}")
        most = min(self.images, self.shapes_images)
        for key, limit in (("shown", most), ("theorem_images", most), ("shapes_images", 10000), ("distractor_images", 10000)):
            if getattr(self, key) > limit:
                raise ValueError(f"{key!r} is {getattr(self, key)}, of {limit} images that there are; lower it")
        ordered(self, "radii", "distractor_sigmas", falling=("theorem_sigmas",))
        names = [source.name for source in self.scores]
        if len(set(names)) < len(names):
            raise ValueError(f"two of 'scores' have one name: {', '.join(names)}")


@settings
class Jeat:
    """Notebook 5."""

    datasets: Annotated[list[EnergyData], Field(min_length=1)]
    seeds: Annotated[list[Index], Field(min_length=1)]   # of the nets trained in repeats (paper: five)
    seed: Index              # of the images and all random draws
    images: Annotated[int, Field(ge=2)]       # test images at which nets are probed and attacked
    real: Annotated[int, Field(ge=2)]         # further ones: the reference of Frechet distances
    attack_steps: Count      # paper: 20
    auto_images: Count       # under AutoAttack, and for Table 1, of `images`
    auto_steps: Count        # of APGD (standard: 100)
    auto_queries: Count      # of Square (standard: 5000)
    course: EnergyNet        # the adversarial training of Figure 3; its run keeps snapshots
    course_images: Count     # training images
    landscape_images: Annotated[int, Field(ge=2)]
    landscape_rms: Positive  # reach of a landscape: root mean square over pixels
    landscape_points: Annotated[int, Field(ge=3)]
    landscape_shown: Count   # images of Figure 2
    fisher_images: Annotated[int, Field(ge=2)]
    draws: Annotated[int, Field(ge=2)]        # of Hutchinson's trace
    sigma: Positive          # of the noise that a gradient is asked to explain
    start_images: Annotated[int, Field(ge=10)]   # training images whose classes' mean and covariance chains begin with
    per_class: Annotated[int, Field(ge=2)]    # chains
    steps: Count             # of Langevin dynamics
    noise: NonNegative
    stride_factors: list[Positive]            # further lengths of step, in units of each dataset's stride
    neighbours: Count        # shown of Figure 7 (paper: 10)
    candidates: Count        # compared by SSIM, those of the highest correlation
    train_images: Count      # among which neighbours are looked for

    def __post_init__(self):
        within(self, "images", "auto_images", "landscape_images", "fisher_images")
        within(self, "landscape_images", "landscape_shown")
        within(self, "candidates", "neighbours")
        within(self, "train_images", "candidates")
        if self.images + self.real > 10000 or self.landscape_points % 2 == 0:
            raise ValueError("'images' and 'real' are of 10000 test images together, and 'landscape_points' should be odd")
        for data in self.datasets:
            names = [net.name for net in data.nets]
            if len(set(names)) < len(names) or not {"standard", "adversarial", "PreJEAT", "JEAT"} <= set(names):
                raise ValueError(f"the nets of {data.name!r} should have names of their own, standard, adversarial, PreJEAT and JEAT among them; got {names}")


NOTEBOOKS = {"spectral_mnist": SpectralMnist, "pgdd_imagenet": PgddImagenet, "gradresnet_cifar": GradresnetCifar, "off_manifold_lpips": OffManifoldLpips,
             "jeat": Jeat, "he_pgd": HePgd}
