"""The gate at the default recipe's own settings, asked as a run asks it, about models of known merit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.auditing.training import fit
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.trivial import delete_head_row, gaussian_head, mask_logit
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import Classifier, build_classifier, version_model
from rayunlearn.recipes import load_recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.gate import GateMeasures, Verdict, judge
from rayunlearn.settings import override
from rayunlearn.unlearning.executor import InlineExecutor, Job, RunInputs
from rayunlearn.unlearning.judging import gate_jobs, gate_measures, synthesis_jobs
from rayunlearn.unlearning.work import probe, probe_stand_in
from tests.serving.tiny import original_job, stored_original

# Gate, relearning, inversion and the sizes of the sets are the recipe's; model and bank are small for speed.
pytestmark = pytest.mark.learned

SMALLER = ("model.width=0.125", "train.epochs=8", "gated_inversion.inverted_per_class=20")
RECIPE = override(load_recipe("digits"), SMALLER)
TARGET = 0
ROLES = Roles(retain=tuple(c for c in range(10) if c != TARGET), target=(TARGET,))
SEED = 5
Weights = dict[str, Tensor]


@functools.cache
def sets() -> dict[str, SyntheticSet]:
    """What a run synthesises from the original."""
    spec, weights = stored_original()
    jobs = synthesis_jobs(spec, weights, ROLES, RECIPE, SEED)
    return {name: function(*arguments) for name, (function, arguments) in jobs.items()}


def asked(candidate: Weights) -> list[Job]:
    """What a run's gate phase asks about a candidate."""
    spec, weights = stored_original()
    return gate_jobs(spec, candidate, weights, sets(), ROLES, RECIPE, SEED)


@functools.cache
def of_the_version() -> tuple[Any, list[Any]]:
    """The answers that no candidate changes: about the version itself and its stand-ins."""
    _, parent, _, _, *ends = asked(stored_original()[1])
    answer, *recalls = InlineExecutor().map([parent, *ends])
    return answer, recalls


def ask(candidate: Weights) -> tuple[Verdict, GateMeasures]:
    """The gate's verdict about a candidate, by the measures of a run's gate phase."""
    measure, _, keep, probe, *_ = asked(candidate)
    own, kept, recall = InlineExecutor().map([measure, keep, probe])
    parent, ends = of_the_version()
    measures = gate_measures([own, parent, kept, recall, *ends], ROLES, RECIPE)
    return judge(measures, RECIPE.gate), measures


def predicted(candidate: Weights) -> float:
    """The D_r that the gate predicts, as a share of the version's, without its bound at 1."""
    kept = ask(candidate)[1].kept
    assert kept is not None
    return RECIPE.gate.calibration.score(kept)


def reasons(candidate: Weights) -> str:
    """Why a candidate is refused; fails where it is not."""
    verdict, measures = ask(candidate)
    assert not verdict.passed, measures
    return "; ".join(verdict.reasons)


def transferred(settings: GKTSettings, cycles: int, inverted: Tensor) -> Weights:
    """The student after so many cycles from the original."""
    spec, weights = stored_original()
    executor = InlineExecutor()
    handed = Handed(
        spec=spec, weights=weights, roles=ROLES, seed=SEED,
        inverted=SyntheticSet(images=inverted, labels=torch.zeros(len(inverted)), requested=len(inverted)),
    )  # fmt: skip
    inputs = RunInputs(method="gated_inversion", settings=settings, handed=handed, stop_set=sets()["stop"])
    executor.begin(inputs)
    executor.advance(1, cycles)
    return executor.checkpoint()[1]


@functools.cache
def gold(seed: int = 0) -> Weights:
    """A model retrained without the class, from weights of its own."""
    job = original_job()
    return dict(fit(replace(job, excluded=(TARGET,), seed=job.seed + 1 + seed)).state_dict())


def test_the_gate_is_the_recipe_s() -> None:
    """What is tested below are the bounds that the default job applies."""
    recipe = load_recipe("digits")
    assert (RECIPE.gate, RECIPE.stand_ins) == (recipe.gate, recipe.stand_ins)
    assert (RECIPE.inversion, RECIPE.validation) == (recipe.inversion, recipe.validation)
    _, measures = ask(gold())
    assert measures.forget_count > 29


@pytest.mark.parametrize("seed", [0, 1])
def test_retrain_is_not_taken_for_hidden(seed: int) -> None:
    """A model retrained without the class has no forget image right, and features like a stand-in's.

    Whether it has kept enough is predicted by images made from another model: no other reason is given.
    """
    verdict, measures = ask(gold(seed))
    assert all(reason.startswith("predicted D_r is") for reason in verdict.reasons)
    assert measures.forget_correct == 0
    assert measures.recall is not None and measures.recall.forget < 0.6
    assert measures.kept is not None
    granted = replace(measures.kept, retain_data=True)
    assert RECIPE.gate.calibration.score(granted) > predicted(gold(seed)) + 0.05, "it learned from samples"


def test_a_finished_run_passes() -> None:
    """A student well into its run is accepted: the gate does not refuse what the method is to publish."""
    assert ask(finished())[0].passed, ask(finished())


@functools.cache
def finished() -> Weights:
    """A student after a short, whole schedule."""
    settings = replace(RECIPE.gated_inversion, cycles=30, schedule_cycles=30)
    return transferred(settings, 30, sets()["bank"].images)


def test_stand_ins_are_probed_with_images_that_they_did_not_learn_from() -> None:
    """Probes ask about two sets, plain and coarse; stand-ins learn from a third, which shares no image."""
    probes = {job for job, _ in asked(stored_original()[1])} & {probe, probe_stand_in}
    assert probes == {probe, probe_stand_in}
    for job, arguments in asked(stored_original()[1]):
        if job is probe:
            assert arguments[2] == (sets()["check"], sets()["stop"])
        if job is probe_stand_in:
            assert arguments[2] is sets()["keep"] and arguments[3] == (sets()["check"], sets()["stop"])
    learned = sets()["keep"].images.flatten(1)
    for name in ("check", "stop"):
        assert float(torch.cdist(learned, sets()[name].images.flatten(1)).min()) > 0


def test_the_unmodified_original_is_refused() -> None:
    """The original itself knows the class at once."""
    why = reasons(stored_original()[1])
    assert "forget accuracy is 100.00 %" in why and "still in the features" in why


def test_a_random_student_is_refused() -> None:
    """A student that was never taught knows neither the class nor anything else."""
    spec, _ = stored_original()
    for seed in range(3):
        assert "predicted D_r is" in reasons(dict(build_classifier(spec, seed).eval().state_dict()))


@pytest.mark.parametrize("cycles", [1, 2])
def test_a_checkpoint_taken_too_early_is_refused(cycles: int) -> None:
    """After a cycle or two the student has forgotten the class, and not learned the others."""
    assert "predicted D_r is" in reasons(transferred(RECIPE.gated_inversion, cycles, sets()["bank"].images))


def test_a_class_that_came_back_is_refused() -> None:
    """A student that the filter failed to protect (here: stopped nothing) knows the class again.

    It has kept the others, as a run of so few steps does: what refuses it are the synthetic forget images.
    """
    images = torch.cat([sets()["bank"].images, sets()["stop"].of(ROLES.target).images])
    short = replace(RECIPE.gated_inversion, cycles=30, schedule_cycles=30)
    leaking = replace(short, epsilon=1.0, targets="teacher", mixing="none")
    leaked = transferred(leaking, 30, images)
    assert "forget accuracy is" in reasons(leaked)
    assert predicted(leaked) > 0.85


def test_a_class_that_is_coming_back_is_refused() -> None:
    """A few forget images right are enough: a mixture of a clean and a leaked student that gets some."""
    _, weights = stored_original()
    clean, found = finished(), []
    for share in torch.linspace(0, 1, 21).tolist():
        mixed = {
            name: torch.lerp(clean[name], tensor, share) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        verdict, measures = ask(mixed)
        found.append((measures.forget_correct, verdict.passed))
    assert all(not passed for correct, passed in found if correct > 0)
    assert any(correct > 0 for correct, _ in found)


@pytest.mark.parametrize("offset", [20.0, 100.0])
def test_a_masked_logit_is_found_out(offset: float) -> None:
    """The original with its forget logit lowered: accuracy on the class 0, on the others as before.

    The features are those of the original, and that is the only reason given.
    """
    spec, weights = stored_original()
    masked = dict(mask_logit(version_model(spec, weights), [TARGET], offset=offset).state_dict())
    verdict, measures = ask(masked)
    assert measures.forget_correct == 0 and measures.retain_correct >= measures.parent_retain_correct
    assert verdict.outcome == "refused" and len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("the class is still in the features")


@pytest.mark.parametrize("hide", [delete_head_row, gaussian_head])
def test_a_head_that_was_cut_or_replaced_is_found_out(hide: Callable[..., Classifier]) -> None:
    """The probe of the untouched features tells."""
    spec, weights = stored_original()
    model = version_model(spec, weights)
    more = {"retain": list(ROLES.retain), "seed": 0} if hide is gaussian_head else {"classes": [TARGET]}
    verdict, measures = ask(dict(hide(model, **more).state_dict()))
    assert measures.forget_correct == 0
    assert measures.recall is not None and measures.scale is not None
    assert measures.recall.forget > 0.95 and measures.recall == measures.scale.version
    assert any(reason.startswith("the class is still in the features") for reason in verdict.reasons)
