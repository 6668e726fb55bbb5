"""What a figure was measured on."""

from __future__ import annotations

import os
import platform

import ray
import torch


def machine_facts() -> dict[str, str]:
    """Hardware and versions, for the record beside every figure."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
            model = next(named, model)
    except OSError:
        model = model or "unknown"
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }
