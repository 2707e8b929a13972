"""The machine and the libraries that a number is measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sbertlab.encoder.sentence_transformer import best_device

PACKAGES = ("sbertlab", "torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "numpy", "pandas")
"""Whose versions are named."""


def environment() -> dict[str, Any]:
    """Return where and with what this process computes: python, versions, system, processor, cores, threads, device."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device_name(),
    }


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name() -> str:
    """Return the kind of the best device, of a GPU also its name."""
    kind = best_device().type
    return f"cuda ({torch.cuda.get_device_name()})" if kind == "cuda" else kind
