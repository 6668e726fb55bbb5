"""D' of a few-shot run: a generator trained on the version, its samples filtered, scored and relabelled.

The work is done by functions of weights and images that an executor runs wherever its processes are, the
sampling side by side. What is made is kept as it comes, wherever the run keeps things: a killed run goes on
from there to the same bits, however many processes it has. Only one round of chunks is ever in memory here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.inversion.filtration import Candidates, Composition, Tally, compose, sampled, unjudged
from rayunlearn.inversion.knee import knee_threshold
from rayunlearn.inversion.similarity import KernelWidth, kernel_width
from rayunlearn.inversion.unlearning_set import (
    Likeness,
    Part,
    UnlearningSet,
    in_part,
    joined,
    kept_back,
    likeness,
    unlearning_set,
)
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights, version_id
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.progress import Progress
from rayunlearn.unlearning.sampling import features, judge, score, soft_labels, train_generator

BLOCK = 100
"""Iterations of model inversion between two savings of its state."""


class States(Protocol):
    """Where plain data and tensors are kept under names."""

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Keep this in the place of what was there."""

    def load(self, name: str) -> dict[str, Any] | None:
        """What was kept; None where nothing was."""


class Chunks(Protocol):
    """Where chunks of accepted candidates are kept, by class and number."""

    def put(self, candidates: Candidates) -> None:
        """Keep a chunk."""

    def tallies(self) -> list[Tally]:
        """What became of the candidates of every chunk that is kept."""

    def get(self, label: int, chunk: int) -> Candidates:
        """A chunk, as it was kept."""


class Files(States, Protocol):
    """What the making of D' is kept in."""

    @property
    def chunks(self) -> Chunks: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What filtration decided, for the record.

    Attributes:
        composition: where D' comes from, and what each class gave.
        width: of the RBF kernel; None for the others.
        likeness: threshold, its curve, and what goes beyond it.
        selected: samples of D' that are like the examples.
        whole_by: what counts as like them besides (`FewShotSettings.whole_by`).
    """

    composition: Composition
    width: KernelWidth | None
    likeness: Likeness
    selected: int
    whole_by: str


class Approximation:
    """The making of D' for one run.

    Args:
        executor: of the run.
        files: where the run keeps what it makes.
        spec: of the version.
        weights: of the version.
        roles: with the labels to erase; every class that is not forgotten is sampled, and those that stay
            have to be found.
        settings: of the generator's training, of filtration and kernel.
        examples: of what is to be unlearned.
        seed: of the run.
        progress: told how far it is.
        generator: weights of one that was trained elsewhere; it learns the version for
            `settings.further_iterations` alone.
        whole: the labels to erase are classes to forget as a whole.
        shared: where runs that train the same generator, to the bit, share it; None where this run does not.
        shared_as: how the names of shared generators begin.
    """

    def __init__(
        self,
        executor: Executor,
        files: Files,
        *,
        spec: ClassifierSpec,
        weights: Weights,
        roles: Roles,
        settings: FewShotSettings,
        examples: Samples,
        seed: int,
        progress: Progress,
        generator: Weights | None = None,
        shared: States | None = None,
        shared_as: str = "generators/",
        whole: bool = False,
    ) -> None:
        self.executor, self.files, self.chunks = executor, files, files.chunks
        self.stay, self.whole_by = roles.erased, "similarity"
        if whole:
            self.stay, self.whole_by = (), settings.whole_by
            kept = tuple(c for c in roles.retain if c not in roles.erased)
            roles = replace(roles, retain=kept, target=roles.erased)
        self.spec, self.weights, self.roles = spec, weights, roles
        self.inversion, self.settings = settings.model_inversion, settings
        self.iterations = settings.further_iterations if generator else self.inversion.iterations
        self.examples, self.progress, self.given = examples, progress, generator
        self.shared, self.shared_as = shared, shared_as
        self.seed = derive_seed(seed, "approximation")

    @property
    def warning(self) -> str | None:
        """What the generator has to do without; None where it has all."""
        has_batchnorm = any(name.endswith(".running_mean") for name in self.weights)
        if has_batchnorm or self.inversion.batchnorm_weight == 0:
            return None
        return (
            f"{self.spec.name} has no BatchNorm: the generator learns without its loss, which in the paper's "
            "ablation (Table 6) lost 5 points of D_r and kept 89 to 94 % of D_e"
        )

    def train_generator(self) -> list[dict[str, Any]]:
        """Train the generator to its end, from wherever it was stopped; what was reported since."""
        state = self.files.load("generator.pt")
        if state is None and self.shared is not None:
            state = self.shared.load(self._shared_name)
            if state is not None:
                self.files.save("generator.pt", state)
        done = 0 if state is None else int(state["taken"])
        self.progress.advance(done)
        reports = []
        while state is None or done < self.iterations:
            last = min(done + BLOCK, self.iterations)
            arguments = (self.spec, self.weights, self.inversion, self.seed, self.given, state, last)
            ((state, report),) = self.executor.map([(train_generator, arguments)])
            self.files.save("generator.pt", state)
            reports.append(report)
            self.progress.advance(last - done)
            done = last
        if reports and self.shared is not None:
            self.shared.save(self._shared_name, self._state)
        return reports

    @property
    def _shared_name(self) -> str:
        given = None if self.given is None else version_id(self.given)
        made_by = [version_id(self.weights), asdict(self.inversion), self.iterations, self.seed, given]
        digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        return f"{self.shared_as}{digest[:24]}.pt"

    def generator(self) -> Weights:
        """The generator's weights, trained to its end."""
        weights: Weights = self._state["generator"]
        return weights

    @property
    def _state(self) -> dict[str, Any]:
        state = self.files.load("generator.pt")
        if state is None or state["taken"] < self.iterations:
            raise BadInput("generator of the run", "not trained yet", "trained to its end")
        return state

    def sample(self) -> Composition:
        """Judge chunks until every class has enough or its budget is spent, a chunk of each class a round."""
        tallies, state = self.chunks.tallies(), self._state
        while True:
            left = {label: unjudged(tallies, self.settings, label) for label in sampled(self.roles)}
            wanted = [(label, chunks[0]) for label, chunks in left.items() if chunks]
            if not wanted:
                return compose(tallies, self.settings, self.roles)
            common = (self.spec, self.weights, self.inversion, state, self.settings, self.seed)
            for candidates in self.executor.map([(judge, (*common, *key)) for key in wanted]):
                self.chunks.put(candidates)
                tallies.append(candidates.tally)
            self.progress.advance(len(wanted))

    @cached_property
    def composition(self) -> Composition:
        """What D' is made of; every chunk has been judged."""
        return compose(self.chunks.tallies(), self.settings, self.roles)

    def filter(self) -> Filtered:
        """Score every sample and find the threshold; kept in the run's files.

        The kernel's width is taken from the first chunk of each class, whatever else there is.
        """
        kept = self._kept_scores
        scores = torch.cat([kept["scores"][key] for key in self.composition.take])
        answers = torch.tensor(self._answers)
        most = self.settings.most_of_a_label
        found = likeness(scores, answers, knee_threshold(scores), self.stay, most)
        selected = int(found.selects(scores, answers).sum())
        width = None if kept["width"] is None else KernelWidth(**kept["width"])
        return Filtered(
            composition=self.composition,
            width=width,
            likeness=found,
            selected=selected,
            whole_by=self.whole_by,
        )

    @property
    def _answers(self) -> list[int]:
        """The label that the version gives each sample of D', in order."""
        predicted = {(tally.label, tally.chunk): tally.predicted for tally in self.chunks.tallies()}
        return [label for key, n in self.composition.take.items() for label in predicted[key][:n]]

    @cached_property
    def _kept_scores(self) -> dict[str, Any]:
        kept = self.files.load("scores.pt")
        if kept is None:
            kept = self._scored()
            self.files.save("scores.pt", kept)
        return kept

    def _scored(self) -> dict[str, Any]:
        unit = self.settings.unit_features
        (examples,) = self.executor.map([(features, (self.spec, self.weights, self.examples.images, unit))])
        width = None
        if self.settings.kernel == "rbf":
            first = [key for key in self.composition.take if key[1] == 0] or list(self.composition.take)[:1]
            drawn = [(features, (self.spec, self.weights, self._taken(key).images, unit)) for key in first]
            width = kernel_width(torch.cat(self.executor.map(drawn)), examples)
        scores: dict[tuple[int, int], Tensor] = {}
        for key in self.composition.take:
            arguments = (
                self.spec, self.weights, self._taken(key).images, unit, examples, self.settings.kernel,
                None if width is None else width.value,
            )  # fmt: skip
            (scores[key],) = self.executor.map([(score, arguments)])
        return {"scores": scores, "width": None if width is None else vars(width)}

    def _taken(self, key: tuple[int, int]) -> Candidates:
        """The candidates of a chunk that are in D'."""
        return self.chunks.get(*key).first(self.composition.take[key])

    def parts(self, part: Part) -> Iterator[UnlearningSet]:
        """A part of D' as it is relearned from or judged by, chunk by chunk."""
        rule, scores = self.filter().likeness, self._kept_scores["scores"]
        for key in self.composition.take:
            taken = self._taken(key)
            answers = taken.soft_labels.argmax(dim=1)
            like = rule.selects(scores[key], answers)
            if self.whole_by == "label":
                like = like | torch.isin(answers, torch.tensor(self.roles.erased))
            elif self.whole_by == "every":
                like = torch.ones_like(like)
            chosen = in_part(taken.indices, part)
            given = unlearning_set(taken.images, taken.soft_labels, like, self.roles.erased)
            if bool(chosen.any()):
                yield given.where(chosen)

    def held(self, part: Part) -> UnlearningSet:
        """A held-out part, and the examples, of which nothing of the behaviour may be left.

        D' alone would not do: a generator may show little of a behaviour, or show it as no example does.
        Where the classes stay whose labels are erased it says nothing of it, and its unwanted samples are
        left out: a model that was trained without the behaviour answers most of them with these labels too
        (decision 8). Then the examples judge alone, or those of them that are not learned from.

        Raises:
            BadInput: nothing is unwanted: the version answers no example with a label to erase, nor any
                sample that is like them.
        """
        samples = joined(list(self.parts(part)))
        if self.stay:
            samples = samples.where(~samples.unwanted)
        found = joined([samples, self._given])
        if not bool(found.unwanted.any()):
            raise BadInput(
                "examples that the version answers with a label to erase",
                0,
                f"at least one that is answered with one of {list(self.roles.erased)}: the version does not "
                "show the behaviour, neither on the examples nor on what is like them in D'",
            )
        return found

    @cached_property
    def _given(self) -> UnlearningSet:
        images, every = self.examples.images, torch.ones(len(self.examples), dtype=torch.bool)
        (soft,) = self.executor.map([(soft_labels, (self.spec, self.weights, images))])
        given = unlearning_set(images, soft, every, self.roles.erased)
        kept = kept_back(given)
        learned_from = self.settings.examples_share > 0
        return given.where(kept) if learned_from and bool(kept.any()) else given


def filtered_rows(filtered: Filtered, erased: Collection[int]) -> list[dict[str, Any]]:
    """The decision for the record: the threshold with its curve (Fig. 4a), and what each class gave."""
    knee, composition, width = filtered.likeness.knee, filtered.composition, filtered.width
    told = {
        "by": knee.method,
        "reason": knee.reason,
        "curve": list(knee.curve),
        "raised": {str(label): bound for label, bound in filtered.likeness.raised.items()},
        "most_of_a_label": filtered.likeness.most_of_a_label,
        "whole_by": filtered.whole_by,
        "kernel_width": None if width is None else width.value,
        "kernel_width_from": None if width is None else width.source,
    }
    samples = sum(composition.take.values())
    threshold = {
        "measure": "threshold", "classes": erased, "value": knee.threshold,
        "sum": float(filtered.selected), "count": samples, "parameters": json.dumps(told),
    }  # fmt: skip
    yields = [
        {
            "measure": "yield", "classes": [given.label], "value": given.found / given.wanted,
            "sum": float(given.found), "count": given.judged, "parameters": json.dumps(asdict(given)),
        }
        for given in composition.classes
    ]  # fmt: skip
    return [threshold, *yields]
