"""audit(): what models know of classes on real data, side by side; nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rayunlearn.api.arguments import (
    arguments,
    class_numbers,
    device_of,
    settings_as_text,
    version_of,
    whole_number,
)
from rayunlearn.api.unlearn import Result, forgotten_by
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.bench import Bench, Measurement, MeasureSettings
from rayunlearn.evaluation.measures import check_measures, measured
from rayunlearn.models.classifiers import Classifier, version_model
from rayunlearn.models.given import copied
from rayunlearn.settings import override
from rayunlearn.task import Input

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT = ("accuracy", "probe", "anamnesis", "relearning")
NEEDS_SHADOWS = "likelihood_ratio"

Batches = Iterable[tuple[Tensor, Tensor]]


def audit(
    *,
    before: nn.Module,
    after: nn.Module | Result,
    data: Batches | tuple[Tensor, Tensor],
    golds: Sequence[nn.Module] = (),
    forget: Iterable[int] | None = None,
    train: Batches | tuple[Tensor, Tensor] | None = None,
    measures: Sequence[str] = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> pa.Table:
    """Measure a model before and after, and models that were retrained without the classes, on real data.

    No model is changed.

    Args:
        before: the model that was forgotten from.
        after: the model after it, or the `Result` that holds it.
        data: held-out images `[B, C, H, W]`, normalised as the models take them, and labels `[B]` in batches,
            as a `DataLoader` gives them; or all of both as two tensors.
        golds: models that were trained without the classes. The anamnesis index compares with the first,
            and is left out where there is none.
        forget: numbers of all forgotten classes. None: those that `unlearn()` made `after` forget.
        train: training images, to relearn from and to fit probes on. None takes every other image of each
            class of `data` for it and measures on the others.
        measures: names, of `rayunlearn.evaluation.measures.MEASURES`.
        settings: of the measures, by dotted paths, as `{"relearn.max_steps": 200}`.
        seed: of every draw; all models meet the same.
        device: where it is measured; None is where `before` is.

    Returns:
        A row for each measure, class group and model: `model` ("before", "after", "gold", "gold 2", ...),
        `measure`, `classes`, `split`, `value`, `sum` and `count` of what is a share, `censored` where the
        measurement was cut off, and `parameters` as JSON.

    Raises:
        BadInput: naming the argument, its value and what is allowed.
    """
    if isinstance(after, Result):
        if after.model is None:
            allowed = f"a result with a model; this one was refused ({'; '.join(after.reasons)})"
            raise BadInput("after", "no model", allowed)
        after = after.model
    whole_number("seed", seed)
    if isinstance(measures, str) or not all(isinstance(name, str) for name in measures):
        raise BadInput("measures", measures, "a list of names")
    names = check_measures(tuple(measures))
    if NEEDS_SHADOWS in names:
        allowed = "measures that need no shadow models; the job's audit trains these"
        raise BadInput("measures", NEEDS_SHADOWS, allowed)
    gone = _gone(forget, after)
    chosen = _settings(settings)
    images, labels = _whole("data", data)
    if train is None:
        learned, held = _halves(labels)
        shown, asked = (images[learned], labels[learned]), (images[held], labels[held])
    else:
        shown, asked = _whole("train", train), (images, labels)
    golds_named = {f"gold{f'_{i + 1}' if i else ''}": gold for i, gold in enumerate(golds)}
    given = {"original": before, "unlearned": after, **golds_named}
    told = {"original": "before", "unlearned": "after"}
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        subjects = {
            name: _subject(stack, told.get(name, name.replace("_", " ")), model, images)
            for name, model in given.items()
        }
        own = device_of(device, str(next(before.parameters()).device))
        classes = subjects["original"].spec.num_classes
        if unknown := [c for c in gone if c >= classes]:
            raise BadInput("forget", unknown, f"classes of the model, 0 to {classes - 1}")
        bench = Bench(
            train=shown, test=asked, retain=tuple(c for c in range(classes) if c not in gone), forget=gone,
            subjects={name: model.to(own) for name, model in subjects.items()}, golds=tuple(golds_named),
            settings=chosen, seed=seed,
        )  # fmt: skip
        return _table(measured(bench, names), told)


def _subject(stack: ExitStack, name: str, model: object, images: Tensor) -> Classifier:
    """A copy of a model as the measures take it."""
    if not isinstance(model, nn.Module):
        raise BadInput(name, model, "a torch.nn.Module that gives logits for a batch of images")
    channels, height, width = images.shape[1:]
    known = isinstance(model, Classifier)
    if isinstance(model, Classifier) and model.spec.shape != (channels, height, width):
        allowed = f"images of {list(model.spec.shape)}, which the model {name!r} takes"
        raise BadInput("data", [channels, height, width], allowed)
    # images come normalised, and no measure asks how
    plain = Input(shape=(channels, height, width), mean=(0.0,) * channels, std=(1.0,) * channels)
    with arguments("audit()"):
        version = stack.enter_context(
            version_of(model, None if known else plain, None if known else lambda: copied(model))
        )
    return version_model(version.spec, version.weights)


def _gone(forget: Iterable[int] | None, after: nn.Module) -> tuple[int, ...]:
    gone = class_numbers("forget", forget) if forget is not None else forgotten_by(after) or ()
    if not gone:
        allowed = "numbers of the forgotten classes, as [3]; they are known of a model that unlearn() gave"
        raise BadInput("forget", forget, allowed)
    return gone


def _settings(settings: Mapping[str, Any] | None) -> MeasureSettings:
    if settings is None:
        return MeasureSettings()
    with arguments("audit()"):
        return override(MeasureSettings(), settings_as_text(settings))


def _whole(name: str, data: Any) -> tuple[Tensor, Tensor]:
    """All images and labels of some batches."""
    allowed = "batches of images [B, C, H, W] and labels [B], or two tensors of all of both"
    pairs = [data] if _is_pair(data) else _batches(name, data, allowed)
    if not pairs:
        raise BadInput(name, "no batch", allowed)
    images = torch.cat([pair[0].detach().cpu().float() for pair in pairs])
    labels = torch.cat([pair[1].detach().cpu() for pair in pairs])
    if images.dim() != 4 or labels.dim() != 1 or labels.is_floating_point() or len(images) != len(labels):
        raise BadInput(name, (list(images.shape), f"{labels.dtype} {list(labels.shape)}"), allowed)
    return images, labels.long()


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, Tensor) for v in value)


def _batches(name: str, data: Any, allowed: str) -> list[Any]:
    if isinstance(data, str | bytes | Tensor) or not isinstance(data, Iterable):
        raise BadInput(name, type(data).__name__, allowed)
    pairs = list(data)
    for pair in pairs:
        if not _is_pair(pair):
            raise BadInput(f"a batch of {name}", type(pair).__name__, allowed)
    return pairs


def _halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Every other sample of each class, and the rest: indices int64."""
    place = torch.zeros_like(labels)
    for c in labels.unique().tolist():
        of = (labels == c).nonzero().flatten()
        place[of] = torch.arange(len(of))
    return (place % 2 == 1).nonzero().flatten(), (place % 2 == 0).nonzero().flatten()


def _table(figures: Sequence[Measurement], told: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    def rows() -> Iterator[dict[str, Any]]:
        for figure in figures:
            yield {
                "model": told.get(figure.subject, figure.subject.replace("_", " ")),
                "measure": figure.measure,
                "classes": sorted(figure.classes),
                "split": figure.split,
                "value": figure.value,
                "sum": figure.sum,
                "count": figure.count,
                "censored": figure.censored,
                "parameters": json.dumps(dict(figure.parameters)),
            }

    schema = pa.schema(
        {
            "model": pa.string(),
            "measure": pa.string(),
            "classes": pa.list_(pa.int64()),
            "split": pa.string(),
            "value": pa.float64(),
            "sum": pa.float64(),
            "count": pa.int64(),
            "censored": pa.bool_(),
            "parameters": pa.string(),
        }
    )
    return pa.Table.from_pylist(list(rows()), schema=schema)
