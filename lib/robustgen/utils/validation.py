"""Input validation: one sentence that says what was expected, what came and what to do."""

import torch


def check_images(x, reach=0.0):
    """Refuse what is not a float batch (B, C, H, W) of pixels in [0, 1], or of noisy ones within `reach` of it."""
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or len(x) == 0:
        shape = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"images must be a tensor of shape (B, C, H, W), got {shape}. Add the missing dimensions.")
    if not x.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1], got {x.dtype}. Use .float() / 255.")
    low, high = x.detach().aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError("images hold NaN or infinite pixels. Find where they arise before the call.")
    if reach and (low < -reach or high > 1 + reach):
        raise ValueError(f"noisy images must be in [0, 1] plus noise of sigma / 255; these reach from {low:.4g} to "
                         f"{high:.4g}. "
                         "Divide images of 0-255 by 255; sigma stays in 0-255 units.")
    if not reach and (low < 0 or high > 1):
        remedy = ("Divide by 255 first." if high > 2
                  else "Undo the normalisation: it belongs inside the model (rg.Normalized).")
        raise ValueError(f"images must lie in [0, 1]; these reach from {low:.4g} to {high:.4g}. {remedy}")


def check_labels(y, n, classes):
    """Refuse what is not n whole numbers in 0..classes-1."""
    if not isinstance(y, torch.Tensor) or y.shape != (n,) or y.dtype != torch.int64:
        got = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise ValueError(f"labels must be int64 of shape ({n},), got {got}. One class number for each image.")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, as the model has {classes} logits; these reach from "
                         f"{y.min()} to {y.max()}.")


def check_logits(logits):
    """Refuse what has been through a softmax: it has lost the energy, and with it the gradients of a sure net."""
    if logits.shape[1] > 1 and (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]),
                                                                      atol=1e-3):
        raise ValueError("the model returns probabilities, as each row is positive and sums to 1; return logits: leave "
                         "out its softmax.")
    if len(logits) > 1 and torch.allclose(logits.logsumexp(1), torch.zeros_like(logits[:, 0]), atol=1e-4):
        raise ValueError("the model returns log-probabilities, so E(x) = 0 everywhere; return logits: leave out its "
                         "log-softmax.")


def check_classifier(model, x, y=None):
    """Refuse images, labels and models that do not fit together; return the number of classes.

    Runs the model on two images, so that the reason is said before the work begins.
    """
    check_images(x)
    try:
        with torch.no_grad():
            logits = model(x[:2])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model does not take images of shape {tuple(x.shape[1:])}: {reason}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ValueError("the model must return logits of shape (B, K). Wrap it so that it does.")
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite. Check its weights, and that it is in eval mode.")
    check_logits(logits)
    if y is not None:
        check_labels(y, len(x), logits.shape[1])
    return logits.shape[1]


def check_eval_mode(model):
    """Refuse a model whose batch norms or dropouts are in train mode: an image's features would then depend on its
    batch, or on chance."""
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    if isinstance(model, torch.nn.Module) and any(module.training and isinstance(module, kinds)
                                                  for module in model.modules()):
        raise ValueError("the model has batch norms or dropouts in train mode; call model.eval() first")
