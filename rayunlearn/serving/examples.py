"""Examples of what is to be unlearned: read where files may be read, kept by what they say.

They are real data of whoever asked. They are kept while a request that names them is open, in the inbox as
long as it waits there, and thrown away with its run's files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import ray
import torch

from rayunlearn.data.files import files_below, listed, readable
from rayunlearn.data.parquet import read_shards, shards_in
from rayunlearn.data.raw import Part, tell_doubles
from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.execution.remote import fetch_told, telling
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.scheduling.requests import EXAMPLES_ALLOWED, EXAMPLES_PREFIX, Request
from rayunlearn.storage.inbox import Inbox, Waiting
from rayunlearn.storage.store import Store
from rayunlearn.streamed import normalised

_OPEN = "those of an open request; they are thrown away when it is closed"


def read_examples(place: str, spec: ClassifierSpec, target: Collection[int]) -> Samples:
    """Examples from folders of images named by their labels, or from Parquet shards, normalised for a model.

    Warns of files that are left out, and of images that are there more than once (`DataWarning`).

    Raises:
        BadInput: there is no such file, one is not as it should be (`rayunlearn.data.image_folder`,
            `rayunlearn.data.parquet`), there are files of both kinds, an image is not of the model's shape, a
            class has a name that the model's have not, or a label is none to erase.
    """
    path = Path(place)
    with readable("examples", place):
        part = _shards(path, spec) or _images(path, spec)
    if part is None:
        raise BadInput("examples", place, EXAMPLES_ALLOWED)
    _require_labels(part.labels, target)
    tell_doubles((part, None), "examples", ("the examples",))
    images = normalised(part.pixels[:].to(torch.float32), spec.mean, spec.std)
    return Samples(images=images, labels=part.labels, ids=torch.arange(len(part.labels)))


def _shards(path: Path, spec: ClassifierSpec) -> Part | None:
    """The rows of a Parquet file or of all in a folder; None where there is none."""
    files = shards_in(path, "examples") if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return None
    if path.is_dir():
        from rayunlearn.data.image_folder import is_image_folder  # here, for Pillow

        if is_image_folder(path, spec.class_names):
            shown = listed([str(file.relative_to(path)) for file in files])
            allowed = "none beside folders of labels: give one or the other"
            raise BadInput("Parquet files in the folder", shown, allowed, where="examples")
        others = [str(f.relative_to(path)) for f in files_below(path) if f not in set(files)]
        if others:
            said = f"examples: not read were files that are no Parquet ({len(others)}: {listed(others)})"
            warnings.warn(DataWarning(said), stacklevel=3)
    return read_shards(files, "examples", spec.num_classes, spec.shape, spec.class_names, spec.preprocessing)


def _images(path: Path, spec: ClassifierSpec) -> Part | None:
    """The images of a folder of labels; None where there is no folder."""
    if not path.is_dir():
        return None
    from rayunlearn.data.image_folder import read_image_folder  # as above

    return read_image_folder(
        path, "examples", spec.num_classes, spec.shape, spec.class_names, spec.preprocessing
    )


def require_fitting(examples: Samples, spec: ClassifierSpec, target: Collection[int]) -> None:
    """Refuse what `read_examples` would not have made: who wrote into the inbox need not have called it.

    Raises:
        BadInput: these are no images of the model's shape with a label to erase each.
    """
    images, labels, ids = examples.images, examples.labels, examples.ids
    shape, n = list(spec.shape), len(labels) if labels.ndim else 0
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


_read = ray.remote(telling(read_examples))


def read_by_task(
    place: str, spec: ClassifierSpec, target: Collection[int], say: Callable[[str], None]
) -> Samples:
    """`read_examples`, asked of another process: the driver itself never opens data.

    Args:
        place: of the examples; a relative path is from where this process is, not from where the other works.
        spec: of the model.
        target: the labels to erase.
        say: is given each warning.
    """
    task = _read.remote(str(Path(place).absolute()), spec, tuple(target))
    found: Samples = fetch_told(task, say)
    return found


def _tensors(examples: Samples) -> dict[str, torch.Tensor]:
    return {"images": examples.images, "labels": examples.labels, "ids": examples.ids}


def _name(said: str) -> str:
    return f"examples/{said.removeprefix(EXAMPLES_PREFIX)}.safetensors"
