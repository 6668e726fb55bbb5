"""Messages between processes: tensors travel as numpy arrays, which Ray moves without a copy.

Both ways keep the bits. What arrives is cloned, because Ray's arrays are read-only views of its store.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch


def pack(message: Any) -> Any:
    """A message with every tensor in it as a numpy array on the CPU."""
    if isinstance(message, torch.Tensor):
        return message.detach().cpu().numpy()
    return _rebuilt(message, pack)


def unpack(message: Any) -> Any:
    """A packed message with every array in it as a tensor of its own memory."""
    if isinstance(message, np.ndarray):
        return torch.from_numpy(message.copy())
    return _rebuilt(message, unpack)


def _rebuilt(message: Any, convert: Any) -> Any:
    if dataclasses.is_dataclass(message) and not isinstance(message, type):
        changed = {}
        for field in dataclasses.fields(message):
            before = getattr(message, field.name)
            after = convert(before)
            if after is not before:
                changed[field.name] = after
        return dataclasses.replace(message, **changed) if changed else message
    if isinstance(message, dict):
        return {key: convert(value) for key, value in message.items()}
    if type(message) in (list, tuple):
        return type(message)(convert(item) for item in message)
    return message
