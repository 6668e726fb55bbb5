"""A process without a path to real data, which computes what it is told to (`rayunlearn.unlearning.work`).

This module and all that it imports is what a sealed process loads: nothing of it opens files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from rayunlearn.access import import_code, seal
from rayunlearn.errors import BadInput
from rayunlearn.execution import torch_process
from rayunlearn.execution.wire import pack, unpack
from rayunlearn.unlearning import work  # noqa: F401  # loaded before the seal


class SealedProcess:
    """A process without a path to real data, and the objects it holds.

    It has no algorithm of its own: it creates, calls and returns what it is told to, packing messages
    on their way. The seal is set before anything else runs, but for the imports of code that models are
    built by.
    """

    def __init__(self, threads: int, imports: Sequence[str] = ()) -> None:
        self.refused: BadInput | None = None
        try:
            import_code(imports)
        except BadInput as error:
            # told by the first call: an error here would pass for a process that was lost, and be tried again
            self.refused = error
        seal()
        torch_process.set_up(threads)
        self.objects: dict[str, Any] = {}
        self.device = "cuda" if self.gpu_ids() and torch.cuda.is_available() else "cpu"

    def create(self, name: str, build: Callable[..., Any], *arguments: Any) -> None:
        """Hold `build(*arguments, device)` under `name`."""
        self._require_code()
        self.objects[name] = build(*unpack(arguments), self.device)

    def call(self, name: str, method: str, *arguments: Any) -> Any:
        """The answer of a held object's method."""
        return pack(getattr(self.objects[name], method)(*unpack(arguments)))

    def apply(self, function: Callable[..., Any], *names: str) -> Any:
        """A function's answer about held objects."""
        return pack(function(*(self.objects[name] for name in names)))

    def run(self, function: Callable[..., Any], *arguments: Any, on_device: bool = False) -> Any:
        """A function's answer about its arguments alone, and its device where it takes one."""
        self._require_code()
        device = {"device": self.device} if on_device else {}
        return pack(function(*unpack(arguments), **device))

    def _require_code(self) -> None:
        if self.refused is not None:
            raise self.refused

    def gpu_ids(self) -> list[str]:
        """The GPUs that Ray assigned to this process."""
        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))


SealedActor: Any = ray.remote(SealedProcess)


class Handle:
    """Calls a held object's methods by reference: `handle.judge(ref)` gives a reference at once."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor = actor
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """The method that the object in the other process has."""
        return lambda *arguments: self._actor.call.remote(self._name, method, *arguments)
