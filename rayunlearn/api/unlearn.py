"""unlearn(): a model forgets classes, in this process or on a cluster, and nothing is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from rayunlearn.api.arguments import Version, class_numbers, device_of, recipe_of, version_of, whole_number
from rayunlearn.api.progress import shown
from rayunlearn.errors import BadInput, nearest
from rayunlearn.models.given import Make
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.gate import Verdict
from rayunlearn.scheduling.requests import Request, check, run_id
from rayunlearn.task import Input
from rayunlearn.unlearning.attempt import attempt
from rayunlearn.unlearning.executor import Executor, InlineExecutor
from rayunlearn.unlearning.memory import InMemory
from rayunlearn.unlearning.phases import Case
from rayunlearn.unlearning.progress import Progress
from rayunlearn.unlearning.requested import roles_of, run_seed

if TYPE_CHECKING:
    import pyarrow as pa

EXECUTORS = ("inline", "ray")

_FORGOTTEN: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What became of a request to forget.

    Attributes:
        model: a copy of the given module with the weights after it, in eval mode. None where the result was
            refused; the setting `publish_refused` gives it all the same.
        passed: whether nothing refused it: neither the stopping rule nor the gate.
        verdict: of the gate; None where it was not asked.
        reasons: every reason why it was refused; none where it passed.
        checkpoints: figures of each, on synthetic images, with the columns of the ledger's checkpoints.
        seconds: of each phase that came to its end, by its name.
        request: that was served.
        seed: of the run's draws.
        recipe: all settings.
    """

    model: nn.Module | None
    passed: bool
    verdict: Verdict | None
    reasons: tuple[str, ...]
    checkpoints: pa.Table
    seconds: Mapping[str, float]
    request: Request
    seed: int
    recipe: Recipe


def unlearn(
    model: nn.Module,
    *,
    forget: Iterable[int],
    input: Input | None = None,
    forgotten: Iterable[int] = (),
    seed: int = 0,
    recipe: str | Recipe | None = None,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    executor: str = "inline",
    progress: bool | Progress | None = None,
    make: Make | None = None,
    request_id: str | None = None,
) -> Result:
    """Make a model forget classes, without any data.

    The model that is given is not changed, nor are the states of torch's random number generators. The same
    request served by the job, with the same seed and recipe, has the same weights, bit for bit, where torch
    has as many threads.

    Args:
        model: images `[B, C, H, W]` -> logits `[B, K]`, or a mapping or an object that has them as `logits`.
        forget: numbers of the classes to forget.
        input: shape of an image and how it is normalised; may be left out for a model of this package.
        forgotten: numbers of the classes that the model has forgotten before.
        seed: of every draw.
        recipe: a recipe or its name. None is `digits` for images of fewer than 28 pixels in height or width,
            and `cifar10` for others.
        method: by its name; None is the recipe's. It may declare nothing but the weights.
        settings: that differ from the recipe's, by their dotted paths: `{"validation.checkpoint_every": 5}`.
        device: where the work is done; None is where the model is. On a cluster, "cuda" asks for GPUs.
        executor: "inline" for this process; "ray" for a cluster, a local one where none is connected.
        progress: whether a bar is shown; None shows it in a terminal or a notebook.
        make: builds the network with the weights it is born with, for methods that train one anew; None draws
            those of a copy anew by its modules' `reset_parameters`.
        request_id: by which the run's draws are known; None is `forget-` and the classes, or a digest of them
            where they are many.

    Raises:
        BadInput: naming the argument, its value and what is allowed.
    """
    target, before = class_numbers("forget", forget), class_numbers("forgotten", forgotten)
    if not target:
        raise BadInput("forget", list(target), "at least one class number, as [3]")
    if executor not in EXECUTORS:
        raise BadInput("executor", executor, nearest(str(executor), EXECUTORS))
    whole_number("seed", seed)
    request = Request(
        request_id=_name(target) if request_id is None else request_id, target=target,
        received_at=datetime.now(UTC),
    )  # fmt: skip
    with torch.inference_mode(False), torch.enable_grad(), version_of(model, input, make) as version:
        chosen = recipe_of(recipe, method, settings, version.spec.input)
        _require_classes(request, before, version.spec.num_classes)
        own = device_of(device, version.device, here=executor == "inline")
        case = Case(
            spec=version.spec,
            weights=version.weights,
            roles=roles_of(request, version.spec.num_classes, before, ()),
            recipe=chosen,
            seed=run_seed(seed, request.lineage, [request.request_id], 1),
        )
        title = f"forget {', '.join(map(str, target))}"
        with shown(progress) as told:
            kept = InMemory(case, title, told)
            with _opened(executor, version, own) as place:
                made = attempt(case, place, kept)
        after = version.with_weights(made.candidate) if made.published and made.candidate else None
        if after is not None:
            _FORGOTTEN[after] = case.roles.forget
        return Result(
            model=after,
            passed=not made.refusals,
            verdict=made.verdict,
            reasons=made.refusals,
            checkpoints=_checkpoints(kept, request),
            seconds=dict(kept.seconds),
            request=request,
            seed=case.seed,
            recipe=chosen,
        )


def _name(target: tuple[int, ...]) -> str:
    """The id of a request that has none."""
    told = "-".join(map(str, target))
    return f"forget-{told if len(told) <= 100 else hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _require_classes(request: Request, forgotten: tuple[int, ...], num_classes: int) -> None:
    """Refuse classes that the model has not, or not any more, by the arguments' names."""
    if unknown := [c for c in forgotten if c >= num_classes]:
        raise BadInput("forgotten", unknown, f"classes of the model, 0 to {num_classes - 1}")
    try:
        check(request, num_classes=num_classes, forgotten=forgotten, served_ids=())
    except BadInput as error:
        raise BadInput("forget", error.value, error.allowed) from error


def forgotten_by(model: nn.Module) -> tuple[int, ...] | None:
    """The classes that a model of a `Result` of this process has forgotten; None of any other model."""
    return _FORGOTTEN.get(model)


@contextmanager
def _opened(executor: str, version: Version, device: str) -> Iterator[Executor]:
    """A place for a run, given back afterwards."""
    if executor == "inline":
        yield InlineExecutor(device)
        return
    from rayunlearn.execution.on_cluster import on_cluster

    threads, held = torch.get_num_threads(), (version.key, version.make)
    with on_cluster(version.spec, held, threads=threads, gpu=device.startswith("cuda")) as place:
        yield place


def _checkpoints(kept: InMemory, request: Request) -> pa.Table:
    from rayunlearn.ledger.schemas import table_from_rows

    run = run_id(request.lineage, [request.request_id], kept.case.recipe.config_hash, 1)
    stamp = {"run_id": run, "lineage": request.lineage, "phase": "unlearn", "at": request.received_at}
    return table_from_rows("checkpoints", [{**stamp, **figures} for figures in kept.checkpoints])
