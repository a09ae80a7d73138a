"""The score models of Karras et al. 2022 (EDM), by name: `load("edm-cifar10-32x32-uncond-vp")`.

They denoise like every net here: images in [0, 1] plus noise, sigma in 0-255 units. Files are looked for as hub's are,
and nothing in them is run. The weights are CC BY-NC-SA 4.0.
"""

import re
from functools import partial

import torch
from torch import nn
from torch.nn.functional import one_hot, silu

from ..utils.arguments import known
from . import hub

SIGMA_DATA = 0.5   # the data's standard deviation that the nets were trained with, in units of [-1, 1]


def _norm(channels, adm):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5 if adm else 1e-6)


class _Block(nn.Module):
    """Norm, SiLU, convolution, embedding, norm, SiLU, convolution, + shortcut; then self-attention.

    DDPM++ adds the embedding before the second norm, has one head, and halves the variance of sums; in ADM the
    embedding scales and shifts after the norm, and a head has 64 channels.
    """

    def __init__(self, inputs, outputs, embedding, adm, attention=False, resample=None):
        super().__init__()
        self.adm, self.gain = adm, 1 if adm else 0.5**0.5
        self.resample = {None: nn.Identity, "down": partial(nn.AvgPool2d, 2),
                         "up": partial(nn.Upsample, scale_factor=2)}[resample]()
        self.norm0, self.norm1 = _norm(inputs, adm), _norm(outputs, adm)
        self.conv0, self.conv1 = (nn.Conv2d(channels, outputs, 3, padding=1) for channels in (inputs, outputs))
        self.affine = nn.Linear(embedding, 2 * outputs if adm else outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or resample and not adm else nn.Identity()
        self.heads = (outputs // 64 if adm else 1) if attention else 0
        if self.heads:
            self.norm2 = _norm(outputs, adm)
            self.qkv, self.proj = nn.Conv2d(outputs, 3 * outputs, 1), nn.Conv2d(outputs, outputs, 1)

    def forward(self, x, e):
        z, e = self.conv0(self.resample(silu(self.norm0(x)))), self.affine(e)[:, :, None, None]
        if self.adm:
            scale, shift = e.chunk(2, 1)
            z = self.norm1(z) * (1 + scale) + shift
        else:
            z = self.norm1(z + e)
        x = self.gain * (self.skip(self.resample(x)) + self.conv1(silu(z)))
        return self.gain * (x + self.proj(_attention(self.qkv(self.norm2(x)), self.heads))) if self.heads else x


def _attention(qkv, heads):
    """Self-attention of pixels, (B, 3 C, H, W) -> (B, C, H, W); channels are ordered head, channel, then query, key or
    value.

    Written out, as torch's own cannot be differentiated twice.
    """
    q, k, v = qkv.reshape(len(qkv), heads, -1, 3, qkv[0, 0].numel()).unbind(3)   # (B, heads, C / heads, H W)
    weights = (q.mT @ k / q.shape[2] ** 0.5).softmax(3)
    return (v @ weights.mT).reshape(len(qkv), -1, *qkv.shape[2:])


class UNet(nn.Module):
    """The network F: DDPM++ (Song et al. 2021) or ADM (Dhariwal & Nichol 2021), with the names of EDM's files.

    side         pixels of an image's side.
    width        channels of the first convolution; multipliers   of it, one for each level: channels there. Each level
                 halves the side.
    blocks       in a level of the encoder; the decoder's have one more.
    attention    sides at which there is self-attention.
    classes      0: unconditional. adm   else DDPM++.
    """

    def __init__(self, *, side, width, multipliers, blocks, attention, classes, adm, augmentations):
        super().__init__()
        self.width, self.adm, embedding = width, adm, 4 * width
        self.map_layer0, self.map_layer1 = nn.Linear(width, embedding), nn.Linear(embedding, embedding)
        if classes:
            self.map_label = nn.Linear(classes, embedding if adm else width, bias=not adm)
        # parameters of the augmentation, in training; all 0 for an image as it is, so never used here
        if augmentations:
            self.map_augment = nn.Linear(augmentations, width, bias=False)

        block = partial(_Block, embedding=embedding, adm=adm)
        self.enc = nn.ModuleDict({f"{side}x{side}_conv": nn.Conv2d(3, width, 3, padding=1)})
        self.dec = nn.ModuleDict()
        levels = [(f"{side >> i}x{side >> i}", side >> i in attention, width * multiplier)
                  for i, multiplier in enumerate(multipliers)]
        skips, channels = [width], width
        for name, attends, outputs in levels:
            if len(self.enc) > 1:
                self.enc[f"{name}_down"] = block(channels, channels, resample="down")
                skips.append(channels)
            for i in range(blocks):
                self.enc[f"{name}_block{i}"] = block(channels, outputs, attention=attends)
                channels = outputs
                skips.append(channels)
        for name, attends, outputs in reversed(levels):
            if self.dec:
                self.dec[f"{name}_up"] = block(channels, channels, resample="up")
            else:
                self.dec[f"{name}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{name}_in1"] = block(channels, channels)
            for i in range(blocks + 1):
                self.dec[f"{name}_block{i}"] = block(channels + skips.pop(), outputs,
                                                     attention=attends and (adm or i == blocks))
                channels = outputs
        self.out_norm, self.out_conv = _norm(channels, adm), nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x, noise, label=None):
        """x (B, 3, H, W), noise c_noise (B,), label (B, classes) one-hot or zeros -> (B, 3, H, W)."""
        e = _waves(noise, self.width, self.adm)
        if label is not None and not self.adm:
            e = e + self.map_label(label * label.shape[1] ** 0.5)
        e = self.map_layer1(silu(self.map_layer0(e)))
        if label is not None and self.adm:
            e = e + self.map_label(label)
        e, skips = silu(e), []
        for block in self.enc.values():
            x = block(x, e) if isinstance(block, _Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], 1) if "block" in name else x, e)
        return self.out_conv(silu(self.out_norm(x)))


def _waves(noise, channels, adm):
    """Cosines and sines of c_noise, (B, channels), at frequencies that fall from 1 to 1 / 10000 (ADM's stop one step
    before)."""
    half = channels // 2
    steps = torch.arange(half, device=noise.device, dtype=noise.dtype) / (half if adm else half - 1)
    angles = noise[:, None] * 10000**-steps
    return torch.cat([angles.cos(), angles.sin()] if adm else [angles.sin(), angles.cos()], 1)


class EDM(nn.Module):
    """A denoiser D(x; s) = c_skip x + c_out F(c_in x; c_noise) (EDM paper, eq. 7 and Table 1, last column).

    side       pixels of the images' sides.
    classes    how many; 0: unconditional.
    settings   of the UNet.
    """

    def __init__(self, *, side, classes, **settings):
        super().__init__()
        self.side, self.classes = side, classes
        self.model = UNet(side=side, classes=classes, **settings)

    def denoise(self, y, sigma, c=None):
        """The denoised images, in units of [0, 1]: (B, 3, side, side).

        y       (B, 3, side, side), images in [0, 1] plus noise.
        sigma   (B,), in 0-255 units.
        c       classes (B,). A conditional net without them is told none, as in its authors' code; it was not trained
                so.
        """
        if y.shape[1:] != (3, self.side, self.side):
            raise ValueError(f"this net takes images of shape {(3, self.side, self.side)}; these are "
                             f"{tuple(y.shape[1:])}")
        if c is not None and not self.classes:
            raise ValueError("this net is unconditional; leave out the classes, or load a net with 'cond' in its name")
        label = None
        if self.classes:
            label = y.new_zeros(len(y), self.classes) if c is None else one_hot(c, self.classes).to(y.dtype)
        x, s = 2 * y - 1, 2 * sigma / 255   # EDM's images are in [-1, 1]
        variance = (s**2 + SIGMA_DATA**2).view(-1, 1, 1, 1)
        c_skip, c_out, c_in = SIGMA_DATA**2 / variance, s.view(-1, 1, 1, 1) * SIGMA_DATA / variance**0.5, variance**-0.5
        return (1 + c_skip * x + c_out * self.model(c_in * x, s.log() / 4, label)) / 2

    forward = denoise


DDPMPP = {"side": 32, "width": 128, "multipliers": (2, 2, 2), "blocks": 4, "attention": (16,), "adm": False,
          "augmentations": 9}
ADM = {"side": 64, "width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (32, 16, 8), "adm": True,
       "augmentations": 0}
URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
MODELS = {
    "edm-cifar10-32x32-uncond-vp": hub.Model(   # digits from two public projects that fetched it
        partial(EDM, classes=0, **DDPMPP), f"{URL}/edm-cifar10-32x32-uncond-vp.pkl",
        ("sha256", "4d5dcc1f1d0d41c8934ad21626eeddbdc0460182becf9fc059a0631b1eedb4da")),
    "edm-cifar10-32x32-cond-vp": hub.Model(partial(EDM, classes=10, **DDPMPP), f"{URL}/edm-cifar10-32x32-cond-vp.pkl",
                                           None),
    "edm-imagenet-64x64-cond-adm": hub.Model(partial(EDM, classes=1000, **ADM),
                                             f"{URL}/edm-imagenet-64x64-cond-adm.pkl", None),
}


def load_edm(name, device="cpu"):
    """A net of MODELS in eval mode, without gradients of its weights: an EDM, in single precision. Errors are those of
    `hub.load_hub`."""
    return hub.filled(name, MODELS[known("EDM model", name, MODELS)], _weights).to(device)


def _weights(checkpoint):
    """The averaged weights in a file, by the names of EDM's parameters."""
    state = _tensors(checkpoint["ema"])
    filters = [state.pop(key) for key in list(state) if key.endswith("resample_filter")]
    if any(filter.shape != (1, 1, 2, 2) or (filter != 1 / 4).any() for filter in filters):
        raise ValueError("it resamples with another filter than [1, 1]")
    # DDPM++'s name of the last two layers
    return {re.sub(r"dec\.\d+x\d+_aux_", "out_", key): tensor for key, tensor in state.items()}


def _tensors(module, prefix=""):
    """The parameters and buffers in the state of a pickled module and of those in it, by name."""
    found = {prefix + key: tensor for kind in ("_parameters", "_buffers") for key, tensor in module[kind].items()
             if tensor is not None}
    for name, inner in module["_modules"].items():
        found |= _tensors(inner, f"{prefix}{name}.")
    return found
