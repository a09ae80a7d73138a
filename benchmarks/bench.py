"""Speed claims, each beside its alternative: `make bench`.

The two sides of a pair take turns in one process, on the same nets and images; medians of `n` turns after a
warm-up, and the median and spread of the turns' ratios. Nets: profile laptop's, trained by `make repro`.
"""

import copy
import statistics
import sys
import time

import foolbox
import torch
import torchattacks
from robustgen import attacks, data, spectral, zoo
from torch.nn.functional import cross_entropy

PGD = dict(norm="l2", eps=1.5, step_size=0.2, steps=20)


def pair(title, ours, theirs, n):
    """Time two functions in turns and print a line; return their last results."""
    ours(), theirs()
    times = []
    for turn in range(n):
        row = {}
        for side in (ours, theirs) if turn % 2 else (theirs, ours):
            began = time.perf_counter()
            result = side()
            row[side] = (time.perf_counter() - began, result)
        times.append([row[ours][0], row[theirs][0]])
    a, b = (statistics.median(column) for column in zip(*times))
    ratios = sorted(t / o for o, t in times)
    print(f"{title:70} {a * 1e3:9.1f} ms {b * 1e3:9.1f} ms   {statistics.median(ratios):6.2f}×  [{ratios[0]:.2f}, {ratios[-1]:.2f}]  n = {n}", flush=True)
    return row[ours][1], row[theirs][1]


def torchattacks_pgd(model, x, y):
    return torchattacks.PGDL2(model, eps=1.5, alpha=0.2, steps=20, random_start=False)(x, y)


def foolbox_pgd(model, x, y):
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=0.2, steps=20, random_start=False)
    return attack.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, foolbox.criteria.Misclassification(y), epsilon=1.5)


def plain_robust_accuracy(model, x, y, *, eps, step_size, steps):
    """PGD on the cross-entropy, every image taking every l2 step; an image counts if it is right at each iterate."""
    robust = torch.ones(len(x), dtype=torch.bool)
    start, z = x, x
    for step in range(steps + 1):
        z = z.detach().requires_grad_()
        logits = model(z)
        robust &= logits.argmax(1) == y
        if step < steps:
            gradient, = torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), z)
            delta = z.detach() + step_size * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1) - start
            z = (start + delta * (eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)).clamp(0, 1)
    return robust.float().mean().item()


def main():
    try:
        standard, robust = zoo.load("mnist-standard", "laptop"), zoo.load("mnist-robust", "laptop")
    except FileNotFoundError as missing:
        sys.exit(str(missing))
    test = data.load("mnist", "test", 1000)
    x, y = test.unit, test.y
    print(f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print(f"{'pair: ours against the other':70} {'ours':>12} {'other':>12}   other / ours, [range]")

    few = x[:128], y[:128]
    for name, other in {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd}.items():
        pair(f"PGD-20, l2, 128 images, against {name}", lambda: attacks.pgd(robust, *few, **PGD), lambda: other(robust, *few), 9)
        double = copy.deepcopy(robust).double(), few[0][:32].double(), few[1][:32]   # float32 rounding, not the algorithm, parts them else
        print(f"    largest difference of a pixel, in float64: {(attacks.pgd(*double, **PGD) - other(*double)).abs().max():.1e}")

    for eps in (1.5, 3.0):   # the fewer images survive, the more there is to save
        settings = dict(eps=eps, step_size=eps / 7.5, steps=20)
        a, b = pair(f"robust_accuracy of the standard net, 1000 images, eps {eps}, plain loop",
                    lambda: attacks.robust_accuracy(standard, x, y, norm="l2", **settings),
                    lambda: statistics.fmean(plain_robust_accuracy(standard, bx, by, **settings) for bx, by in zip(x.split(100), y.split(100))), 3)
        print(f"    accuracies: {a:.4f} and {b:.4f}")

    image = x[:8]
    exact, subspace = pair("8 leading eigenvalues, 8 images, exact against subspace",
                           lambda: spectral.spectrum(robust, image, 8),
                           lambda: spectral.spectrum(robust, image, 8, method="subspace", tolerance=1e-4, generator=0), 3)
    print(f"    largest relative difference of an eigenvalue: {(subspace / exact - 1).abs().max():.1e}")


if __name__ == "__main__":
    main()
