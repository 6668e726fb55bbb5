"""How like the given examples a sample is, in feature space (few-shot paper, eq. 9 and appendix E.2).

The score of a sample x is the sum over the examples x_e of k(f_e(x), f_e(x_e)): a *similarity*, high for what
is like the examples. Eq. 9 and algorithm 3 call k a distance and select what lies below the threshold, but
with the paper's own RBF kernel that would be what is least like them. Here every kernel grows with likeness,
and `rayunlearn.inversion.knee` selects what lies at or above the threshold.

f_e is the head's input, whatever the architecture. The paper's is the output of the last convolution.

Digits, AllCNN width 0.125, 5 examples of a class, the 898 digits that it was not trained on as samples; of
those above the knee, mean over the ten classes as the erased one (least), %:

| kernel | precision | recall |
|---|---|---|
| rbf | 88 (82) | 100 (99) |
| cosine | 61 (26) | 100 (100) |
| l2 | 65 (58) | 100 (100) |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput, nearest
from rayunlearn.fields import check_value
from rayunlearn.models.classifiers import Classifier

WHERE = "similarity"
WIDTH_ROWS = 1024
"""Most samples, and most examples, that a kernel width is taken from: evenly spaced ones."""
LEAST_WIDTH = 0.25
"""Of an RBF kernel, as a share of the median distance of a sample to an example."""


@dataclass(frozen=True, kw_only=True)
class KernelWidth:
    """The width sigma of an RBF kernel.

    Attributes:
        value: in units of the features, above 0.
        source: what it was taken from: "examples", their own spread; or "samples", their distance to them.
    """

    value: float
    source: str


def features_of(classifier: Classifier, images: Tensor, chunk_size: int = 256) -> Tensor:
    """The head's input `[N, D]` for normalised images `[N, C, H, W]`, on CPU.

    Args:
        classifier: f_e, in eval mode.
        images: at least one.
        chunk_size: images in a forward pass; part of what the bits depend on.

    Raises:
        BadInput: no image, or of another shape; a model in train mode; features that are not finite.
    """
    spec, device = classifier.spec, classifier.head.weight.device
    shape = list(spec.shape)
    if images.dim() != 4 or not len(images) or list(images.shape[1:]) != shape:
        allowed = f"[N, {', '.join(map(str, shape))}] with N >= 1"
        raise BadInput("shape of the images", list(images.shape), allowed, where=WHERE)
    if any(module.training for module in classifier.modules()):
        raise BadInput("mode of the classifier", "train", "eval, in all its modules", where=WHERE)
    with torch.no_grad():
        parts = [classifier.features(part.to(device)).cpu() for part in images.split(chunk_size)]
    features = torch.cat(parts)
    _check("features of the images", features)
    return features


def kernel_width(samples: Tensor, examples: Tensor) -> KernelWidth:
    """The RBF kernel's width (the paper gives none): a median heuristic.

    The median distance between two examples, but at least `LEAST_WIDTH` of the median distance of a sample
    to an example: one example, or copies of one, have no spread of their own, and synthetic samples lie
    farther from real examples than these from each other. On digits (5 examples of a class, mean over
    classes, precision and recall above the knee, %), samples real, inverted and blurred:

    | width | real | inverted | blurred |
    |---|---|---|---|
    | the examples' own alone | 96, 98 | 95, 98 | 86, 58 |
    | at least a quarter of the distance to the samples | 88, 100 | 93, 100 | 76, 94 |
    | at least a third of it | 78, 100 | 76, 100 | 62, 100 |
    | the whole of it | 54, 100 | 51, 100 | 49, 97 |

    Args:
        samples: features `[N, D]`, of all samples or of a part fixed beforehand.
        examples: features `[M, D]`.

    Raises:
        BadInput: features that do not fit or are not finite; or all the same, of samples and examples.
    """
    _check_both(samples, examples)
    near, far = _evenly(examples), _evenly(samples)
    own = F.pdist(near).median().item() if len(near) > 1 else 0.0
    least = LEAST_WIDTH * _distances(far, near).median().item()
    if max(own, least) == 0:
        raise BadInput("kernel width", 0.0, "samples or examples whose features differ", where=WHERE)
    if own >= least:
        return KernelWidth(value=own, source="examples")
    return KernelWidth(value=least, source="samples")


def similarity(
    samples: Tensor,
    examples: Tensor,
    kernel: str = "rbf",
    width: float | None = None,
    chunk_size: int = 1024,
) -> Tensor:
    """Sum over the examples of k(a, b), `[N]` float64 on CPU: high is like the examples (eq. 9).

    | kernel | k(a, b) |
    |---|---|
    | "rbf" (paper) | exp(-norm(a - b)^2 / (2 width^2)) |
    | "cosine" | cosine of the angle between a and b; 0 where either is 0 |
    | "l2" | -norm(a - b): a distance, turned into a similarity by its sign |

    A sample's score depends on the examples, the width and itself alone, so that samples may be scored
    in parts; parts share one width.

    Args:
        samples: features `[N, D]`.
        examples: features `[M, D]`.
        kernel: a key of `KERNELS`.
        width: of "rbf", which alone uses it; None for that of `kernel_width` of these samples.
        chunk_size: samples at a time, which bounds the memory.

    Raises:
        BadInput: an unknown kernel; a width or a chunk size that cannot be; as `kernel_width`.
    """
    _check_both(samples, examples)
    if kernel not in KERNELS:
        raise BadInput("kernel", kernel, nearest(str(kernel), KERNELS), where=WHERE)
    check_value("chunk_size", chunk_size, PositiveInt, where=WHERE)
    if width is None:
        width = kernel_width(samples, examples).value if kernel == "rbf" else 1.0
    check_value("kernel width", width, PositiveFloat, where=WHERE)
    b = examples.cpu().double()
    parts = [KERNELS[kernel](a.cpu().double(), b, width).sum(dim=1) for a in samples.split(chunk_size)]
    return torch.cat(parts)


def _rbf(a: Tensor, b: Tensor, width: float) -> Tensor:
    return (-_distances(a, b).square() / (2 * width**2)).exp()


def _cosine(a: Tensor, b: Tensor, width: float) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def _l2(a: Tensor, b: Tensor, width: float) -> Tensor:
    return -_distances(a, b)


KERNELS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"rbf": _rbf, "cosine": _cosine, "l2": _l2}
"""Features `[N, D]` and `[M, D]` and a width to similarities `[N, M]`."""


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances `[N, M]`, from differences: exactly 0 between equals."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _evenly(rows: Tensor) -> Tensor:
    """At most `WIDTH_ROWS` rows, evenly spaced, float64 on CPU."""
    return rows[:: math.ceil(len(rows) / WIDTH_ROWS)].cpu().double()


def _check_both(samples: Tensor, examples: Tensor) -> None:
    _check("features of the samples", samples)
    _check("features of the examples", examples)
    if samples.shape[1] != examples.shape[1]:
        found, allowed = examples.shape[1], f"{samples.shape[1]}, as many as a sample's"
        raise BadInput("features of an example", found, allowed, where=WHERE)


def _check(thing: str, features: Tensor) -> None:
    if features.dim() != 2 or 0 in features.shape:
        raise BadInput(f"shape of the {thing}", list(features.shape), "[N, D], at least one row", where=WHERE)
    broken = int((~features.isfinite().all(dim=1)).sum())
    if broken:
        raise BadInput(f"rows with NaN or infinity in the {thing}", broken, "0", where=WHERE)
