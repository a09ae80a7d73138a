"""Speed claims, each beside its alternative: `make bench [ARGS=training]`.

The two sides of a pair take turns in one process, on the same nets and images; medians of `n` turns after a
warm-up, and the median and spread of the turns' ratios. Trained nets are profile laptop's, from `make repro`.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torchattacks
from torch.nn.functional import cross_entropy

from robustgen.attacks import external
from robustgen.attacks.evaluation import accuracy, robust_accuracy
from robustgen.attacks.gradient_based import he_pgd, pgd
from robustgen.core import ascent, dynamics, rng
from robustgen.core.energy import log_odds, marginal_energy
from robustgen.data.datasets import load_data
from robustgen.models.builders import build_model
from robustgen.models.checkpoints import load_weights
from robustgen.models.inference import logits_of
from robustgen.probes import manifold, spectral
from robustgen.sampling.chains import langevin
from robustgen.sampling.drift import pgdd
from robustgen.sampling.starts import gaussian_start
from robustgen.training.family import _fabric
from robustgen.training.registry import build_objective
from robustgen.training.runs import load_run
from robustgen.training.trainer import Job, train_net
from robustgen.utils.torchvision_import import torchvision
from robustgen.zoo.trained import load_net

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
    print_pair(title, times)
    return row[ours][1], row[theirs][1]


def print_pair(title, times):
    """The line of a pair, from the seconds (ours, theirs) of each turn."""
    a, b = (statistics.median(column) for column in zip(*times))
    ratios = sorted(t / o for o, t in times)
    print(f"{title:70} {a * 1e3:9.1f} ms {b * 1e3:9.1f} ms   {statistics.median(ratios):6.2f}×  [{ratios[0]:.2f}, "
          f"{ratios[-1]:.2f}]  n = {len(times)}", flush=True)


def torchattacks_pgd(model, x, y):
    return torchattacks.PGDL2(model, eps=1.5, alpha=0.2, steps=20, random_start=False)(x, y)


def foolbox_pgd(model, x, y):
    return external.foolbox_pgd(model, x, y, norm="l2", eps=1.5, step_size=0.2, steps=20)


def plain_robust_accuracy(model, x, y, *, eps, step_size, steps):
    """PGD on the cross-entropy, every image taking every l2 step; an image counts if it is right at each iterate."""
    def length(v):
        return v.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    robust = torch.ones(len(x), dtype=torch.bool)
    start, z = x, x
    for step in range(steps + 1):
        z = z.detach().requires_grad_()
        logits = model(z)
        robust &= logits.argmax(1) == y
        if step < steps:
            gradient, = torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), z)
            delta = z.detach() + step_size * gradient / length(gradient) - start
            z = (start + delta * (eps / length(delta)).clamp_max(1)).clamp(0, 1)
    return robust.float().mean().item()


def attack_pairs(standard, robust, x, y):
    few = x[:128], y[:128]
    for name, other in {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd}.items():
        pair(f"PGD-20, l2, 128 images, against {name}", lambda: pgd(robust, *few, **PGD), lambda: other(robust, *few),
             9)
        # float32 rounding, not the algorithm, parts them else
        double = copy.deepcopy(robust).double(), few[0][:32].double(), few[1][:32]
        difference = (pgd(*double, **PGD) - other(*double)).abs().max()
        print(f"    largest difference of a pixel, in float64: {difference:.1e}")

    for eps in (1.5, 3.0):   # the fewer images survive, the more there is to save
        settings = dict(eps=eps, step_size=eps / 7.5, steps=20)
        a, b = pair(f"robust_accuracy of the standard net, 1000 images, eps {eps}, plain loop",
                    lambda: robust_accuracy(standard, x, y, norm="l2", **settings),
                    lambda: statistics.fmean(plain_robust_accuracy(standard, bx, by, **settings)
                                             for bx, by in zip(x.split(100), y.split(100))), 3)
        print(f"    accuracies: {a:.4f} and {b:.4f}")


def check_pairs(robust, x, y):
    """Attacks as users call them, against the loop in them alone: what the checks at the door cost."""
    few = x[:128], y[:128]
    for steps in (1, 20):
        settings = dict(norm="l2", eps=1.5, step_size=0.2, steps=steps, random_start=False)
        pair(f"PGD-{steps}, l2, 128 images, without the checks", lambda: pgd(robust, *few, **settings),
             lambda: ascent.ascend_in_ball(few[0], lambda x: log_odds(robust(x), few[1]), **settings), 31)


def queued_robust_accuracy(model, x, y, *, eps, step_size, steps, batch=100):
    """As robust_accuracy, but waiting images take the places of those that left: every forward pass is a full batch."""
    step, waiting = ascent.STEP["l2"](step_size), torch.arange(len(x))
    active, taken, z = waiting[:0], waiting[:0], x[:0]
    robust = torch.zeros(len(x), dtype=torch.bool)
    while len(waiting) or len(active):
        new, waiting = waiting[:batch - len(active)], waiting[batch - len(active):]
        active, z = torch.cat([active, new]), torch.cat([z, x[new]]).requires_grad_()
        taken = torch.cat([taken, torch.zeros_like(new)])
        logits = model(z)
        gradient, = torch.autograd.grad(log_odds(logits, y[active]).sum(), z)
        right, last = logits.argmax(1) == y[active], taken == steps
        robust[active[right & last]] = True
        stay = right & ~last
        moved = ascent.ball("l2", x[active], eps)(z.detach() + step(gradient))
        active, taken, z = active[stay], taken[stay] + 1, moved[stay]
    return robust.float().mean().item()


def queue_pairs():
    """Dropping fooled images batch by batch against a queue that fills the batches up again."""
    for data, run, eps, steps in (("mnist", "mnist-standard", 1.5, 20), ("mnist", "mnist-standard", 3.0, 20),
                                  ("cifar10", "cifar10-linf", 0.5, 20)):
        net, images = load_net(run, "laptop", folded=True), load_data(data, "test", 500, seed=0)
        x, y, settings = images.unit, images.y, dict(eps=eps, step_size=eps / 7.5, steps=steps)
        a, b = pair(f"robust_accuracy of {run}, 500 images, eps {eps}, a queue",
                    lambda: robust_accuracy(net, x, y, norm="l2", **settings),
                    lambda: queued_robust_accuracy(net, x, y, **settings), 5)
        print(f"    accuracies: {a:.4f} and {b:.4f}")


def import_pair():
    """`import robustgen` in a new process, against an interpreter that imports nothing, and against all it can load."""
    def start(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    pair("python -c 'import robustgen', python -c pass", start("import robustgen"), start("pass"), 9)
    pair("the same, with torch loaded", start("import robustgen"), start("import robustgen as rg; rg.pgd"), 5)


def folding_pair():
    """HE-PGD as notebook 6 runs it: batch norms as part of the convolutions against as they were trained."""
    test = load_data("cifar10", "test", 100)
    nets = {folded: load_net("cifar10-standard", "laptop", folded=folded) for folded in (True, False)}
    reached = pair("HE-PGD-40 on cifar10-standard, 100 images, batch norms as trained",
                   *(lambda net=net: he_pgd(net, test.unit, test.y, generator=0) for net in nets.values()), 9)
    a, b = (marginal_energy(logits_of(nets[False], images)).mean() for images in reached)
    print(f"    mean E(x) reached: {a:.3f} and {b:.3f}")


def spectrum_pair(robust, x):
    exact, subspace = pair("8 leading eigenvalues, 8 images, exact against subspace",
                           lambda: spectral.spectrum(robust, x[:8], 8),
                           lambda: spectral.spectrum(robust, x[:8], 8, method="subspace", tolerance=1e-4, generator=0),
                           3)
    print(f"    largest relative difference of an eigenvalue: {(subspace / exact - 1).abs().max():.1e}")


# Generation

def generation_pair():
    """PGDD on an MNIST net: trajectories in batches against the same ones by themselves; and the memory that 1000 of
    them take."""
    net = load_net("mnist-l2", "laptop", eps=1.0).to(memory_format=torch.contiguous_format)
    x0, seeds = gaussian_start(100, (1, 28, 28), generator=0), rng.seeds(0, 100)
    settings = dict(drift_noise=0.2, diffusion_noise=0.01, eps=1.0, step_size=1.0, steps=20)
    a, b = pair("PGDD, 100 trajectories of 20 steps, MNIST CNN, one at a time",
                lambda: pgdd(net, x0, generator=seeds, **settings).images,
                lambda: torch.cat([pgdd(net, x0[i:i + 1], generator=seeds[i:i + 1], **settings).images
                                   for i in range(len(x0))]), 9)
    print(f"    pixels that agree to 1e-3: {((a - b).abs() < 1e-3).float().mean():.2%}")
    runs = {kept: [thousand(kept) for _ in range(5)] for kept in (True, False)}
    print_pair("1000 trajectories of 20 steps: memory kept by glibc, or given back",
               [(ours, other) for (ours, _), (other, _) in zip(*runs.values())])
    print(f"    with every iterate kept; peak memory of the process: {statistics.median(m for _, m in runs[True]):.2f} "
          "GiB")


def thousand(kept):
    """Seconds and peak memory (GiB) of 1000 trajectories in a process of their own, with the Makefile's settings of
    malloc or glibc's."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if kept:
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    out = subprocess.run([sys.executable, "-c", THOUSAND], env=environment, check=True, capture_output=True,
                         text=True).stdout
    return [float(number) for number in out.split()]


THOUSAND = """
import resource, time, torch
from robustgen.sampling.drift import pgdd
from robustgen.sampling.starts import gaussian_start
from robustgen.zoo.trained import load_net
net = load_net("mnist-l2", "laptop", eps=1.0).to(memory_format=torch.contiguous_format)
x0 = gaussian_start(1000, (1, 28, 28), generator=0)
settings = dict(drift_noise=0.2, diffusion_noise=0.01, eps=1.0, step_size=1.0, steps=20, generator=0, record=range(21))
pgdd(net, x0[:50], **settings)
began = time.perf_counter()
pgdd(net, x0, **settings)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def langevin_pairs():
    """Chains of a class in batches of 100, weights at rest, against JEM's own way and against a backward pass a
    step."""
    for run, chains, steps, n in (("mnist-jeat", 10000, 2, 5), ("cifar10-jeat", 1000, 2, 5)):
        net = load_net(run, "laptop")
        trained = copy.deepcopy(net).requires_grad_(True)
        train_set = load_data(run.partition("-")[0], "train", 5000)
        y, seeds = torch.arange(chains) % 10, rng.seeds(0, chains)
        x0 = dynamics.class_gaussian_start(train_set)(rng.fold(seeds, 1), y).clamp(0, 1)
        settings = dict(steps=steps, step_size=0.25, noise=0.005)
        for name, theirs in {"JEM's way": jem_chains, "backward passes": backward_chains}.items():
            pair(f"{chains} chains of {steps} steps, {run}, against {name}",
                 lambda: langevin(net, x0, y, generator=seeds, **settings), lambda: theirs(trained, x0, y, **settings),
                 n)
            few = x0[:200], y[:200]
            a, b = langevin(net, *few, **settings | {"noise": 0.0}), theirs(trained, *few, **settings | {"noise": 0.0})
            print(f"    largest difference of a pixel, without noise: {(a - b).abs().max():.1e}")


def jem_chains(net, x0, y, *, steps, step_size, noise):
    """As sample_q of JEM's public code moves them (github.com/wgrathwohl/JEM): all at once, with weights that ask for
    gradients, graphs kept."""
    x = x0.clone().requires_grad_()
    for _ in range(steps):
        gradient, = torch.autograd.grad(net(x).gather(1, y[:, None]).sum(), [x], retain_graph=True)
        x.data += step_size * gradient + noise * torch.randn_like(x)
    return x.detach()


def backward_chains(net, x0, y, *, steps, step_size, noise):
    """The same by a backward pass a step, which computes the weights' gradients, too."""
    x = x0.clone().requires_grad_()
    for _ in range(steps):
        x.grad = None
        net(x).gather(1, y[:, None]).sum().backward()
        x.data += step_size * x.grad + noise * torch.randn_like(x)
    net.zero_grad()
    return x.detach()


# Training

def joint_denoising_pair(device):
    """A step of eq. 13 through torch.func (compiled on a GPU) against plain autograd with create_graph."""
    run = load_run("laptop" if device == "cpu" else "gpu", "cifar10-gradresnet")
    images = load_data("cifar10", "train", 64).to(device)
    x, y, seeds = images.unit, images.y, rng.seeds(0, 64, device)
    ours = build_objective(build_model(**run.model, generator=0, channels_last=run.channels_last).to(device),
                           **run.objective)
    plain = copy.deepcopy(ours)

    def plain_loss(x, sigma, e):
        level = sigma.view(-1, 1, 1, 1) / 255
        noisy = (x + level * e).requires_grad_()
        score, = torch.autograd.grad(plain.model(noisy, density=True).sum(), noisy, create_graph=True)
        return (level * score + e).square().mean()

    plain._loss = plain_loss
    if device != "cpu":
        ours.compile()

    def step(objective):
        objective.zero_grad()
        loss, _ = objective(x, y, seeds)
        loss.backward()
        return loss.item()

    a, b = pair(f"joint denoising step, 64 images, width {run.model['width']}, create_graph", lambda: step(ours),
                lambda: step(plain), 15)
    print(f"    losses: {a:.6f} and {b:.6f}")


class Cifar(torch.utils.data.Dataset):
    """CIFAR-10 as a torchvision user has it: a PIL image at a time through the transforms."""

    def __init__(self, images):
        t = torchvision.transforms
        self.images = [t.functional.to_pil_image(x) for x in images.x]
        self.transform = t.Compose([t.RandomCrop(32, padding=4), t.RandomHorizontalFlip(), t.ToTensor()])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i])


def data_path_pair():
    """An epoch of flipped and cropped batches: resident against a DataLoader with a worker a core."""
    images = load_data("cifar10", "train", 20000)
    resident = SimpleNamespace(images=images, run=load_run("laptop", "cifar10-standard"))
    loader = torch.utils.data.DataLoader(Cifar(images), batch_size=128, shuffle=True, num_workers=2,
                                         persistent_workers=True)

    def ours():
        return sum(len(Job.batch(resident, part, rng.fold(0, part))[0])
                   for part in torch.randperm(len(images)).split(128))

    a, b = pair("an epoch of 20000 augmented images, DataLoader with 2 workers", ours, lambda: sum(map(len, loader)), 5)
    assert a == b == len(images)


def adversarial_pair():
    """Whole trainings of the narrow CIFAR-10 net, one step with a random start against ten without."""
    test = load_data("cifar10", "test", 500)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for steps, size in ((1, 0.03922), (10, 0.00784)):
            settings = load_run("laptop", "cifar10-linf").members()["eps=0.03137"]
            changes = {"images": 5000, "epochs": 4, "objective.steps": steps, "objective.step_size": size,
                       "objective.random_start": steps == 1}
            settings = settings._changed(changes)
            began = time.perf_counter()
            train_net(settings, Path(folder) / str(steps), _fabric("32-true", "ddp"), label=f"{steps}-step")
            seconds = time.perf_counter() - began
            net = load_weights(Path(folder) / f"{steps}.safetensors", settings.model)
            attack = dict(norm="linf", eps=8 / 255, step_size=2 / 255, steps=20)
            robust = robust_accuracy(net, test.unit, test.y, **attack)
            results[steps] = seconds, accuracy(net, test.unit, test.y), robust
    print("adversarial training, 5000 images of CIFAR-10, 4 epochs, 10-step against single-step: "
          f"{results[10][0] / results[1][0]:.2f}×  n = 1")
    for steps, (seconds, clean, robust) in results.items():
        print(f"    {steps}-step: {seconds:.1f} s, accuracy {clean:.3f}, under PGD-20 at 8/255 {robust:.3f}")


def layout_pairs():
    """What a profile chooses: memory layout, precision, one net after another."""
    images = load_data("cifar10", "train", 64)
    x, y = images.unit, images.y

    def step(model, x, precision=torch.float32):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = cross_entropy(model(x), y)
        loss.backward()
        model.zero_grad()

    last = build_model("resnet10", width=16, generator=0)
    first = build_model("resnet10", width=16, generator=0, channels_last=False)
    moved = x.contiguous(memory_format=torch.channels_last)
    pair("training step of resnet10, width 16, 64 images, channels first", lambda: step(last, moved),
         lambda: step(first, x), 15)
    pair("the same in float32 against bf16-mixed", lambda: step(last, moved), lambda: step(last, moved, torch.bfloat16),
         9)

    nets = [build_model("mnist_cnn", width=32, hidden=100, generator=seed, channels_last=False) for seed in range(5)]
    digits = load_data("mnist", "train", 64)
    pair("5 MNIST nets one after another against stacked with torch.func", *stacked(nets, [(digits.unit, digits.y)]),
         15)


def stacked(nets, batches, lr=0.0):
    """Gradient steps of several nets through batches (x, y), one net after another and all at once: two functions that
    return the weights.

    Batch norms lose their running statistics, which training does not need.
    """
    for norm in [module for net in nets for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    each = [copy.deepcopy(net).to(memory_format=torch.channels_last) for net in nets]
    skeleton, (starts, _) = copy.deepcopy(nets[0]).to("meta"), torch.func.stack_module_state(nets)

    def loss(weights, x, y):
        return cross_entropy(torch.func.functional_call(skeleton, weights, (x,)), y)

    @torch.no_grad()
    def descend(p, slope):
        p -= lr * slope

    def one_by_one():
        for net, start in zip(each, nets):
            net.load_state_dict(start.state_dict())
            for x, y in batches:
                cross_entropy(net(x), y).backward()
                for p in net.parameters():
                    descend(p, p.grad)
                net.zero_grad()
        return {name: torch.stack(copies) for name, *copies in zip(starts, *(net.parameters() for net in each))}

    def at_once():
        weights = {name: start.detach().clone() for name, start in starts.items()}
        for x, y in batches:
            slopes = torch.func.vmap(torch.func.grad(loss), (0, None, None))(weights, x, y)
            for name, p in weights.items():
                descend(p, slopes[name])
        return weights

    return one_by_one, at_once


# Processes that share the cores

def sharing_pairs(steps, n):
    """One training and two at once, where idle threads of OpenMP spin briefly, as make has it, against its default."""
    for processes in (1, 2):
        turns = []
        for turn in range(n):
            sides = {}
            for spins in ("10000", None) if turn % 2 else (None, "10000"):
                sides[spins] = together(processes, spins, steps)
            turns.append((sides["10000"], sides[None]))
        print_pair(f"{steps} steps of resnet10, {processes} training at once, OpenMP's default spinning", turns)


def together(processes, spins, steps):
    """Seconds that `processes` trainings of so many steps take that begin at once, the last one's; `spins` is
    GOMP_SPINCOUNT, None for the default."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    environment |= {"GOMP_SPINCOUNT": spins} if spins else {}
    started = [subprocess.Popen([sys.executable, "-c", TRAINING, str(steps)], env=environment, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(processes)]
    for process in started:
        process.stdout.readline()   # it is ready
    began = time.perf_counter()
    for process in started:
        process.stdin.close()
    if any(process.wait() for process in started):
        sys.exit("a training of the benchmark failed")
    return time.perf_counter() - began


TRAINING = """
import sys, torch   # before robustgen, which would set GOMP_SPINCOUNT
from robustgen.models.builders import build_model
net = build_model("resnet10", width=16, generator=0)
x, y = torch.rand(128, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(128) % 10
optimizer = torch.optim.SGD(net.parameters(), 0.01)
def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
step()
print("ready", flush=True)
sys.stdin.read()
for _ in range(int(sys.argv[1])):
    step()
"""


# Manifolds

def manifold_pairs():
    """Tangent bases by forward mode against reverse mode, and an epoch of five nets of a family one by one against all
    at once."""
    autoencoder = build_model("autoencoder", latent=128, width=32, generator=0).eval().requires_grad_(False)
    z = rng.normal(rng.seeds(0, 4), (128,))

    def reverse():
        # 3072 backward passes, 256 at once
        jacobian = torch.func.jacrev(lambda z: autoencoder.decode(z[None]).flatten(), chunk_size=256)
        return torch.stack([torch.linalg.qr(jacobian(one))[0] for one in z])

    def largest(a, b):
        """Largest difference of the projectors' entries."""
        return max((p.T @ p - q @ q.T).abs().max().item() for p, q in zip(a.flatten(2), b))

    found = pair("tangent bases of 4 images, 128 latents, forward mode, reverse mode",
                 lambda: manifold.tangent_basis(autoencoder.decode, z), reverse, 5)
    print(f"    largest difference of a projector's entry: {largest(*found):.1e}")

    def passes():
        """As the paper's code has it: a backward pass for each of 3072 pixels."""
        jacobian = torch.autograd.functional.jacobian(autoencoder.decode, z[:1])
        return torch.linalg.qr(jacobian.view(-1, 128))[0]

    found = pair("the same of one image, forward mode, one reverse pass a pixel",
                 lambda: manifold.tangent_basis(autoencoder.decode, z[:1]), passes, 3)
    print(f"    largest difference of a projector's entry: {largest(found[0], found[1][None]):.1e}")

    images = load_data("shapes", "train", 640)
    nets = [build_model("resnet10", width=8, generator=seed, channels_last=False) for seed in range(5)]
    batches = list(zip(images.unit.split(32), images.y.split(32)))
    pair("an epoch of 5 resnet10 of width 8, 640 shapes, stacked by torch.func", *stacked(nets, batches, lr=0.05), 5)
    # in float32 rounding grows from step to step
    double = stacked([net.double() for net in nets], [(x.double(), y) for x, y in batches[:3]], lr=0.05)
    apart = max((a - b).abs().max() for a, b in zip(*(side().values() for side in double)))
    print(f"    largest difference of a weight after 3 steps, in float64: {apart:.1e}")


def main():
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the speed claims, each beside its "
                                                                    "alternative.")
    parser.add_argument("part", nargs="?", help="only this part",
                        choices=("import", "attacks", "generation", "training", "sharing", "manifold"))
    part = parser.parse_args().part
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{torch.get_num_threads()} CPU threads, {torch.cuda.get_device_name() if device == 'cuda' else 'no GPU'}, "
          f"torch {torch.__version__}")
    print(f"{'pair: ours against the other':70} {'ours':>12} {'other':>12}   other / ours, [range]")
    try:
        standard, robust = load_net("mnist-standard", "laptop"), load_net("mnist-robust", "laptop")
    except FileNotFoundError as missing:
        sys.exit(str(missing))
    if part in (None, "import"):
        import_pair()
    if part in (None, "attacks"):
        test = load_data("mnist", "test", 1000)
        check_pairs(robust, test.unit, test.y)
        attack_pairs(standard, robust, test.unit, test.y)
        queue_pairs()
        folding_pair()
        spectrum_pair(robust, test.unit)
    if part in (None, "generation"):
        generation_pair()
        langevin_pairs()
    if part in (None, "training"):
        joint_denoising_pair(device)
        data_path_pair()
        layout_pairs()
        adversarial_pair()
    if part in (None, "sharing"):
        sharing_pairs(steps=30, n=5)
    if part in (None, "manifold"):
        manifold_pairs()


if __name__ == "__main__":
    main()
