"""Few-shot unlearning by model inversion: the last part, relearning from D' (few-shot paper, algorithm 4).

The parts before it, a generator trained by model inversion and D' filtered from its samples, are
`rayunlearn.inversion`'s. What the run is handed is their result: the part of D' to learn from. "Ours" and
"Ours+" differ in the generator alone, and so in what they declare: "Ours+" begins with one that was trained
on data.
"""

from __future__ import annotations

import copy
import math
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Share, ShareBelowOne
from rayunlearn.inversion.filtration import FiltrationSettings
from rayunlearn.inversion.model_inversion import ModelInversionSettings
from rayunlearn.inversion.unlearning_set import UnlearningSet, joined, kept_back, unlearning_set
from rayunlearn.methods.conditional_gan import ConditionalGANSettings
from rayunlearn.methods.training import TrainSettings, TrainState, steps_per_epoch, train_steps
from rayunlearn.methods.unlearning import Handed, Method, Samples, Unlearning, required
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.resuming import Resumable, check_steps
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(FiltrationSettings, section="few_shot"):
    """Filtration's settings, the kernel, relearning's, and the generator's in a section of its own.

    Attributes:
        model_inversion: how a generator is trained on the version.
        gan: how one is trained on data, for who declares it.
        further_iterations: of model inversion, by which a generator that was trained elsewhere (on data, on
            another classifier, for an earlier request) learns the version; the paper takes it as it is.
        keep_generator: hand the generator on to the lineage's next request, as long as no class is
            forgotten: it shows every class that it was trained with.
        workers: that relearn; 0: the run's own process. Several, a Ray Train run, share each step, and
            give the same weights up to the order of floating-point sums.
        examples_share: share of what is learned from that the given examples make up, relabelled and
            repeated; 0 in the paper. Where D' shows nothing of what the examples do, as of wrong labels that
            were learned by heart, they alone teach it (docs/log.md, 66). Every fourth is kept back, to judge
            by.
        kernel: of the similarity to the examples (Table 7).
        unit_features: divide features by their length first; the paper says nothing of it. A generator's
            images are features of another length than real ones (LeNet5 and MNIST: 25 to 19 in the mean), so
            that lengths rather than contents are compared (docs/log.md, 51).
        whole_by: what counts as D'_e where whole classes are to go. "similarity": what is like the examples,
            as in the paper; what is not goes on being taught as before, and so does the little probability
            that it has of these classes, which brings them back (docs/log.md, 72). "label": besides, every
            sample that the version answers with one of them. "every": all samples, so that none is taught
            with any probability of these classes, of which a model trained without them knows nothing.
        most_of_a_label: where classes stay, the share of the samples with a label to erase that may be D'_e,
            the most similar ones. Most of them are proper images of that class, and are taught wrongly: on
            digits a tenth cost up to five points of D_r, one of each two (docs/log.md, 66 and 68).
        epochs: passes over D'; the paper relearns "until it converges".
        batch_size: samples in a step; the paper gives none.
        lr: SGD's learning rate (appendix C.4, as the next two).
        momentum: SGD's.
        weight_decay: SGD's, L2.
        update_statistics: whether relearning updates BatchNorm's running statistics, of which the paper says
            nothing. Those of the version are the real data's; D' has others, and what is learned under
            them does not hold for real images (docs/log.md, 65 and 67).
    """

    model_inversion: ModelInversionSettings = field(default_factory=ModelInversionSettings)
    gan: ConditionalGANSettings = field(default_factory=ConditionalGANSettings)
    further_iterations: NonNegativeInt = 0
    keep_generator: bool = False
    workers: NonNegativeInt = 0
    examples_share: ShareBelowOne = 0.0
    kernel: Literal["rbf", "cosine", "l2"] = "rbf"
    unit_features: bool = True
    whole_by: Literal["every", "label", "similarity"] = "every"
    most_of_a_label: Share = field(default=0.02, metadata={"before": 0.1})
    epochs: PositiveInt = 10
    batch_size: AtLeastTwo = 128
    lr: PositiveFloat = 3e-3
    momentum: ShareBelowOne = 0.9
    weight_decay: NonNegativeFloat = 2e-5
    update_statistics: bool = field(default=False, metadata={"before": True})

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.further_iterations > self.model_inversion.iterations:
            allowed = f"at most model_inversion.iterations, {self.model_inversion.iterations}"
            raise BadInput(f"{self.section}.further_iterations", self.further_iterations, allowed)

    @property
    def relearning(self) -> TrainSettings:
        """The training that relearning is."""
        return TrainSettings(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, weight_decay=self.weight_decay,
            optimizer="sgd", momentum=self.momentum, schedule="constant",
            update_statistics=self.update_statistics,
        )  # fmt: skip


def with_examples(learned: UnlearningSet, handed: Handed, share: float) -> UnlearningSet:
    """What is learned from, with the given examples relabelled and repeated until they are a share of it.

    Those that are `kept_back` are not among it: they judge.

    Raises:
        BadInput: there is no example.
    """
    examples: Samples = required(handed, "examples", "few_shot")
    with torch.no_grad():
        soft = handed.model()(examples.images).softmax(dim=1)
    every = torch.ones(len(examples), dtype=torch.bool)
    given = unlearning_set(examples.images, soft, every, handed.roles.erased)
    given = given.where(~kept_back(given))
    copies = math.ceil(share / (1 - share) * len(learned) / len(given))
    repeated = given.where(torch.arange(len(given)).repeat(copies))
    return joined([learned, repeated])


class Relearning(Resumable, Unlearning):
    """Training on D' from the weights of the version to unlearn from; a step is one of SGD.

    Args:
        handed: its `approximated` is learned from.
        settings: of the method.
        device: where it is trained.
        shard: (rank, world) of this worker, where several train together (`train_steps`).
    """

    saved = {"training": "training", "losses": "_losses"}

    def __init__(
        self,
        handed: Handed,
        settings: FewShotSettings,
        device: str = "cpu",
        shard: tuple[int, int] | None = None,
    ) -> None:
        learned: UnlearningSet = required(handed, "approximated", "few_shot")
        if settings.examples_share > 0:
            learned = with_examples(learned, handed, settings.examples_share)
        self.settings = settings.relearning
        self.images, self.targets = learned.images.to(device), learned.targets.to(device)
        self.seed = derive_seed(handed.seed, "relearning")
        self.shard = shard
        self.training = TrainState(handed.model(device), self.settings)
        self.steps = settings.epochs * steps_per_epoch(len(learned), self.settings)
        self._losses: list[float] = []

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, counted from 1."""
        state = self.training
        check_steps(first, last, taken=state.step, steps=self.steps)
        steps = train_steps(state, self.images, self.targets, self.settings, self.seed, shard=self.shard)
        with closing(steps):
            while state.step < last:
                self._losses.append(next(steps).loss)

    def checkpoint(self) -> Classifier:
        """A copy of the model, in eval mode."""
        model: Classifier = copy.deepcopy(self.training.model).eval()  # type: ignore[assignment]
        return model

    def report(self) -> dict[str, Any]:
        """Mean loss since the last report and the steps taken."""
        mean = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses = []
        return {"student_loss": mean, "student_steps": self.training.step}


def begin(handed: Handed, settings: FewShotSettings, device: str) -> Relearning:
    """A run, in one process."""
    return Relearning(handed, settings, device)


METHOD = Method(
    name="few_shot",
    summary="relearns from a generator's samples, relabelled where they are like a few given examples",
    source='Few-Shot Unlearning by Model Inversion, algorithm 4, "Ours"',
    data_access=frozenset({"weights", "few_examples"}),
    granularity=frozenset({"examples"}),
    section=FewShotSettings.section,
    begin=begin,
)

PRETRAINED = Method(
    name="few_shot_pretrained",
    summary="the same, by a generator that was trained on data",
    source='Few-Shot Unlearning by Model Inversion, section 4.2, "Ours+"',
    data_access=METHOD.data_access | {"pretrained_generator"},
    granularity=METHOD.granularity,
    section=FewShotSettings.section,
    begin=begin,
)
