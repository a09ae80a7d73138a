"""Every public function that takes a net or images, called once with small ones: what the conventions are tested on.

A call takes `s`, see `Setting`, and uses its numbers through `s.i` and `s.f`, so that a test may give NumPy's.
"""

from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch import nn

from robustgen.attacks import auto_pgd, ensemble, evaluation, external, gradient_based, smoothing, square
from robustgen.core import dynamics, rng
from robustgen.metrics import frechet, labels, perceptual, similarity, statistics
from robustgen.models import inference
from robustgen.models.builders import build_model
from robustgen.models.wrappers import Normalized
from robustgen.probes import bayes_optimal, fisher, gradients, jacobian, landscape, manifold, scores, spectral
from robustgen.sampling import chains, diffusion, drift, spectrum_edits


@dataclass
class Setting:
    """Nets, images and numbers of the calls."""

    net: object          # a classifier with batch norm and dropout
    joint: object        # a GradResNet
    coder: object        # an autoencoder
    x: torch.Tensor      # (6, 3, 10, 10), labels y
    y: torch.Tensor
    seen: torch.Tensor  # the classes that the net sees
    large: torch.Tensor  # (6, 3, 16, 16), which the autoencoder takes
    i: object = int
    f: object = float
    seed: object = 3     # what feeds every draw
    moved: object = field(default=lambda v: v)   # to the device of the test

    @property
    def noisy(self):
        """Noisy images of sigma 25, with their graph to x if that has one."""
        return self.x + self.moved(25 / 255 * rng.normal(torch.arange(6), (3, 10, 10))).to(self.x.dtype)

    @property
    def basis(self):
        return manifold.orthonormal(self.moved(rng.normal(torch.arange(6), (4, 3, 10, 10))).to(self.x.dtype))


def setting(**changes):
    """A `Setting` of nets in eval mode, with weights that require gradients, as a user's may."""
    build = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 6, 3, 2, 1),
                            nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(150, 5))
        net[1].running_mean.uniform_(-0.2, 0.2, generator=build)
    net = Normalized(net, (0.4, 0.5, 0.6), (0.3, 0.2, 0.3)).eval()
    joint = build_model("gradresnet", width=8, blocks=[1, 1, 1, 1], generator=0, channels_last=False).eval()
    coder = build_model("autoencoder", latent=4, width=4, size=16, generator=0, channels_last=False).eval()
    x = rng.uniform(torch.arange(6), (3, 10, 10), stream=5)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    large = rng.uniform(torch.arange(6), (3, 16, 16), stream=6)
    return Setting(**{"net": net, "joint": joint, "coder": coder, "x": x, "y": y, "seen": net(x).argmax(1),
                      "large": large} | changes)


def _energy(s):
    return lambda x: -s.net(x).logsumexp(1)


CALLS = {
    # attacks
    "auto_pgd.apgd": lambda s: auto_pgd.apgd(s.net, s.x, s.seen, eps=s.f(0.1), steps=s.i(4), generator=s.seed),
    "auto_pgd.apgd, l2": lambda s: auto_pgd.apgd(s.net, s.x, s.seen, norm="l2", eps=s.f(1), steps=s.i(4),
                                                 generator=s.seed),
    "ensemble.autoattack": lambda s: ensemble.autoattack(s.net, s.x, s.y, eps=s.f(0.05), steps=s.i(3), queries=s.i(5),
                                                         batch=s.i(3), generator=s.seed),
    "ensemble.autoattack, l2": lambda s: ensemble.autoattack(s.net, s.x, s.y, norm="l2", eps=s.f(0.3), steps=s.i(3),
                                                             queries=s.i(5), generator=s.seed),
    "evaluation.accuracy": lambda s: evaluation.accuracy(s.net, s.x, s.y, batch=s.i(4)),
    "evaluation.batched": lambda s: evaluation.batched(gradient_based.fgsm, s.net, s.x, s.y, eps=s.f(0.1),
                                                       batch=s.i(4)),
    "evaluation.logits_along": lambda s: evaluation.logits_along(
        s.net, s.x, s.y, attack=gradient_based.pgd, norm="l2", eps=s.f(1), step_size=s.f(0.5), steps=s.i(2)),
    "evaluation.robust_accuracy": lambda s: evaluation.robust_accuracy(
        s.net, s.x, s.seen, norm="linf", eps=s.f(0.05), step_size=s.f(0.02), steps=s.i(3), random_start=True,
        generator=s.seed, batch=s.i(4), each=True),
    "external.foolbox_pgd": lambda s: external.foolbox_pgd(s.net, s.x, s.y, norm="linf", eps=s.f(0.1),
                                                           step_size=s.f(0.05), steps=s.i(2)),
    "gradient_based.pgd": lambda s: gradient_based.pgd(s.net, s.x, s.y, norm="linf", eps=s.f(0.1), step_size=s.f(0.05),
                                                       steps=s.i(3), random_start=True, generator=s.seed),
    "gradient_based.pgd, l2": lambda s: gradient_based.pgd(s.net, s.x, s.y, norm="l2", eps=s.f(1), step_size=s.f(0.5),
                                                           steps=s.i(3), random_start=True, generator=s.seed),
    "gradient_based.random_noise": lambda s: gradient_based.random_noise(s.x, norm="l2", eps=s.f(1), generator=s.seed),
    "gradient_based.fgsm": lambda s: gradient_based.fgsm(s.net, s.x, s.y, eps=s.f(0.1)),
    "gradient_based.energy_attack": lambda s: gradient_based.energy_attack(s.net, s.x, s.y, eps=s.f(0.1)),
    "gradient_based.he_pgd": lambda s: gradient_based.he_pgd(s.net, s.x, s.y, steps=s.i(3), lam=s.f(1.2),
                                                             generator=s.seed),
    "gradient_based.balancing_lam": lambda s: gradient_based.balancing_lam(
        s.net, s.x, s.y, steps=s.i(2), eps=s.f(0.01), tolerance=s.f(5), generator=s.seed),
    "gradient_based.random_targets": lambda s: gradient_based.random_targets(s.y, s.i(5), s.seed),
    "smoothing.defended": lambda s: smoothing.defended(s.net, "noised", s.f(20), seeds=rng.seeds(s.seed, 6),
                                                       draws=s.i(2))(s.x).detach(),
    "smoothing.withstood": lambda s: smoothing.withstood(
        s.joint, s.x, s.y, defence="denoised", sigmas=[s.f(0), s.f(20)], epsilons=[s.f(0), s.f(0.05)], norm="linf",
        steps=s.i(1), generator=s.seed),
    "square.square_attack": lambda s: square.square_attack(s.net, s.x, s.seen, eps=s.f(0.1), queries=s.i(6),
                                                           shared=s.i(1), generator=s.seed),
    "square.square_attack, l2": lambda s: square.square_attack(s.net, s.x, s.seen, norm="l2", eps=s.f(1),
                                                               queries=s.i(6), generator=s.seed),
    # probes
    "bayes_optimal.Bayes": lambda s: bayes_optimal.Bayes(s.x, s.y, sigma=s.f(50))(s.noisy).detach(),
    "fisher.joint_fisher_score": lambda s: fisher.joint_fisher_score(s.net, s.x, s.y, draws=s.i(3), generator=s.seed,
                                                                     batch=s.i(4)),
    "fisher.marginal_fisher_score": lambda s: fisher.marginal_fisher_score(s.net, s.x, sigma=s.f(0.1), draws=s.i(3),
                                                                           generator=s.seed),
    "fisher.exact_trace": lambda s: fisher.exact_trace(_energy(s), s.x[:2]),
    "gradients.input_gradient": lambda s: gradients.input_gradient(s.net, s.x, s.y),
    "gradients.logit_gradient": lambda s: gradients.logit_gradient(s.net, s.x, s.y),
    "jacobian.logit_jacobian": lambda s: jacobian.logit_jacobian(s.net, s.x),
    "jacobian.gram_matvec": lambda s: jacobian.gram_matvec(s.net, s.x.detach(), s.x.detach()),
    "jacobian.krylov": lambda s: jacobian.krylov(lambda v: 2 * v + v.flip(3), s.x.detach(), s.i(2)),
    "landscape.energy_landscape": lambda s: landscape.energy_landscape(s.net, s.x, s.y, radius=s.f(1), points=s.i(3),
                                                                       generator=s.seed),
    "landscape.curvature": lambda s: landscape.energy_landscape(s.net, s.x, s.y, radius=s.f(1), points=s.i(3),
                                                                generator=s.seed).curvature,
    "manifold.encoded_basis": lambda s: manifold.encoded_basis(s.coder, s.large, lowest=s.f(1), batch=s.i(2)),
    "manifold.orthonormal": lambda s: s.basis,
    "manifold.principal_angles": lambda s: manifold.principal_angles(s.basis[:, :2], s.basis[:, 1:]),
    "manifold.directions": lambda s: manifold.directions(s.basis, draws=s.i(2), generator=s.seed),
    "manifold.sensitivity": lambda s: manifold.sensitivity(s.net, s.x, s.basis, radii=[s.f(0.5)], draws=s.i(2),
                                                           generator=s.seed),
    "manifold.masked_sensitivity": lambda s: manifold.masked_sensitivity(
        s.net, s.x, s.moved(torch.ones(1, 1, 10, 10)), sigma=s.f(0.2), draws=s.i(2), generator=s.seed),
    "manifold.rho_off": lambda s: manifold.rho_off(lambda x: s.net(x)[:, 0], s.x, s.basis, sigma=s.f(0.1), draws=s.i(4),
                                                   generator=s.seed),
    "manifold.rho_on": lambda s: manifold.rho_on(gradients.input_gradient(s.net, s.x, s.y), s.basis),
    "scores.log_density": lambda s: scores.log_density(s.joint, s.noisy.detach(), s.y),
    "scores.denoise": lambda s: scores.denoise(s.joint, s.noisy.detach(), s.f(25)),
    "scores.denoise, of a class": lambda s: scores.denoise(s.joint, s.noisy.detach(), s.f(25), s.y),
    "scores.score": lambda s: scores.score(s.joint, s.noisy.detach(), s.f(25)),
    "scores.smoothed_score": lambda s: scores.smoothed_score(s.joint, s.x, s.f(25), draws=s.i(2), generator=s.seed),
    "scores.class_score": lambda s: scores.class_score(s.net, s.noisy, s.y),
    "scores.denoising_psnr": lambda s: scores.denoising_psnr(s.joint, s.x, sigma=s.f(25), generator=s.seed,
                                                             batch=s.i(4)),
    "scores.log_odds_score": lambda s: scores.log_odds_score(s.net, s.noisy, s.y),
    "scores.noisy_images": lambda s: scores.noisy_images(s.x, sigma=s.f(25), generator=s.seed),
    "scores.denoiser_matvec": lambda s: scores.denoiser_matvec(s.joint, s.noisy.detach(), s.f(25), s.x.detach()),
    "scores.denoiser_eigenvectors": lambda s: scores.denoiser_eigenvectors(
        s.joint, s.noisy.detach(), s.f(25), largest=s.i(1), smallest=s.i(1), steps=s.i(4), generator=s.seed)[1],
    "spectral.linearisation": lambda s: spectral.linearisation(s.net, s.x, radii=[s.f(0.1)], generator=s.seed),
    "spectral.spectrum": lambda s: spectral.spectrum(s.net, s.x, s.i(3)),
    "spectral.spectrum, subspace": lambda s: spectral.spectrum(s.net, s.x, s.i(2), method="subspace", iterations=s.i(3),
                                                               generator=s.seed),
    "spectral.spectrum, lanczos": lambda s: spectral.spectrum(s.net, s.x, s.i(2), method="lanczos", generator=s.seed),
    "spectral.noise_response": lambda s: spectral.noise_response(s.net, s.x, s.i(2), s.f(0.2), s.seed),
    "spectral.energy_ratio": lambda s: spectral.energy_ratio(s.net, s.x, n_draws=s.i(4), sigma=s.f(0.2),
                                                             generator=s.seed),
    "spectral.power_law": lambda s: spectral.power_law(spectral.spectrum(s.net, s.x)),
    "spectral.class_agreement": lambda s: spectral.class_agreement(s.net, s.x, s.x[:, None].expand(-1, 2, -1, -1, -1)),
    # sampling
    "chains.langevin": lambda s: chains.langevin(s.net, s.x, s.y, steps=s.i(3), step_size=s.f(0.1), noise=s.f(0.01),
                                                 batch=s.i(4), generator=s.seed),
    "chains.langevin, cross-entropy": lambda s: chains.langevin(
        s.net, s.x, s.y, energy="cross-entropy", steps=s.i(3), step_size=s.f(0.1), noise=s.f(0.01), generator=s.seed),
    "diffusion.blind": lambda s: diffusion.blind(s.joint, s.noisy.detach(), step=s.f(0.3), beta=s.f(0.5),
                                                 lowest=s.f(1), steps=s.i(2), generator=s.seed),
    "diffusion.ancestral": lambda s: diffusion.ancestral(s.joint, s.noisy.detach(), diffusion.noise_levels(25, 5, 2),
                                                         generator=s.seed),
    "diffusion.annealed_langevin": lambda s: diffusion.annealed_langevin(
        s.joint, s.noisy.detach(), diffusion.noise_levels(25, 5, 2), steps=s.i(2), step_size=s.f(0.1),
        generator=s.seed),
    "drift.pgdd": lambda s: drift.pgdd(s.net, s.x, layer=None, drift_noise=s.f(0.2), diffusion_noise=s.f(0.01),
                                       eps=s.f(1), step_size=s.f(0.3), steps=s.i(3), record=[s.i(2)], generator=s.seed),
    "drift.pgdd, smoothed": lambda s: drift.pgdd(
        s.net, s.x, drift_noise=s.f(0.2), diffusion_noise=s.f(0.01), eps=s.f(1), step_size=s.f(0.3), steps=s.i(2),
        smoothing_sigma=s.f(0.1), smoothing_draws=s.i(2), generator=s.seed),
    "drift.pgdd, edited": lambda s: drift.pgdd(
        s.net, s.x, drift_noise=s.f(0.2), diffusion_noise=s.f(0.01), eps=s.f(1), step_size=s.f(0.3), steps=s.i(2),
        edit=spectrum_edits.floored(s.f(0.1)), generator=s.seed),
    "drift.adaptive_pgdd": lambda s: drift.adaptive_pgdd(s.net, s.x, steps=s.i(3), generator=s.seed),
    "dynamics.sgld": lambda s: dynamics.sgld(s.x, _energy(s), steps=s.i(2), step_size=s.f(0.1), noise=s.f(0.01),
                                             generator=s.seed),
    # metrics and what runs a net
    "inference.logits_of": lambda s: inference.logits_of(s.net, s.x, batch=s.i(4)),
    "frechet.frechet_distance": lambda s: frechet.frechet_distance(s.x.detach()[:, 0, 0], s.x.detach()[:, 1, 1]),
    "frechet.inception_score": lambda s: frechet.inception_score(inference.logits_of(s.net, s.x), splits=s.i(2)),
    "labels.chance_agreement": lambda s: labels.chance_agreement(s.seen, s.y),
    "labels.class_entropy": lambda s: labels.class_entropy(s.y),
    "labels.recognition": lambda s: labels.recognition(s.y, s.seen),
    "labels.agreement": lambda s: labels.agreement(s.y.view(3, 2)),
    "perceptual.feature_distance": lambda s: perceptual.feature_distance(s.net, ["net.0"])(
        s.x.detach(), s.noisy.detach().clamp(0, 1)),
    "perceptual.alignment": lambda s: perceptual.alignment(
        gradients.input_gradient(s.net, s.x, s.y), s.x.detach(),
        perceptual.feature_distance(s.net, ["net.0", "net.2"])),
    "perceptual.cosine": lambda s: perceptual.cosine(s.x.detach(), s.noisy.detach()),
    "similarity.nearest": lambda s: similarity.nearest(s.x, s.x.flip(0), count=s.i(2)),
    "similarity.nearest_features": lambda s: similarity.nearest_features(s.x.detach()[:, 0, 0], s.x.detach()[:, 1, 1],
                                                                         count=s.i(2)),
    "similarity.two_sample_accuracy": lambda s: similarity.two_sample_accuracy(
        s.large.detach()[:, 0, 0], s.large.detach()[:, 1, 1] + 0.3, folds=s.i(2)),
    "statistics.spearman": lambda s: statistics.spearman(s.x.detach()[:, 0, 0], s.x.detach()[:, 1, 1]),
    "statistics.bootstrap": lambda s: statistics.bootstrap(s.x.detach()[:, 0, 0, 0]),
    "statistics.auroc": lambda s: statistics.auroc(s.x.detach()[:, 0, 0, 0], s.x.detach()[:, 1, 1, 1]),
}

# What takes neither a net nor images, is a part of what is called above, or works on any tensor as its operations do.
OTHERS = """
auto_pgd: Climb climb periods random_start
detection: EnergyDetector cross_fitted detection_rates max_softmax
ensemble: targeted_dlr
evaluation: true_and_rival
gradient_based: targeted
square: check_tiles
excess_risk: Constants GaussianClasses constants discriminative excess generative learning_curve minimise opposite_means
fisher: FisherScore
gradients: as_picture coherence density
jacobian: jacobian_rows unchecked_jacobian
landscape: Landscape
manifold: basis_rank regimes split_tangent tangent_basis
scores: check_denoiser check_noise_levels denoise_unchecked implied_sigma log_density_unchecked
spectral: bright full_range participation_ratio tail
diffusion: noise_levels
drift: in_batches
spectrum_edits: edited_gradient floored powered replaced truncated
starts: gaussian_start perlin_start
trajectories: Trace Trajectories join_trajectories
frechet: check_features check_samples
perceptual: Net load_lpips max_normalised
similarity: nearest_ssim
statistics: effect_size
"""


def tensors(result):
    """All tensors and numbers in what a call returned, as a flat list of tensors."""
    if isinstance(result, torch.Tensor):
        return [result]
    if is_dataclass(result):
        return tensors([getattr(result, f.name) for f in fields(result)])
    if isinstance(result, dict):
        return tensors(list(result.values()))
    if isinstance(result, list | tuple):
        return [found for part in result for found in tensors(part)]
    return [torch.as_tensor(result)]
