"""What a figure was measured on."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

import pyarrow as pa
import ray
import torch

import rayunlearn


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
        "instruction_set": instruction_set(),
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }


def instruction_set() -> str:
    """By which torch computes on this CPU, and so how its sums are rounded: `AVX512`, or less if so set."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    found = torch.backends.cpu.get_cpu_capability()
    return f"{found}, oneDNN up to {limit}" if limit else found


def report_facts(seed: int, where: str) -> dict[str, str]:
    """Versions, cluster, driver, seed and storage, for the end of a report."""
    resources = ray.cluster_resources()
    return {
        "rayunlearn": rayunlearn.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Ray": ray.__version__,
        "pyarrow": pa.__version__,
        "cluster": ", ".join(f"{resources.get(k, 0):g} {k}" for k in ("CPU", "GPU")),
        "driver": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seed": str(seed),
        "storage": where,
    }


@functools.cache
def code_version() -> str:
    """The version, and the start of the SHA-256 of the package's sources: 0.1.0+1f0c2d3e4b5a."""
    root = Path(rayunlearn.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{rayunlearn.__version__}+{digest.hexdigest()[:12]}"
