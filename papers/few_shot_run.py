"""What rows of the few-shot paper need besides: the part of D_e that they name or show, and generators.

A generator depends on the original and on how it is trained, not on what is done with it: rows share it by
content, as they share originals.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from papers.few_shot_plots import Gallery
from papers.rows import Row
from papers.side_files import read_json
from rayunlearn.auditing.labelled import mislabelled, open_data
from rayunlearn.execution import torch_process
from rayunlearn.execution.device import own_device
from rayunlearn.lineages.runs import RunFiles, States
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights, version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import DEFAULT_LINEAGE, Request
from rayunlearn.seeds import derive_seed, generator
from rayunlearn.serving.examples import keep_examples
from rayunlearn.serving.generators import train_on_data
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.progress import Quiet
from rayunlearn.unlearning.requested import run_seed

GALLERY = "gallery.safetensors"
"""Samples of D' that a page shows, in a row's storage location."""
SHOWN = 8
"""Samples of each class in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
    """A trained generator: weights, and the seconds that its training took (None: it was interrupted)."""

    weights: Weights
    seconds: float | None


def request_of(row: Row, name: str, target: Sequence[int], seed: int, store: Store) -> Request:
    """A row's request, with what it names or shows of D_e; opens the dataset where that is samples.

    The part of a smaller share is within that of a larger one, of the same seed.
    """
    access = tuple(method_named(row.recipe.method).data_access | {"weights"})
    if row.kind == "classes":
        return Request(request_id=name, target=tuple(target), data_access=access)
    dataset, _ = open_data(row.recipe.data, derive_seed(seed, "split"))
    ids = to_erase(row, target, seed)
    order = torch.randperm(len(ids), generator=generator(seed, "given of D_e", *target))
    given = ids[order[: max(1, round(row.share * len(ids)))]].sort().values
    if row.kind == "samples":
        return Request(request_id=name, kind="samples", target=tuple(given.tolist()), data_access=access)
    samples = Samples(images=dataset.images[given], labels=dataset.labels[given], ids=given)
    return Request(
        request_id=name, kind="examples", target=tuple(target), data_access=access,
        examples=keep_examples(store, samples),
        whole_classes=row.recipe.data.mislabelling is None,
    )  # fmt: skip


def to_erase(row: Row, target: Sequence[int], seed: int) -> Tensor:
    """D_e: training samples with these labels, all or the wrong ones; ascending indices, int64."""
    split_seed = derive_seed(seed, "split")
    if (found := mislabelled(row.recipe.data, split_seed)) is not None:
        return found.taught(target)
    dataset, parts = open_data(row.recipe.data, split_seed)
    of_classes = torch.isin(dataset.labels[parts.train_ids], torch.tensor(list(target)))
    return parts.train_ids[of_classes].sort().values


def inverted_generator(
    root: str, recipe: Recipe, spec: ClassifierSpec, name: str, seed: int, threads: int, original: Weights
) -> Generator:
    """The generator that an original's few-shot runs would train, to the bit, kept where they find it.

    Args:
        root: the reproduction's folder.
        recipe: of such a run.
        spec: of the original.
        name: of its request.
        seed: of the row.
        threads: torch threads.
        original: its weights.
    """
    torch_process.set_up(threads)
    store = Store.open(root)
    settings, run = recipe.few_shot.model_inversion, run_seed(seed, DEFAULT_LINEAGE, [name], 1)
    kept = _name(version_id(original), asdict(settings), run)
    files = RunFiles(store, f"generator-{kept.removeprefix('generators/')}")
    none = torch.zeros(0, dtype=torch.int64)
    resumed = files.kept()
    made = Approximation(
        InlineExecutor(own_device()), files, spec=spec, weights=original, settings=recipe.few_shot, seed=run,
        roles=Roles(retain=tuple(range(spec.num_classes)), target=()), progress=Quiet(),
        shared=States(store),
        examples=Samples(images=none, labels=none, ids=none),
    )  # fmt: skip
    began = perf_counter()
    if made.train_generator():
        _keep_seconds(store, kept, None if resumed else perf_counter() - began)
    found = Generator(weights=made.generator(), seconds=_kept_seconds(store, kept))
    files.purge()
    return found


def data_generator(root: str, recipe: Recipe, spec: ClassifierSpec, seed: int, threads: int) -> Generator:
    """The generator of "Ours+", trained on data once for all rows."""
    torch_process.set_up(threads)
    store, split_seed = Store.open(root), derive_seed(seed, "split")
    shape = recipe.few_shot.model_inversion.z_dim, recipe.few_shot.model_inversion.width
    nameless = replace(spec, class_names=None)  # nothing is trained by names
    kept = _name(asdict(recipe.data), nameless.to_dict(), asdict(recipe.few_shot.gan), shape, seed)
    if not store.exists(f"{kept}.safetensors"):
        began = perf_counter()
        made = train_on_data(
            recipe.data, spec, recipe.few_shot, split_seed, derive_seed(seed, "pre-trained generator")
        )
        _keep_seconds(store, kept, perf_counter() - began)
        store.put(f"{kept}.safetensors", weights_to_bytes(made))
    weights = weights_from_bytes(store.get(f"{kept}.safetensors"), kept)
    return Generator(weights=weights, seconds=_kept_seconds(store, kept))


def keep_gallery(
    store: Store, run: str, spec: ClassifierSpec, erased: Sequence[int], threshold: float
) -> None:
    """Keep some samples of a run's D', which go with the run's files, and how those like D_e were found.

    Tensors: `images` `[K, n, C, H, W]`, pixels in [0, 1]; `scores` `[K, n]`, similarity, NaN where a class
    gave fewer samples; `classes` `[K]`; and `answered` `[2]`, of the samples answered with an erased label
    how many there are and are like D_e.
    """
    files = RunFiles(store, run)
    chunks, kept = files.chunks, files.load("scores.pt")
    assert kept is not None, "filtration has kept them"
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    first: dict[int, tuple[Tensor, Tensor]] = {}
    answered = torch.zeros(2, dtype=torch.int64)
    for (label, chunk), scores in kept["scores"].items():
        candidates = chunks.get(label, chunk).first(len(scores))
        wrong = torch.isin(candidates.soft_labels.argmax(dim=1), torch.tensor(list(erased)))
        answered += torch.tensor([int(wrong.sum()), int((wrong & (scores >= threshold)).sum())])
        if chunk == 0:
            images = torch.zeros(SHOWN, *candidates.images.shape[1:])
            similarities, n = torch.full((SHOWN,), math.nan), min(SHOWN, len(scores))
            images[:n] = (candidates.images[:n] * std + mean).clamp(0, 1)
            similarities[:n] = scores[:n]
            first[label] = images, similarities
    store.put(
        GALLERY,
        weights_to_bytes(
            {
                "images": torch.stack([images for images, _ in first.values()]),
                "scores": torch.stack([scores for _, scores in first.values()]),
                "classes": torch.tensor(list(first)),
                "answered": answered,
            }
        ),
    )


def read_gallery(store: Store) -> tuple[Gallery, list[int]]:
    """What `keep_gallery` kept in a row's storage location: the samples, and `answered`."""
    kept = weights_from_bytes(store.get(GALLERY), GALLERY)
    classes: list[int] = kept["classes"].tolist()
    answered: list[int] = kept["answered"].tolist()
    images, scores = kept["images"].numpy(), kept["scores"].numpy()
    return Gallery(images=images, scores=scores, classes=classes), answered


def filtered(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What filtration decided, from the evaluations of a run."""
    (row,) = (row for row in evaluations if row["measure"] == "threshold")
    told = json.loads(row["parameters"])
    return {
        "threshold": row["value"],
        "selected": row["sum"],
        "samples": row["count"],
        **{name: told[name] for name in ("by", "reason", "curve")},
    }


def _name(*depends: object) -> str:
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    return f"generators/{digest[:24]}"


def _keep_seconds(store: Store, kept: str, seconds: float | None) -> None:
    store.put(f"{kept}.json", json.dumps({"seconds": seconds}).encode())


def _kept_seconds(store: Store, kept: str) -> float | None:
    if not store.exists(f"{kept}.json"):
        return None
    seconds: float | None = read_json(store, f"{kept}.json", dict).get("seconds")
    return seconds
