"""A process without a path to real data, and what it is told to compute.

This module and all that it imports is what a sealed process loads: nothing of it opens files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from torch import Tensor

from rayunlearn.access import import_code, seal
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.judged import Evidence, judged
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.stand_ins import StandInSettings, stand_in
from rayunlearn.evaluation.synthetic import Assessment, mean_probe_recall
from rayunlearn.inversion.deep_inversion import InversionSettings, SyntheticSet, coarse, deep_inversion
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.roles import Roles
from rayunlearn.runtime import torch_process
from rayunlearn.runtime.wire import pack, unpack


def invert(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    labels: Tensor,
    settings: InversionSettings,
    seed: int,
    to_coarse: bool = False,
    *,
    device: str = "cpu",
) -> SyntheticSet:
    """`deep_inversion` of a version given by its weights; runs in a sealed process.

    With `to_coarse` its images are coarse ones.
    """
    model = version_model(spec, weights).to(device)
    return deep_inversion(model, labels, coarse(settings, model) if to_coarse else settings, seed=seed)


def measure(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    check_set: Evidence,
    roles: Roles,
    *,
    device: str = "cpu",
) -> Assessment:
    """How a model given by its weights is judged; runs in a sealed process."""
    return judged(version_model(spec, weights).to(device), check_set, roles)


def measure_kept(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    version: dict[str, Tensor],
    images: SyntheticSet,
    roles: Roles,
    seed: int,
    *,
    device: str = "cpu",
) -> dict[str, float]:
    """What a model has kept of a version, both given by their weights; runs in a sealed process."""
    model, before = (version_model(spec, of).to(device) for of in (weights, version))
    return Keeping(before, images, roles, seed).measure(model)


Probe = Callable[[Classifier, Sequence[SyntheticSet], Roles, int], Any]
"""What images tell of a model's features: `mean_probe_recall`, or `layer_recalls`."""


def probe(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    sets: Sequence[SyntheticSet],
    roles: Roles,
    seed: int,
    known: Probe = mean_probe_recall,
    *,
    device: str = "cpu",
) -> Any:
    """What is `known` of a model given by its weights; runs in a sealed process."""
    return known(version_model(spec, weights).to(device), sets, roles, seed)


def probe_stand_in(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    images: SyntheticSet,
    sets: Sequence[SyntheticSet],
    roles: Roles,
    settings: StandInSettings,
    seed: int,
    known: Probe = mean_probe_recall,
    *,
    device: str = "cpu",
) -> Any:
    """What is `known` of a stand-in for a version given by its weights; runs in a sealed process."""
    made = stand_in(version_model(spec, weights).to(device), images, roles, settings, seed)
    return known(made, sets, roles, seed)


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
