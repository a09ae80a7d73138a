"""The Inception-v3 of FID and of the Inception Score: TensorFlow's of 2015-12-05, converted by pytorch-fid and
torch-fidelity."""

import io

import torch

from ..utils.validation import check_images
from . import hub

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
# 8 digits are in the name, all in public projects' sources
CHECKSUM = ("sha256", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")


def load_inception(device="cpu"):
    """Inception-v3 on `device`: a function f(images, batch=50) -> (features (B, 2048), logits (B, 1008)).

    images     (B, 3, H, W) in [0, 1] on `device`, rounded to 8 bits and resized to 299 pixels a side as TensorFlow 1
               did.
    features   what FID compares.
    logits     without the bias, as Salimans et al. 2016 computed their score.

    The weights, 96 MB, are looked for in the folder named by ROBUSTGEN_DATA, then in the user's cache, to which they
    are downloaded where both lack them. Raises FileNotFoundError where they are not to be had, OSError for a wrong
    checksum, ModuleNotFoundError without torch-fidelity; f, ValueError for other images.
    """
    try:
        from ..utils.torchvision_import import torchvision  # noqa: F401, I001 (torch-fidelity imports it)
        from torch_fidelity import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"Inception-v3 needs {error.name}, which is not installed; install it with: pip "
                                  "install torch-fidelity") from None

    class Net(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, assign=False):
            return super().load_state_dict(state, strict=assign, assign=assign)

    def build():   # the constructor would run the pickle in the weights' file: it gets an empty one
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        return Net("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)

    net = hub.filled("Inception-v3", hub.Model(build, URL, CHECKSUM), dict).to(device)

    def features(x, batch=50):
        x = check_images(x)
        if x.shape[1] != 3:
            raise ValueError(f"Inception-v3 takes images of 3 channels, got {x.shape[1]}; repeat a single one: "
                             "x.expand(-1, 3, -1, -1)")
        parts = (x * 255).round().byte().split(batch)
        return tuple(map(torch.cat, zip(*map(net, parts))))
    return features
