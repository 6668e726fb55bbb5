"""Checkpoints as other programs write them: wrapped, prefixed, in half precision, in several files.

What is done to make one fit is said; what does not fit is refused with its names. Nothing is left out, and
nothing is made up but counters of batches, which no network in eval mode reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput, nearest
from rayunlearn.models.weights import (
    SAFETENSORS_OR_STATE_DICT,
    load_into,
    load_weights_file,
    read_weights_file,
    require_weights,
)

WRAPPERS = ("state_dict", "model", "model_state_dict", "ema", "state_dict_ema")
"""Names under which training programs store a state dict beside other things."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers of a model put before each of its names: DataParallel, torch.compile, Lightning, others."""
COUNTER = "num_batches_tracked"
INDEX = ".index.json"
"""How the name of a file ends that says in which file each tensor is."""
_MOST_INDEX_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A state dict, and what was done to it.

    Attributes:
        state: names to tensors on CPU.
        done: what was done, each in a few words.
    """

    state: Mapping[str, Tensor]
    done: tuple[str, ...] = ()

    def but(self, state: Mapping[str, Tensor], done: str) -> Checkpoint:
        """Another state, after one thing more was done."""
        return replace(self, state=state, done=(*self.done, done))


def load_checkpoint(
    path: str | Path, model: nn.Module, *, key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """The weights of a file as the model has them, and in one line what was done to make them fit.

    Args:
        path: a safetensors file; the index of several, or a folder with one; or a file of `torch.save`, which
            is read with `weights_only=True`.
        model: what the weights are for; it has them afterwards.
        key: where in the file its state dict is; with dots where it is deeper.

    Raises:
        BadInput: naming the file and what is wrong with it; the model is then unchanged.
    """
    where = str(path)
    found = fitted(read_checkpoint(path, key), model)
    load_into(model, found.state, where)
    said = f"{Path(path).name}: {'; '.join(found.done)}" if found.done else ""
    return {name: value.clone() for name, value in model.state_dict().items()}, said


def read_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """The state dict in a checkpoint, as its writer named and stored it.

    Raises:
        BadInput: as `load_checkpoint`, but for what the model decides.
    """
    path, where = Path(path), f"weights file {path}"
    index = _index_of(path)
    read: Any = read_weights_file(path) if index is None else None
    if index is not None:
        found = _sharded(index)
    elif _is_state(read):
        found = Checkpoint(state=read)
    elif isinstance(read, Mapping):
        found = _unwrapped(read, key, where)
    else:
        raise BadInput("content", type(read).__name__, SAFETENSORS_OR_STATE_DICT, where=where)
    if key is not None and not found.done[-1:] == (f"taken from {key!r}",):
        raise BadInput("--checkpoint-key", key, "none: the file is one state dict itself", where=where)
    state = {name: value.detach() for name, value in found.state.items()}
    require_weights(state, where)
    return replace(found, state=state)


def fitted(checkpoint: Checkpoint, model: nn.Module) -> Checkpoint:
    """A checkpoint by the names and types of a model, as far as that can be done without a guess.

    Prefixes are taken away where every name has them and where that fits better; what does not fit is left
    to `load_into`, which refuses it.
    """
    own = model.state_dict()
    found = _without_prefixes(checkpoint, own)
    lacking = [
        name
        for name in own.keys() - found.state.keys()
        if name.endswith(COUNTER) and name.removesuffix(COUNTER) + "running_var" in found.state
    ]
    if lacking:
        zeros = {name: torch.zeros_like(own[name], device="cpu") for name in sorted(lacking)}
        found = found.but({**found.state, **zeros}, f"{COUNTER} of {len(lacking)} layers set to 0")
    types = Counter(
        str(value.dtype).removeprefix("torch.")
        for name, value in found.state.items()
        if name in own and own[name].dtype == torch.float32 != value.dtype and value.is_floating_point()
    )
    for name, count in sorted(types.items()):
        change = "narrowed" if name == "float64" else "widened"
        found = found.but(found.state, f"{count} tensors {change} from {name} to float32")
    return found


def _without_prefixes(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> Checkpoint:
    """The form whose names are nearest to the model's; of two alike the one with shorter names."""

    def misfits(state: Mapping[str, Tensor]) -> int:
        return len({name for name in own.keys() ^ state.keys() if name.split(".")[-1] != COUNTER})

    best, fewest, form, taken = checkpoint, misfits(checkpoint.state), checkpoint.state, ""
    while fewest:
        prefix = next((p for p in PREFIXES if form and all(name.startswith(p) for name in form)), None)
        if prefix is None:
            break
        form, taken = {name.removeprefix(prefix): value for name, value in form.items()}, taken + prefix
        if misfits(form) <= fewest:
            best, fewest = checkpoint.but(form, f"{taken!r} taken off every name"), misfits(form)
    return best


def _is_state(value: object) -> bool:
    """Whether this is a state dict: names to tensors, at least one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(n, str) and isinstance(v, Tensor) for n, v in value.items())
    )


def _states(read: Mapping[Any, Any], within: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """The state dicts inside, by their dotted names."""
    for name, value in read.items():
        if _is_state(value):
            yield f"{within}{name}", value
        elif isinstance(value, Mapping) and depth > 1:
            yield from _states(value, f"{within}{name}.", depth - 1)


def _unwrapped(read: Mapping[Any, Any], key: str | None, where: str) -> Checkpoint:
    """The state dict that a key names, or the one that a training program stores by a known name."""
    inside = dict(_states(read))
    told = ", ".join(f"{name!r} ({len(state)} tensors)" for name, state in list(inside.items())[:10])
    if key is not None:
        if key not in inside:
            raise BadInput("--checkpoint-key", key, told or "none: no state dict is inside", where=where)
        return Checkpoint(state=inside[key], done=(f"taken from {key!r}",))
    known = [name for name in inside if name.split(".")[-1] in WRAPPERS]
    if len(known) == 1:
        return Checkpoint(state=inside[known[0]], done=(f"taken from {known[0]!r}",))
    if inside:
        allowed = f"a key of the state dict that is meant: {told}"
        raise BadInput("--checkpoint-key", None, allowed, where=where)
    name, value = next(
        ((n, v) for n, v in read.items() if not (isinstance(n, str) and isinstance(v, Tensor))), (None, None)
    )
    raise BadInput(f"entry {name!r}", type(value).__name__, SAFETENSORS_OR_STATE_DICT, where=where)


def _index_of(path: Path) -> Path | None:
    """The index that a path names: the file itself, or the one in a folder; None for any other file."""
    if not path.is_dir():
        return path if path.name.endswith(INDEX) else None
    found = sorted(path.glob(f"*{INDEX}"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:5]) or "none"
        raise BadInput("--checkpoint", str(path), f"a file, or a folder with one *{INDEX}; it has {names}")
    return found[0]


def _sharded(index: Path) -> Checkpoint:
    """The tensors that an index lists, each from the file that it says, beside the index."""
    where = f"weights file {index}"
    files = _files_of(index, where)
    shards = {name: load_weights_file(index.parent / name) for name in sorted(set(files.values()))}
    for tensor, name in files.items():
        if tensor not in shards[name]:
            raise BadInput(f"tensor {tensor!r}", name, "a file that has it", where=where)
    for name, state in shards.items():
        for tensor in state:
            if files.get(tensor) != name:
                known = nearest(tensor, files)
                raise BadInput(f"tensor of {name}", tensor, f"one that the index lists: {known}", where=where)
    state = {tensor: shards[name][tensor] for tensor, name in files.items()}
    return Checkpoint(state=state, done=(f"joined from {len(shards)} files",))


def _files_of(index: Path, where: str) -> dict[str, str]:
    """Tensor -> file, as the index has it."""
    try:
        with index.open("rb") as file:
            data = file.read(_MOST_INDEX_BYTES + 1)
        if len(data) > _MOST_INDEX_BYTES:
            raise BadInput("index", f"over {_MOST_INDEX_BYTES} bytes", "fewer", where=where)
        read = json.loads(data)
    except OSError as error:
        raise BadInput("path", str(index), f"a readable file ({error.strerror})", where=where) from error
    except (ValueError, RecursionError) as error:
        raise BadInput("content", type(error).__name__, "JSON with a weight_map", where=where) from error
    files = read.get("weight_map") if isinstance(read, dict) else None
    plain = isinstance(files, dict) and bool(files)
    for name in files.values() if isinstance(files, dict) else ():
        # beside the index, and nowhere else on the disk
        plain = plain and isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
    if not isinstance(files, dict) or not plain:
        allowed = "the name of each tensor with a *.safetensors file beside the index"
        raise BadInput("weight_map", files, allowed, where=where)
    return files
