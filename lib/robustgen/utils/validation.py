"""Input validation: one sentence that says what was expected, what came and what to do.

What is admitted comes back as it is to be used: without a graph, and within [0, 1] if rounding has left it.
"""

import textwrap
from contextlib import contextmanager

import torch

ROUNDING = 1e-6   # by which a bicubic resize or an undone normalisation leaves [0, 1]


def check_images(x):
    """Return images (B, C, H, W) of floats in [0, 1], or refuse what is none. What rounding moved out is clamped."""
    low, high = _extremes(x)
    if low < -ROUNDING or high > 1 + ROUNDING:
        remedy = ("Divide by 255 first." if high > 2
                  else "Undo the normalisation: it belongs inside the model (rg.Normalized).")
        raise ValueError(f"images must lie in [0, 1]; these reach from {low:.7g} to {high:.7g}. {remedy}")
    x = x.detach()
    if x.is_inference():   # they cannot be part of a graph
        x = x.clone()
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def check_noisy_images(y, reach):
    """Refuse what is no float batch (B, C, H, W) of pixels within `reach` of [0, 1]."""
    low, high = _extremes(y)
    if low < -reach or high > 1 + reach:
        raise ValueError(f"noisy images must be in [0, 1] plus noise of sigma / 255; these reach from {low:.4g} to "
                         f"{high:.4g}. Divide images of 0-255 by 255; sigma stays in 0-255 units.")


def _extremes(x):
    """The least and the largest pixel of a batch of floats (B, C, H, W)."""
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode() forbids the gradients that are taken here; use torch.no_grad(), or "
                         "neither")
    if not isinstance(x, torch.Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"images must be a tensor of shape (B, C, H, W), got {shape}. Add the missing dimensions.")
    if not x.numel():
        raise ValueError(f"the batch of images is empty, of shape {tuple(x.shape)}. Give at least one image.")
    if not x.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1], got {x.dtype}. Use .float() / 255.")
    low, high = (float(end) for end in x.detach().aminmax())
    if not -torch.inf < low <= high < torch.inf:
        raise ValueError("images hold NaN or infinite pixels. Find where they arise before the call.")
    return low, high


def check_labels(y, n, classes, device=None):
    """Refuse what is not n whole numbers in 0..classes-1, on the images' device if that is given."""
    if not isinstance(y, torch.Tensor) or y.shape != (n,) or y.dtype != torch.int64:
        got = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise ValueError(f"labels must be int64 of shape ({n},), got {got}. One class number for each image.")
    if y.is_inference():
        raise ValueError("labels come from torch.inference_mode(), which forbids gradients. Use y.clone() outside it.")
    if device is not None and y.device != device:
        raise ValueError(f"labels are on {y.device} and images on {device}. Use y.to(x.device).")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, as the model has {classes} logits; these reach from "
                         f"{y.min()} to {y.max()}.")


def check_logits(logits):
    """Refuse what has been through a softmax: it has lost the energy, and with it the gradients of a sure net."""
    logits = logits.float()
    if logits.shape[1] > 1 and (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]),
                                                                      atol=1e-3):
        raise ValueError("the model returns probabilities, as each row is positive and sums to 1; return logits: leave "
                         "out its softmax.")
    if len(logits) > 1 and torch.allclose(logits.logsumexp(1), torch.zeros_like(logits[:, 0]), atol=1e-4):
        raise ValueError("the model returns log-probabilities, so E(x) = 0 everywhere; return logits: leave out its "
                         "log-softmax.")


@torch.no_grad()
def check_classifier(model, x, y=None):
    """Refuse images, labels and models that do not fit together; return the images, see `check_images`, and the number
    of classes.

    Runs the model on two images, so that the reason is said before the work begins. Refuses a model with layers in
    train mode, which it would change, or whose answers would depend on the batch or on chance.
    """
    x = check_images(x)
    if not callable(model):
        raise ValueError(f"the model is a {type(model).__name__}: it should be a net, or a function of images; "
                         "rg.build_model and rg.load_net give one by name")
    check_eval_mode(model)
    two = x[:2]
    with taking(x):
        logits = model(two)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(two):
        raise ValueError("the model must return logits of shape (B, K). Wrap it so that it does.")
    if not logits.is_floating_point():
        raise ValueError(f"the model must return logits as floats, got {logits.dtype}. Leave out what rounds them, "
                         "such as an argmax.")
    if logits.shape[1] < 2:
        raise ValueError("the model returns one logit, and a classifier has one for each of its classes. For two "
                         "classes return torch.cat([torch.zeros_like(z), z], 1).")
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite. Check its weights, and that it is in eval mode.")
    if len(two) == 1 and logits.float().logsumexp(1).abs() < 1e-4:   # by chance?
        check_logits(torch.cat([logits, model(1 - x)]))
    check_logits(logits)
    if _modules(model, lambda module: module.training) and not torch.equal(model(two), logits):
        raise ValueError("the model's logits change from call to call, as some of its layers are in train mode; call "
                         "model.eval() first")
    if y is not None:
        check_labels(y, len(x), logits.shape[1], x.device)
    return x, logits.shape[1]


@contextmanager
def taking(x):
    """Turn a model's complaint about images into a ValueError of one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 150, placeholder=" ...")
        raise ValueError(f"the model does not take images of shape {tuple(x.shape[1:])} and {x.dtype} ({reason}); give "
                         "it such as it was made for") from error


def check_eval_mode(model):
    """Refuse a model whose batch norms or dropouts are in train mode: an image's features would then depend on its
    batch, or on chance. Compiled and scripted ones are seen, too."""
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    names = ("BatchNorm", "Dropout", "AlphaDropout", "FeatureAlphaDropout")

    def suspect(module):
        return module.training and (isinstance(module, kinds)
                                    or getattr(module, "original_name", "").rstrip("123d") in names)   # TorchScript's
    if _modules(model, suspect):
        raise ValueError("the model has batch norms or dropouts in train mode; call model.eval() first")


def _modules(model, wanted):
    """Whether a model has a module of a kind; a function has none."""
    return isinstance(model, torch.nn.Module) and any(map(wanted, model.modules()))
