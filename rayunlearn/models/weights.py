"""Weights as bytes, files and version ids. Nothing here unpickles code."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.tensor_digest import tensor_digest

Weights = dict[str, Tensor]
"""A state dict: names of parameters and buffers -> tensors."""

SAFETENSORS_OR_STATE_DICT = (
    "safetensors bytes, or a file saved by torch.save(model.state_dict(), path): "
    "a flat mapping of names to tensors that torch.load(weights_only=True) accepts"
)
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights may be stored as; of narrower types, as of codes, the numbers alone do not say the weights."""
COUNTER_DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
"""Of a model's counters, such as BatchNorm's `num_batches_tracked`, which are tensors of no dimension."""
_NAMED = 5
"""Names of a kind that a refusal lists."""
_NAMED_DTYPES = "torch.float16, bfloat16, float32 or float64"


def version_id(state: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hex digits, over the canonical tensors of a state dict.

    Every tensor gives its name, dtype, shape and little-endian contiguous bytes, in the order of the
    names' UTF-8 bytes. So the id changes with a name, a dtype, a shape or one bit, and does not with
    the order of insertion, strides, device, or metadata.

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> version_id({"a": a, "b": b}) == version_id({"b": b, "a": a})
    True
    """
    return tensor_digest(
        (name, str(tensor.dtype).removeprefix("torch."), tensor.shape, _little_endian_bytes(tensor))
        for name, tensor in sorted(state.items(), key=lambda item: item[0].encode())
    )


def weights_to_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Safetensors bytes of a state dict; tensors may share memory or be strided, and are copied.

    Args:
        state: names to tensors.
        metadata: strings kept in the header; they do not change `version_id`.
    """
    copies = {name: _plain(tensor).clone() for name, tensor in state.items()}
    return safetensors.torch.save(copies, dict(metadata) if metadata else None)


def weights_from_bytes(data: bytes, where: str = "weights") -> dict[str, Tensor]:
    """The tensors of safetensors bytes, on CPU; metadata are passed over.

    Raises:
        BadInput: the bytes are not safetensors, or hold a type that torch has not.
    """
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BadInput("content", _start(data), f"safetensors bytes ({error})", where=where) from error
    except KeyError as error:  # of a name in the table of types
        allowed = f"safetensors bytes with types of torch ({error} is none)"
        raise BadInput("content", _start(data), allowed, where=where) from error


def require_weights(state: Mapping[str, Tensor], where: str = "weights") -> None:
    """Refuse what are no weights that a model can calculate with in 32 bits.

    Raises:
        BadInput: naming the first tensor that is not dense; that is of another type than `WEIGHT_DTYPES`,
            or for a single number `COUNTER_DTYPES`; that has NaN, infinity, or a number beyond float32; or
            that is a running variance or a counter below 0.
    """
    for name, value in state.items():
        thing = f"tensor {name!r}"
        if value.is_meta or value.is_complex() or value.layout != torch.strided or value.is_quantized:
            said = f"{value.dtype}, {value.layout}, {value.device}"
            raise BadInput(thing, said, "a dense tensor of real numbers", where=where)
        is_counter = value.dim() == 0 and value.dtype in COUNTER_DTYPES
        if not is_counter and value.dtype not in WEIGHT_DTYPES:
            allowed = f"weights as {_NAMED_DTYPES}, or a counter, which is one integer"
            raise BadInput(thing, f"{value.dtype} {list(value.shape)}", allowed, where=where)
        if not bool(torch.isfinite(value.float()).all()):
            raise BadInput(thing, "not finite", "finite numbers of 32 bits", where=where)
        if (is_counter or name.endswith("running_var")) and bool((value < 0).any()):
            raise BadInput(thing, float(value.min()), "at least 0: a variance or a counter", where=where)


def load_weights_file(path: str | Path) -> dict[str, Tensor]:
    """The flat state dict in a safetensors file or in a `torch.save` file, on CPU.

    The content decides which it is, not the name. A torch file is read with `weights_only=True`: what
    that refuses (code in the pickle, for one) is refused here and never unpickled.

    Raises:
        BadInput: naming the file and why it is refused; as `require_weights`, too.
    """
    where, loaded = f"weights file {path}", read_weights_file(path)
    if not isinstance(loaded, dict):
        raise BadInput("content", type(loaded).__name__, SAFETENSORS_OR_STATE_DICT, where=where)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadInput(f"entry {name!r}", type(value).__name__, SAFETENSORS_OR_STATE_DICT, where=where)
    state = {name: value.detach() for name, value in loaded.items()}
    require_weights(state, where)
    return state


def read_weights_file(path: str | Path) -> Any:
    """All that a safetensors file or a `torch.save` file holds, on CPU: tensors by name, or what else it is.

    Raises:
        BadInput: naming the file and why it is refused.
    """
    where = f"weights file {path}"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput("path", str(path), f"a readable file ({error.strerror})", where=where) from error
    except MemoryError as error:
        raise BadInput("path", str(path), "a file that fits into memory", where=where) from error
    # safetensors: 8 bytes of header length, then "{"; torch.save: a zip or a pickle
    if data[8:9] == b"{" or not data.startswith((b"PK", b"\x80")):
        return weights_from_bytes(data, where)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file may fail torch's reader in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        allowed = f"{SAFETENSORS_OR_STATE_DICT} ({reason})"
        raise BadInput("content", _start(data), allowed, where=where) from error


def load_into(model: nn.Module, state: Mapping[str, Tensor], where: str = "weights") -> None:
    """Copy a state dict into a model that must have exactly its names and shapes.

    Values are cast to the model's dtypes, weights from `WEIGHT_DTYPES` and counters from `COUNTER_DTYPES`;
    `version_id` of the model is the id of what it then holds.

    Raises:
        BadInput: counting missing, unexpected, mis-shaped and mis-typed names, and those with a number that
            the model's type cannot hold, with the first five of each; the model is then unchanged.
    """
    own = model.state_dict()
    problems = []
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshaped = [
        f"{name}: {list(state[name].shape)} where the model has {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    mistyped = [
        f"{name}: {state[name].dtype} where the model has {own[name].dtype}"
        for name in sorted(own.keys() & state.keys())
        if state[name].dtype not in (WEIGHT_DTYPES if own[name].is_floating_point() else COUNTER_DTYPES)
    ]
    too_large = [
        name
        for name in sorted(own.keys() & state.keys())
        if not mistyped and _overflows(state[name], own[name].dtype)
    ]
    for title, names in (
        ("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped),
        ("mis-typed", mistyped), ("too large", too_large),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            problems.append(f"{len(names)} {title}: {', '.join(names[:_NAMED])}{more}")
    if problems:
        allowed = f"exactly the names and shapes of {type(model).__name__}, weights as {_NAMED_DTYPES}"
        raise BadInput("state dict", "; ".join(problems), allowed, where=where)
    model.load_state_dict(dict(state))


def _overflows(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a number becomes infinite in the model's type."""
    if not dtype.is_floating_point or torch.finfo(value.dtype).max <= torch.finfo(dtype).max:
        return False
    return bool((value.isfinite() & ~value.to(dtype).isfinite()).any())


def _plain(tensor: Tensor) -> Tensor:
    """The tensor detached, dense, contiguous, on CPU."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise BadInput("tensor", type(tensor).__name__, "a dense, unquantised tensor", where="weights")
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _little_endian_bytes(tensor: Tensor) -> bytes:
    flat = _plain(tensor).reshape(-1)
    data = flat.view(torch.uint8).numpy()
    if sys.byteorder == "big":
        size = flat.element_size() // (2 if flat.is_complex() else 1)
        data = data.reshape(-1, size)[:, ::-1]
    return data.tobytes()


def _start(data: bytes) -> str:
    return f"{len(data)} bytes starting {data[:8]!r}"
