"""Objectives and the trainer: with core, data and models all that shapes a checkpoint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    "averaging", "base", "budget", "classification", "contrast", "denoising", "export", "family", "hardware", "jem",
    "progressive", "registry", "replay", "runs", "schedules", "starts", "trainer"])
