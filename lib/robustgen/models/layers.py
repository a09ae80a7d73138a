"""Features of any inner layer of any net, by the layer's module name, through forward hooks: nothing of the net is
changed."""

import difflib

import torch


def features(model, layer=None):
    """A function from images to (features of `layer`, output of the model), both from one forward pass.

    layer   a name of model.named_modules(), such as "layer4" or "net.avgpool"; a list of names, for a list of features;
            None for the model's output itself. The features are that module's output; of a module called more than
            once, the last call's.

    Raises ValueError for a name that does not exist, with the near ones, or a module that gives no tensor or is not
    called.
    """
    if layer is None:
        def whole(x):
            output = model(x)
            return output, output
        return whole
    names = [layer] if isinstance(layer, str) else list(layer)
    modules = [_module(model, name) for name in names]

    def inner(x):
        kept = {}

        def keep(name):
            def hook(module, inputs, output):
                # a later layer may work in place
                kept[name] = output.clone() if isinstance(output, torch.Tensor) else output
            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in zip(names, modules)]
        try:
            output = model(x)
        finally:
            for handle in handles:
                handle.remove()
        for name in names:
            if name not in kept:
                raise ValueError(f"layer {name!r} is not called in the model's forward pass; choose one that is")
            if not isinstance(kept[name], torch.Tensor):
                raise ValueError(f"layer {name!r} gives a {type(kept[name]).__name__}, not a tensor; choose a layer "
                                 "inside it")
        found = [kept[name] for name in names]
        return found[0] if isinstance(layer, str) else found, output
    return inner


def require_gradient(net, x, layer):
    """Return `net`, which `features` gave, if its features depend on the images x; else raise ValueError."""
    z = x[:1].detach().requires_grad_()   # one image tells
    with torch.enable_grad():
        h = net(z)[0]
    if not h.requires_grad or torch.autograd.grad(h.sum(), z, allow_unused=True)[0] is None:
        raise ValueError(f"the output of layer {layer!r} does not depend on the images, so there is nothing to climb; "
                         "choose another layer")
    return net


def _module(model, name):
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"layer {name!r} was asked of a {type(model).__name__}, which has no layers; give the net "
                         "itself, or None for its output")
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    names = [known for known in modules if known]
    inside = [known for known in names if known.rpartition(".")[2] == str(name).rpartition(".")[2]]
    near = list(dict.fromkeys(inside + difflib.get_close_matches(str(name), names, n=5, cutoff=0.4)))[:6] or names[-6:]
    remedy = f"near ones: {', '.join(near)}" if near else "the model has no inner layers: use None, its output"
    raise ValueError(f"layer {name!r} does not exist; {remedy}")
