"""What checkpoints and results are judged by, of whatever kind the request is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rayunlearn.evaluation.answers import answers
from rayunlearn.evaluation.behaviour import assess_behaviour
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.synthetic import Assessment, assess, assessed
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.roles import Roles

Evidence = SyntheticSet | UnlearningSet
"""Images of classes; or, for a behaviour, samples of D' with what is to be answered to them."""


def judged(model: Classifier, evidence: Evidence, roles: Roles) -> Assessment:
    """`assess` or `assess_behaviour`, as the evidence is."""
    if isinstance(evidence, UnlearningSet):
        return assess_behaviour(model, evidence, roles)
    return assess(model, evidence, roles)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grounds:
    """What a `Judge` judges by.

    Attributes:
        evidence: what models are asked.
        roles: of the request.
        spec: of the models.
        version: weights of the version that what models have kept is measured by; None where it is not.
        seed: of draws.
    """

    evidence: Evidence
    roles: Roles
    spec: ClassifierSpec
    version: dict[str, Tensor] | None
    seed: int


class Judge:
    """Judges one checkpoint after another; what a version answers is asked of it once.

    Raises:
        BadInput: as `Keeping` does.
    """

    def __init__(self, grounds: Grounds, device: str = "cpu") -> None:
        self.grounds, self.device = grounds, device
        self.keeping: Keeping | None = None
        if grounds.version is not None and isinstance(grounds.evidence, SyntheticSet):
            version = version_model(grounds.spec, grounds.version).to(device)
            self.keeping = Keeping(version, grounds.evidence, grounds.roles, grounds.seed)

    def judge_weights(
        self, weights: dict[str, Tensor]
    ) -> tuple[Assessment, dict[str, float] | None]:
        """`judge` of a model given by its weights."""
        return self.judge(version_model(self.grounds.spec, weights).to(self.device))

    def judge(self, model: Classifier) -> tuple[Assessment, dict[str, float] | None]:
        """Counts, and what it has kept by the names of `Kept`; None where that is not measured.

        Coarse images of the retain classes serve both, so the model is asked once.
        """
        evidence, roles = self.grounds.evidence, self.grounds.roles
        if self.keeping is None or isinstance(evidence, UnlearningSet):
            return judged(model, evidence, roles), None
        others = ~torch.isin(evidence.labels, torch.tensor(roles.retain))
        logits = answers(model, torch.cat([self.keeping.images, evidence.images[others]]))
        asked = len(self.keeping.images)
        own = torch.cat([logits[: asked // 2], logits[asked:]])
        labels = torch.cat([evidence.labels[~others], evidence.labels[others]])
        kept = self.keeping.measured(model, logits[:asked])
        return assessed(own, labels, roles), kept
