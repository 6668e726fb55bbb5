"""Where a process computes."""

from __future__ import annotations

import ray
import torch


def own_device() -> str:
    """ "cuda" for a process that Ray assigned a GPU, or that has one and is none of Ray's; else "cpu"."""
    if not torch.cuda.is_available():
        return "cpu"
    if not ray.is_initialized():
        return "cuda"
    return "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"
