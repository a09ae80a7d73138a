"""Pixel-space optimisation: one loop for every attack and every sampler.

PGD, the energy attack, HE-PGD, PGDD and Langevin dynamics all move a batch of images along the gradient of
a per-image objective. They differ in what is climbed (`gradient`), how a gradient becomes a step (`step`)
and where images may go (`project`), and those are arguments.
"""

import torch

from . import rng
from .images import moved, narrowed, norm, single


def ascend(x, gradient, *, step, project, steps, noise=0.0, generator=None, callback=None):
    """Take `steps` steps along `gradient` and return the images reached.

    x          (B, C, H, W) images in [0, 1].
    gradient   images -> gradients (B, C, H, W) of what is climbed, such as `gradient_of(objective)`.
    step       gradient -> displacement, such as `signed(2 / 255)` or `normalised(0.2)`.
    project    images -> the nearest allowed images, such as `ball("l2", x, 1.5)`.
    noise      standard deviation of the Gaussian added at each step (0 for attacks).
    generator  of that noise: a torch.Generator, or one int64 seed an image.
    callback   called as callback(t, x) after each step; a true answer stops the ascent.
    """
    x = x.detach()
    if noise:
        seeds = rng.seeds(generator, len(x), x.device)
    for t in range(steps):
        x = x + step(gradient(x))
        if noise:
            x = x + noise * rng.normal(seeds, x.shape[1:], stream=t).to(x.dtype)
        x = project(x)
        if callback and callback(t, x):
            break
    return x


def gradient_of(objective):
    """The gradient of an objective, images -> (B,) values, by images. The weights' gradients are left alone.

    An image's value must not depend on its neighbours (so: batch norm in eval mode).
    """
    def gradient(x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(objective(x).sum(), x)[0]
    return gradient


def ascend_in_ball(x, objective, *, norm, eps, step_size, steps, random_start, generator=None):
    """Projected gradient ascent within `eps` of each image of `x`, in the norm "linf" or "l2".

    objective   as in `gradient_of`. eps and step_size may be numbers or hold one an image, (B, 1, 1, 1).
    """
    start = random_in_ball(norm, x, eps, generator) if random_start else x
    return ascend(start, gradient_of(objective), step=STEP[norm](step_size), project=ball(norm, x, eps), steps=steps)


# Step rules: gradient -> displacement

def signed(size):
    """Steepest ascent in the max norm: every pixel moves by `size`."""
    return lambda gradient: size * gradient.sign()


def normalised(size):
    """Steepest ascent in l2: every image moves by `size`. A zero gradient moves nothing."""
    return lambda gradient: size * gradient / (norm(gradient) + 1e-10)


def scaled(size):
    """Gradient ascent as it is: `size` times the gradient."""
    return lambda gradient: size * gradient


STEP = {"linf": signed, "l2": normalised}   # steepest ascent in each norm


# Projections: images -> allowed images

def ball(kind, centre, eps):
    """The images of [0, 1] within `eps` of `centre`, image by image, in the norm "linf" or "l2".

    l2: onto the ball, then into [0, 1]; that shrinks every pixel towards the centre, so it stays in the ball.
    Images keep the centre's type, and are in the ball in exact arithmetic even if it is float16 or bfloat16.
    """
    middle = single(centre)
    if kind == "linf":
        low, high = (middle - eps).clamp(0, 1), (middle + eps).clamp(0, 1)
        return lambda x: narrowed(torch.minimum(torch.maximum(single(x), low), high), centre)

    def project(x):
        delta = single(x) - middle
        return moved(centre, delta * (eps / norm(delta).clamp_min(1e-12)).clamp_max(1))
    return project


def random_in_ball(kind, centre, eps, generator=None):
    """Images drawn uniformly from the ball around each image of `centre`, then clamped to [0, 1]."""
    seeds, shape = rng.seeds(generator, len(centre), centre.device), centre.shape[1:]
    if kind == "linf":
        delta = eps * (2 * rng.uniform(seeds, shape) - 1)
    else:
        direction = rng.normal(seeds, shape)
        radius = rng.uniform(seeds, (1, 1, 1), stream=1) ** (1 / shape.numel())
        delta = eps * radius * direction / norm(direction)
    return moved(centre, delta)
