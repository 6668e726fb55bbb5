"""What is measured of a model without data: what the gate measures, and the gate before it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.zoo.before import relapse_curve
from benchmarks.zoo.cache import Weights
from benchmarks.zoo.members import Workshop
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.synthetic import assess, mean_probe_recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier, version_model
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed
from rayunlearn.unlearning.judging import check_per_retain_class


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """What models are asked about a version; no method learned from any of these images.

    Attributes:
        check: plain inverted images of all classes.
        keeping: of the version, on coarse inverted images of the retain classes.
        stop: coarse inverted images of all classes.
        stop_keeping: of the version, on these.
        roles: of the request.
        seed: of draws.
    """

    check: SyntheticSet
    keeping: Keeping
    stop: SyntheticSet
    stop_keeping: Keeping
    roles: Roles
    seed: int


def questions(shop: Workshop, parent: Weights, roles: Roles) -> Questions:
    """The sets of a run, as the service makes them."""
    sizes, seed = shop.recipe.validation, derive_seed(shop.seed, "questions")
    version = version_model(shop.spec, parent)
    stop = shop.stop_set(parent, roles)
    return Questions(
        check=shop.inverted(
            parent, roles, "check", check_per_retain_class(shop.recipe), sizes.per_forget_class
        ),
        keeping=Keeping(version, shop.keep_set(parent, roles), roles, seed), stop=stop,
        stop_keeping=Keeping(version, stop, roles, seed), roles=roles, seed=seed,
    )  # fmt: skip


def measured(asked: Questions, model: Classifier, *, checkpoint: bool) -> dict[str, Any]:
    """What is measured of a model.

    Args:
        asked: about its version.
        model: any.
        checkpoint: it is one of a run; what the stopping rule sees of it is measured as well.

    Returns:
        assessment: counts on the plain images.
        probe: shares of images of the target and of the others that a probe of the features knows.
        kept: what it has kept of the version.
        relapse: of the gate before.
        stop: assessment and kept by the stop set, or None.
    """
    check, roles = asked.check, asked.roles
    stop = None
    if checkpoint:
        found = asdict(assess(model, asked.stop, roles))
        stop = {"assessment": found, "kept": asked.stop_keeping.measure(model)}
    return {
        "assessment": asdict(assess(model, check, roles)),
        "probe": list(mean_probe_recall(model, (check, asked.stop), roles, asked.seed)),
        "kept": asked.keeping.measure(model),
        "relapse": relapse_curve(model, check, roles),
        "stop": stop,
    }
