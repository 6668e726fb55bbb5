"""Examples of what is to be unlearned: read where files may be read, kept by what they say.

They are real data of whoever asked. They are kept while a request that names them is open, in the inbox as
long as it waits there, and thrown away with its run's files.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import ray
import torch

from rayunlearn.data.image_folder import is_image_folder, read_image_folder
from rayunlearn.data.parquet import read_shards
from rayunlearn.errors import BadInput
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.results.inbox import Inbox, Waiting
from rayunlearn.results.store import Store
from rayunlearn.runtime.remote import fetch
from rayunlearn.scheduling.requests import EXAMPLES_ALLOWED, EXAMPLES_PREFIX, Request

_OPEN = "those of an open request; they are thrown away when it is closed"


def read_examples(place: str, spec: ClassifierSpec, target: Collection[int]) -> Samples:
    """Examples from folders of images named by their labels, or from Parquet shards, normalised for a model.

    Raises:
        BadInput: there is no such file, one is not as it should be (`rayunlearn.data.image_folder`,
            `rayunlearn.data.parquet`), an image is not of the model's shape, or a label is none to erase.
    """
    path = Path(place)
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if files:
        pixels, labels = read_shards(files, "examples", spec.num_classes, shape)
    elif path.is_dir() and is_image_folder(path):
        pixels, labels = read_image_folder(path, "examples", spec.num_classes, shape)
    else:
        raise BadInput("examples", place, EXAMPLES_ALLOWED)
    _require_labels(labels, target)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return Samples(images=(pixels / 255 - mean) / std, labels=labels, ids=torch.arange(len(labels)))


def require_fitting(examples: Samples, spec: ClassifierSpec, target: Collection[int]) -> None:
    """Refuse what `read_examples` would not have made: who wrote into the inbox need not have called it.

    Raises:
        BadInput: these are no images of the model's shape with a label to erase each.
    """
    images, labels, ids = examples.images, examples.labels, examples.ids
    shape, n = [spec.in_channels, spec.image_size, spec.image_size], len(labels) if labels.ndim else 0
    typed = (images.dtype, labels.dtype, ids.dtype) == (torch.float32, torch.int64, torch.int64)
    shaped = n > 0 and [*images.shape] == [n, *shape] and labels.ndim == 1 and ids.shape == labels.shape
    if not typed or not shaped or not bool(torch.isfinite(images).all()):
        said = f"{images.dtype} {[*images.shape]} with {labels.dtype} labels {[*labels.shape]}"
        allowed = f"finite images [n, {', '.join(map(str, shape))}] as torch.float32, with a label each"
        raise BadInput("examples", said, allowed)
    _require_labels(labels, target)


def _require_labels(labels: torch.Tensor, target: Collection[int]) -> None:
    other = sorted(set(labels.tolist()) - set(target))
    if other:
        allowed = f"the labels that they got wrongly and that are to be erased, {sorted(target)}"
        raise BadInput("labels of the examples", other, allowed)


def reference(examples: Samples) -> str:
    """What a request says in the place of a path: a digest of images and labels."""
    return EXAMPLES_PREFIX + version_id(_tensors(examples))


def keep_examples(store: Store, examples: Samples) -> str:
    """Keep examples, and say by which reference `load_examples` finds them."""
    said = reference(examples)
    if not are_kept(store, said):
        store.put(_name(said), to_bytes(examples))
    return said


def to_bytes(examples: Samples) -> bytes:
    """Examples as they are kept, and as they are handed over with a request."""
    return weights_to_bytes(_tensors(examples))


def referred_to(store: Store, inbox: Inbox, request: Request) -> Samples:
    """The examples that a request names by a reference: what came into the inbox with it, or what was kept.

    Raises:
        BadInput: there are none, or others than it names.
    """
    said, waiting = str(request.examples), inbox.find(request.request_id)
    if waiting is not None and waiting.examples is not None:
        return handed_over(waiting, said)
    return load_examples(store, said)


def handed_over(waiting: Waiting, said: str) -> Samples:
    """The examples that came into the inbox with a request, which names them by this reference.

    Raises:
        BadInput: there are none, or others.
    """
    if waiting.examples is None:
        raise BadInput("examples", said, _OPEN)
    tensors = weights_from_bytes(waiting.examples, waiting.name)
    if tensors.keys() != {"images", "labels", "ids"} or EXAMPLES_PREFIX + version_id(tensors) != said:
        raise BadInput("examples", said, "a reference to what is handed over", where=waiting.name)
    return Samples(**tensors)


def load_examples(store: Store, said: str) -> Samples:
    """Examples that were kept.

    Raises:
        BadInput: they are not there, or no longer.
    """
    if not are_kept(store, said):
        raise BadInput("examples", said, _OPEN)
    return Samples(**weights_from_bytes(store.get(_name(said)), _name(said)))


def are_kept(store: Store, said: str) -> bool:
    """Whether the examples of a reference are there."""
    return said.startswith(EXAMPLES_PREFIX) and store.exists(_name(said))


def purge_examples(store: Store, keep: Collection[str]) -> None:
    """Throw away all examples but those of these references."""
    kept = {_name(said) for said in keep}
    for name in store.list("examples"):
        if name not in kept:
            store.delete(name)


_read = ray.remote(read_examples)


def read_by_task(place: str, spec: ClassifierSpec, target: Collection[int]) -> Samples:
    """`read_examples`, asked of another process: the driver itself never opens data.

    A relative path is taken from where this process is, not from where the other one works.
    """
    found: Samples = fetch(_read.remote(str(Path(place).absolute()), spec, tuple(target)))
    return found


def _tensors(examples: Samples) -> dict[str, torch.Tensor]:
    return {"images": examples.images, "labels": examples.labels, "ids": examples.ids}


def _name(said: str) -> str:
    return f"examples/{said.removeprefix(EXAMPLES_PREFIX)}.safetensors"
