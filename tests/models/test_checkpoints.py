import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from robustgen.models.checkpoints import save_weights


def test_a_checkpoint_for_which_there_is_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="net.safetensors could not be written .*No space left.*; make room there, then"):
        save_weights({"a": torch.zeros(2)}, tmp_path / "net.safetensors", {})
    assert not [*tmp_path.iterdir()]
