"""Input gradients that can be differentiated again: for losses that hold the gradient of a net.

`torch.func.grad` runs inside the training step, so the whole step is one function that compiles, and DDP
sees a single ordinary backward pass.
"""

import torch


def gradient_and_values(net, function, x):
    """Gradient of `function`'s values with respect to the images: (gradient (B, C, H, W), values (B,), extra).

    function   (net, images) -> (values (B,), extra tensors or ()); the gradient is that of the values' sum.
               It may only call the net, not its methods.

    All three can be differentiated with respect to the net's weights. Batch norm in train mode works as in an
    ordinary pass: an image's gradient then holds its share in its neighbours' values, and the running
    statistics move on by one step.
    """
    tracked = dict(net.named_buffers()) if net.training else {}

    def total(x):
        # Inside the transform captured buffers may not change, so copies do.
        buffers = {name: buffer.clone() for name, buffer in tracked.items()}
        values, extra = function(lambda *args: torch.func.functional_call(net, buffers, args) if buffers
                                 else net(*args), x)
        return values.sum(), (values, extra, buffers)

    gradient, (values, extra, buffers) = torch.func.grad(total, has_aux=True)(x)
    with torch.no_grad():
        for name, buffer in buffers.items():
            tracked[name].copy_(buffer)
    return gradient, values, extra
