"""Filtration: the approximated dataset D' that a generator's samples give (few-shot paper, section 3.2).

| symbol | name | here |
|---|---|---|
| H(f_w(x)), eq. 8 | entropy | `prediction_entropy` |
| phi, eq. 8 | transformations | the plain image and `transformations` |
| D', eq. 8, algorithm 2 | approximated dataset | `judge_chunk`, `compose`, `gather` |

A class's candidates come in chunks of a fixed size: G(z, y) with z drawn from the seed, y and the chunk's
number, so that it does not matter where a chunk is judged, or when. D' is the first `per_class` accepted
candidates of each class by index. That is decided from the chunks' tallies: whoever decides needs no image.

A candidate counts for the class y that it was made for, whatever the classifier predicts: the paper's soft
label is the prediction, and samples that contradict their y are where a behaviour such as a mislabelling
shows. How the predictions are distributed is reported beside (`ClassYield.predicted`).

A class may yield less than wanted, or nothing. That is reported, and D' goes on without, unless a class to
retain is the prediction of no sample at all: that is an error. Relearning on such a D' would forget the
class, and no later check sees it, for what is held out of D' lacks the class too. A class to be forgotten
may be missing: nothing then teaches it, but nothing unlearns it either, which is for the gate to judge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.conditional_generator import ConditionalGenerator
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator as seeded


@dataclass(frozen=True, kw_only=True)
class FiltrationSettings(Checked, section="filtration"):
    """Settings of D'; the paper gives `t_ent` alone.

    Attributes:
        per_class: samples wanted of each class.
        budget: most candidates tried for a class.
        t_ent: a prediction's entropy is below this, nats.
        entropy_under: where the entropy is tested: "every_transformation" (eq. 8), or "plain", on the image
            itself alone (algorithm 2).
        chunk_size: candidates in a chunk. Other sizes draw other candidates.
    """

    per_class: PositiveInt = 1000
    budget: PositiveInt = 20_000
    t_ent: PositiveFloat = 0.5
    entropy_under: Literal["every_transformation", "plain"] = "every_transformation"
    chunk_size: PositiveInt = 250

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.budget < self.per_class:
            allowed = f"at least {self.section}.per_class, {self.per_class}"
            raise BadInput(f"{self.section}.budget", self.budget, allowed)

    @property
    def chunks(self) -> int:
        """Chunks in a class's budget; the last one may be judged in part."""
        return math.ceil(self.budget / self.chunk_size)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of a chunk's candidates.

    Attributes:
        label: the class y that they were made for.
        chunk: number of the chunk within the class.
        judged: candidates in it.
        entropy_failed: of these, failed by entropy.
        consistency_failed: failed by a transformation that changes the predicted label; a candidate that
            fails both counts in both.
        predicted: label that the classifier predicts for each accepted candidate, by index.
    """

    label: int
    chunk: int
    judged: int
    entropy_failed: int
    consistency_failed: int
    predicted: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The accepted candidates of a chunk, in order of their index, on CPU.

    Attributes:
        tally: of all candidates of the chunk.
        images: `[n, C, H, W]`.
        soft_labels: f_w(G(z, y)), `[n, K]`.
        indices: within the class, `[n]` int64.
    """

    tally: Tally
    images: Tensor
    soft_labels: Tensor
    indices: Tensor

    def first(self, n: int) -> Candidates:
        """The first `n` of them."""
        return replace(
            self, images=self.images[:n], soft_labels=self.soft_labels[:n], indices=self.indices[:n]
        )


@dataclass(frozen=True, kw_only=True)
class ClassYield:
    """What a class gave, over the chunks that were needed.

    Attributes:
        label: the class y that candidates were made for.
        wanted: `per_class`.
        found: samples in D'; fewer than wanted where the whole budget was spent.
        budget: most candidates that could be tried.
        judged: candidates that were.
        entropy_failed: as in `Tally`.
        consistency_failed: as in `Tally`.
        predicted: predicted label -> samples in D'.
    """

    label: int
    wanted: int
    found: int
    budget: int
    judged: int
    entropy_failed: int
    consistency_failed: int
    predicted: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What D' is made of, before any image is touched.

    Attributes:
        take: (class, chunk) -> how many of its accepted candidates, from the first; in the order of D'.
        classes: what each class gave, in order.
    """

    take: Mapping[tuple[int, int], int]
    classes: tuple[ClassYield, ...]

    @property
    def shortfalls(self) -> tuple[ClassYield, ...]:
        """Classes that gave less than wanted within their budget."""
        return tuple(given for given in self.classes if given.found < given.wanted)


@dataclass(frozen=True, kw_only=True, eq=False)
class ApproximatedSet:
    """The approximated dataset D', class by class in order of index, on CPU.

    Attributes:
        images: `[N, C, H, W]`.
        soft_labels: `[N, K]`, the classifier's probabilities.
        labels: the class y that each was made for, `[N]` int64.
        indices: within the class, `[N]` int64.
        composition: where they come from.
    """

    images: Tensor
    soft_labels: Tensor
    labels: Tensor
    indices: Tensor
    composition: Composition


def prediction_entropy(logits: Tensor) -> Tensor:
    """H(softmax) in nats, `[B]`, of logits `[B, K]`.

    >>> bool(torch.isclose(prediction_entropy(torch.zeros(1, 10)), torch.tensor(math.log(10))))
    True
    """
    return torch.special.entr(logits.softmax(dim=1)).sum(dim=1)


def judge_chunk(
    generator: ConditionalGenerator,
    classifier: Classifier,
    transformations: Sequence[Callable[[Tensor], Tensor]],
    settings: FiltrationSettings,
    seed: int,
    label: int,
    chunk: int,
) -> Candidates:
    """Make a chunk's candidates and keep those that eq. 8 accepts.

    Accepted is an image whose prediction has low entropy, and whose predicted label no transformation
    changes. The plain image counts as one of eq. 8's transformations: the identity preserves what is shown,
    the soft label is taken there, and without it an empty sequence would accept everything. Algorithm 2
    drops an entropy above t_ent; here, as in eq. 8, one that equals it is dropped too.

    Args:
        generator: in eval mode, on the classifier's device.
        classifier: f_w, in eval mode.
        transformations: of images `[B, C, H, W]`, free of chance.
        settings: thresholds and chunk size.
        seed: of the run.
        label: the class y.
        chunk: from 0, below `settings.chunks`.

    Raises:
        BadInput: a class or a chunk that there is not; a model in train mode, whose BatchNorm would make a
            candidate depend on its chunk; images of another shape, or not finite.
    """
    spec, device = classifier.spec, classifier.head.weight.device
    if not 0 <= label < spec.num_classes:
        raise BadInput("class to sample", label, f"0 to {spec.num_classes - 1}", where="filtration")
    if not 0 <= chunk < settings.chunks:
        raise BadInput("chunk", chunk, f"0 to {settings.chunks - 1}", where="filtration")
    for name, modules in (("generator", generator.modules()), ("classifier", classifier.modules())):
        if any(module.training for module in modules):
            raise BadInput(f"mode of the {name}", "train", "eval, in all its modules", where="filtration")

    first = chunk * settings.chunk_size
    judged = min(settings.chunk_size, settings.budget - first)
    draws = seeded(seed, "filtration z", label, chunk)
    z = torch.randn(settings.chunk_size, generator.spec.z_dim, generator=draws)[:judged].to(device)
    y = torch.full((judged,), label, dtype=torch.int64, device=device)
    with torch.no_grad():
        images = generator(z, y)
        _check_images(images, (judged, *spec.shape))
        plain = classifier(images)
        logits = [plain, *(classifier(transform(images)) for transform in transformations)]
    tested = logits if settings.entropy_under == "every_transformation" else [plain]
    certain = torch.stack([prediction_entropy(view) < settings.t_ent for view in tested]).all(dim=0)
    consistent = torch.stack([view.argmax(dim=1) == plain.argmax(dim=1) for view in logits]).all(dim=0)
    accepted = certain & consistent
    return Candidates(
        tally=Tally(
            label=label,
            chunk=chunk,
            judged=judged,
            entropy_failed=int((~certain).sum()),
            consistency_failed=int((~consistent).sum()),
            predicted=tuple(plain.argmax(dim=1)[accepted].tolist()),
        ),
        images=images[accepted].cpu(),
        soft_labels=plain.softmax(dim=1)[accepted].cpu(),
        indices=first + accepted.cpu().nonzero()[:, 0],
    )


def _check_images(images: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(images.shape) != shape:
        allowed = f"{list(shape)}, as the classifier takes them"
        raise BadInput("shape of the generator's images", list(images.shape), allowed, where="filtration")
    broken = int((~images.isfinite().flatten(1).all(dim=1)).sum())
    if broken:
        raise BadInput("number of NaN or infinite images of the generator", broken, "0", where="filtration")


def unjudged(tallies: Iterable[Tally], settings: FiltrationSettings, label: int) -> list[int]:
    """Chunks of a class that are still to be judged, in the order of their need; empty: it is done.

    A class is done when the chunks before its first gap accept enough, or its budget is spent: chunks that
    arrive ahead of others count only when those have come. Whoever works in parallel may start the later
    ones of the list too; what turns out not to be needed is not in D'.
    """
    accepted = {tally.chunk: len(tally.predicted) for tally in tallies if tally.label == label}
    missing = [chunk for chunk in range(settings.chunks) if chunk not in accepted]
    if not missing:
        return []
    found = sum(accepted[chunk] for chunk in range(missing[0]))
    return missing if found < settings.per_class else []


def compose(tallies: Iterable[Tally], settings: FiltrationSettings, roles: Roles) -> Composition:
    """Decide what D' is made of: a pure function of the tallies, in whatever order they arrive.

    Args:
        tallies: of chunks of every class in `sampled(roles)`, until none is `unjudged`; more do no harm.
        settings: samples wanted.
        roles: which classes are to be retained and forgotten.

    Raises:
        BadInput: a class is not done; or a class to retain is the prediction of no sample.
    """
    by_key = {(tally.label, tally.chunk): tally for tally in tallies}
    take: dict[tuple[int, int], int] = {}
    classes = []
    for label in sampled(roles):
        left = unjudged(by_key.values(), settings, label)
        if left:
            raise BadInput(f"chunks of class {label} not judged yet", left, "none", where="filtration")
        used: list[Tally] = []
        predicted: list[int] = []
        for chunk in range(settings.chunks):
            wanted = settings.per_class - len(predicted)
            if wanted == 0:
                break
            tally = by_key[label, chunk]
            used.append(tally)
            if tally.predicted:
                take[label, chunk] = min(wanted, len(tally.predicted))
                predicted.extend(tally.predicted[:wanted])
        classes.append(
            ClassYield(
                label=label,
                wanted=settings.per_class,
                found=len(predicted),
                budget=settings.budget,
                judged=sum(tally.judged for tally in used),
                entropy_failed=sum(tally.entropy_failed for tally in used),
                consistency_failed=sum(tally.consistency_failed for tally in used),
                predicted=dict(sorted(Counter(predicted).items())),
            )
        )
    absent = sorted(set(roles.retain) - {label for given in classes for label in given.predicted})
    if absent:
        raise BadInput(
            "classes to retain that no sample is predicted as",
            absent,
            "none, for relearning would forget them: train the generator longer, or raise "
            f"{settings.section}.budget ({settings.budget}) or {settings.section}.t_ent ({settings.t_ent})",
            where="filtration",
        )
    return Composition(take=take, classes=tuple(classes))


def sampled(roles: Roles) -> tuple[int, ...]:
    """Classes that D' is sampled of: all but those forgotten earlier.

    Raises:
        BadInput: no class is to be retained.
    """
    if not roles.retain:
        raise BadInput("classes to retain", roles.retain, "at least one", where="filtration")
    return tuple(sorted({*roles.retain, *roles.target}))


def gather(parts: Iterable[Candidates], composition: Composition) -> ApproximatedSet:
    """D' from its chunks, in whatever order they come; those that are not needed are left out."""
    by_key = {(part.tally.label, part.tally.chunk): part for part in parts}
    taken = [by_key[key].first(n) for key, n in composition.take.items()]
    return ApproximatedSet(
        images=torch.cat([part.images for part in taken]),
        soft_labels=torch.cat([part.soft_labels for part in taken]),
        labels=torch.cat([torch.full_like(part.indices, part.tally.label) for part in taken]),
        indices=torch.cat([part.indices for part in taken]),
        composition=composition,
    )
