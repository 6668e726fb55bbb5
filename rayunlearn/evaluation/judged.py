"""What checkpoints and results are judged by, of whatever kind the request is."""

from __future__ import annotations

from rayunlearn.evaluation.behaviour import assess_behaviour
from rayunlearn.evaluation.synthetic import Assessment, assess
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles

Evidence = SyntheticSet | UnlearningSet
"""Images of classes; or, for a behaviour, samples of D' with what is to be answered to them."""


def judged(model: Classifier, evidence: Evidence, roles: Roles) -> Assessment:
    """`assess` or `assess_behaviour`, as the evidence is."""
    if isinstance(evidence, UnlearningSet):
        return assess_behaviour(model, evidence, roles)
    return assess(model, evidence, roles)
