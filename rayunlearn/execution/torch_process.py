"""What a process of Ray's sets up in torch before it computes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

COMPILER = "torch._dynamo"


def set_up(threads: int) -> None:
    """So many threads, and optimizers that do not import torch's compiler.

    The first optimizer of a process imports it, for no more than to tell it to keep away: a second of
    computing in each of the processes that a run starts, none of which compiles anything.
    """
    torch.set_num_threads(threads)
    if COMPILER not in sys.modules:
        _without_compiler()


@functools.cache
def _without_compiler() -> None:
    """Take off what torch puts around the methods of its optimizers for its compiler; once is enough."""
    for kind in (Adam, SGD):  # AdamW is an Adam
        if (step := getattr(kind.step, "__wrapped__", None)) is not None:
            setattr(kind, "step", _eager(step))  # noqa: B010
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(Optimizer, name)
        setattr(Optimizer, name, getattr(method, "__wrapped__", method))


def _eager(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step without a gradient of its own, unless its optimizer is differentiable."""

    @functools.wraps(step)
    def stepped(optimizer: Optimizer, *arguments: Any, **more: Any) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, *arguments, **more)

    return stepped
