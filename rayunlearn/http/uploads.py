"""Examples that were uploaded: their bytes are checked by what they hold, without torch.

They are safetensors bytes of three tensors, as the inbox keeps them: `images` `[n, C, H, W]` float32,
normalised as the model's input; `labels` `[n]` int64; `ids` `[n]` int64, 0 to n - 1. Nothing in them is code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import safetensors
from safetensors.numpy import load

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.requests import EXAMPLES_PREFIX
from rayunlearn.tensor_digest import tensor_digest

_NAMES = {"images", "labels", "ids"}


def reference_of(data: bytes, shape: Sequence[int], target: Collection[int]) -> str:
    """The reference under which a request names these examples.

    Args:
        data: the uploaded bytes.
        shape: of an image of the lineage's model, `(C, H, W)`.
        target: the labels to erase.

    Raises:
        BadInput: they are not what the module says, or an image has a label that is none to erase.
    """
    try:
        tensors = load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        allowed = f"safetensors bytes with images, labels and ids ({error})"
        raise BadInput("examples", f"{len(data)} bytes", allowed) from error
    if tensors.keys() != _NAMES:
        raise BadInput("tensors of the examples", sorted(tensors), "images, labels and ids")
    images, labels, ids = (tensors[name] for name in ("images", "labels", "ids"))
    n = len(labels) if labels.ndim == 1 else 0
    typed = [each.dtype.name for each in (images, labels, ids)] == ["float32", "int64", "int64"]
    shaped = n > 0 and images.shape == (n, *shape) and ids.shape == labels.shape
    if not typed or not shaped or not bool(np.isfinite(images).all()):
        said = f"{images.dtype} {[*images.shape]} with {labels.dtype} labels {[*labels.shape]}"
        sides = ", ".join(map(str, shape))
        allowed = f"finite images [n, {sides}] as float32, with an int64 label and id each"
        raise BadInput("examples", said, allowed)
    other = sorted(set(labels.tolist()) - set(target))
    if other:
        allowed = f"the labels that they got wrongly and that are to be erased, {sorted(target)}"
        raise BadInput("labels of the examples", other[:20], allowed)
    return EXAMPLES_PREFIX + tensors_id(tensors)


def tensors_id(tensors: Mapping[str, np.ndarray]) -> str:
    """What `rayunlearn.models.weights.version_id` says of the same tensors; a test compares the two."""
    return tensor_digest(
        (name, str(array.dtype), array.shape, _little_endian(array).tobytes())
        for name, array in sorted(tensors.items(), key=lambda item: item[0].encode())
    )


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
