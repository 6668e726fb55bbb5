"""Requests that name single samples, from the file to the audit.

The digits with some wrong labels, few enough to be learned by heart: no model that was not trained on such a
sample gives its label, so whether it is forgotten can be told from its one label.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rayunlearn.auditing import labelled
from rayunlearn.auditing.audit import AuditInputs, audit
from rayunlearn.auditing.auditor import Auditor
from rayunlearn.auditing.training import TrainingJob, fit, fit_logged, training_job
from rayunlearn.data.datasets import LabelledImages, load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version, versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.lineages.published import load_version
from rayunlearn.methods.registry import METHODS
from rayunlearn.methods.unlearning import TrainingLog
from rayunlearn.models.classifiers import Classifier, version_model
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.reports.summary import summarise
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request, parse_requests
from rayunlearn.serving.grants import Granted, check_samples, grant
from rayunlearn.serving.intake import Intake, take_in
from rayunlearn.serving.retention import retain_images
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.serving.training_logs import keep_log, load_log
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import (
    NOON,
    Recording,
    memory_store,
    original_job,
    rows,
    tiny_context,
    tiny_recipe,
)

OF_SAMPLES = [name for name, method in METHODS.items() if "samples" in method.granularity]
SETTINGS = (
    "data.train_per_class=20", "train.epochs=80", "train.weight_decay=0", "train.batch_size=16",
    "inversion.iterations=5",
    "amnesiac_relabel.epochs=10", "amnesiac_relabel.lr=0.003", "amnesiac_relabel.batch_size=32",
    "amnesiac_rollback.batch_size=32", "bad_teacher.epochs=5", "fisher.max_samples=20",
    "fine_tune.batch_size=16", "fine_tune.lr=0.05",
)  # fmt: skip


def recipe_of(method: str, *more: str) -> Recipe:
    """200 training images, learned by heart: with weight decay a hard one among them may not be."""
    return tiny_recipe("digits", f"method={method}", *SETTINGS, *more)


@functools.cache
def wrongly_labelled() -> tuple[LabelledImages, torch.Tensor]:
    """The digits with every fortieth label off by one, and the ids of these images."""
    dataset = load_dataset("digits")
    wrong = torch.arange(0, len(dataset.labels), 40)
    labels = dataset.labels.clone()
    labels[wrong] = (labels[wrong] + 1) % 10
    return replace(dataset, labels=labels), wrong


@pytest.fixture(scope="module", autouse=True)
def data() -> Iterator[LabelledImages]:
    """What every process of these tests finds for the digits."""
    with pytest.MonkeyPatch.context() as patch:
        dataset, _ = wrongly_labelled()
        patch.setattr(labelled, "load_dataset", lambda name, taken: dataset)
        yield dataset


@functools.cache
def original() -> tuple[TrainingJob, Classifier, TrainingLog]:
    """A model that knows the wrong labels by heart (0.994 to 0.998), and the log of its training."""
    job = training_job(recipe_of("retrain"), original_job().spec, 0)
    model, log = fit_logged(job)
    known = probability(model, wrong_ids())
    assert known > 0.9, f"the original does not know its wrong labels by heart: {known:.3f}"
    return job, model, log


def train_ids() -> torch.Tensor:
    """The training samples."""
    job = training_job(recipe_of("retrain"), original_job().spec, 0)
    return labelled.open_data(job.data, job.split_seed)[1].train_ids


def wrong_ids() -> tuple[int, ...]:
    """The training samples with a wrong label, three to six by the root seed's split."""
    _, wrong = wrongly_labelled()
    return tuple(wrong[torch.isin(wrong, train_ids())].tolist())


def scheduler_of(method: str, *more: str, grant: Any = grant, store: Store | None = None) -> Scheduler:
    """A scheduler whose lineage begins with the original and its log."""
    job, model, log = original()
    store = store or memory_store()
    scheduler = Scheduler(
        tiny_context(store, recipe_of(method, *more)), open_executor=InlineExecutor, placement="inline",
        grant=grant,
    )  # fmt: skip
    scheduler.publish(
        lineage="default", weights=dict(model.state_dict()), spec=job.spec, parent=None, request_ids=[],
        classes_forgotten=(), run=None,
    )  # fmt: skip
    if "training_log" in METHODS[method].data_access and not store.exists("logs/default.safetensors"):
        keep_log(store, "default", log)
    return scheduler


def asked(method: str, *target: int, kind: str = "samples", name: str = "r") -> Request:
    """A request that grants what the method declares."""
    access = METHODS[method].data_access | {"weights"}
    return Request(
        request_id=name, kind=kind, target=target, received_at=NOON, data_access=tuple(sorted(access))
    )


def head(scheduler: Scheduler) -> Version:
    """The newest version."""
    return versions(scheduler.reader, "default")[-1]


def probability(model: Classifier, ids: Collection[int]) -> float:
    """Mean probability that a model gives to the labels of these samples."""
    dataset, _ = wrongly_labelled()
    wanted = torch.tensor(sorted(ids))
    with torch.no_grad():
        answers = model.eval()(dataset.images[wanted]).softmax(dim=1)
    return float(answers[torch.arange(len(wanted)), dataset.labels[wanted]].mean())


@functools.cache
def served(method: str) -> tuple[Outcome, Scheduler]:
    """Four of the wrongly labelled samples, or as many as there are, forgotten."""
    scheduler = scheduler_of(method)
    return scheduler.serve(asked(method, *wrong_ids()[:4])), scheduler


LEFT_AT_MOST = {"retrain": 0.3, "eubo": 0.3, "amnesiac_relabel": 0.3}
"""Mean probability of the labels, at least 0.99 before, where a method takes all of it away."""


@pytest.mark.learned
@pytest.mark.parametrize("method", OF_SAMPLES)
def test_a_method_forgets_samples(method: str) -> None:
    """A version that has forgotten them, published by synthetic retain images alone; the reason says so.

    Mean and standard deviation over root seeds of what is left: retraining and EUBO 0.00, other labels 0.01
    +- 0.01; rollback 0.45 +- 0.22, Bad Teacher 0.55 +- 0.14 and RKL 0.67 +- 0.11 (once 0.86) are on the way.
    Noise (Fisher: 0.84 +- 0.24) tells these samples from no others. Fine-tuning leaves them known (0.99): a
    sample with next to no loss is not unlearned by learning the others again.
    """
    target = wrong_ids()[:4]
    outcome, scheduler = served(method)
    version = head(scheduler)
    assert (version.version, version.classes_forgotten) == (outcome.version, ())
    assert version.samples_forgotten == target
    store = scheduler.context.store
    (checkpoint,) = rows(store, "checkpoints")
    assert (checkpoint["forget_correct"], checkpoint["forget_count"]) == (0, 0)
    assert checkpoint["retain_count"] == 60 and checkpoint["forget_mass"] == 0
    evaluations = rows(store, "evaluations")
    assert {row["measure"] for row in evaluations} == {
        "chosen_step", "retain_accuracy", "parent_retain_accuracy", "predicted_d_r", "predicted_d_r_low",
        "predicted_d_r_high",
    }  # fmt: skip
    (chosen,) = [row for row in evaluations if row["measure"] == "chosen_step"]
    assert "synthetic images say nothing of single samples" in json.loads(chosen["parameters"])["reason"]
    (request,) = rows(store, "requests", event="served")
    assert (request["kind"], request["target"]) == ("samples", list(target))
    unlearned = version_model(original()[0].spec, load_version(store, version))
    before, after = probability(original()[1], target), probability(unlearned, target)
    assert after != before
    if method in LEFT_AT_MOST:
        assert after < LEFT_AT_MOST[method]


def test_rolling_back_drops_their_steps_from_the_log() -> None:
    """No step that is left took one of them, and those that took none are all left."""
    target = torch.tensor(wrong_ids()[:4])
    _, scheduler = served("amnesiac_rollback")
    left, before = load_log(scheduler.context.store, "default"), original()[2]
    clean = [batch for batch in before.sample_ids if not torch.isin(batch, target).any()]
    assert 0 < len(clean) < len(before.sample_ids)
    assert [b.tolist() for b in left.sample_ids] == [b.tolist() for b in clean]


def test_nothing_is_handed_over_twice() -> None:
    """Samples, then a class, then samples: each is handed over to be forgotten once, and never again."""
    handed: list[Granted] = []

    def watched(data: DataSettings, seed: int, roles: Roles, access: Collection[str]) -> Granted:
        handed.append(grant(data, seed, roles, access))
        return handed[-1]

    scheduler = scheduler_of("amnesiac_relabel", "amnesiac_relabel.epochs=1", grant=watched)
    dataset, ids = wrongly_labelled()[0], train_ids()
    of_class = [i for i in ids.tolist() if dataset.labels[i] == 2]
    others = [i for i in ids.tolist() if dataset.labels[i] != 2]
    first, second = (of_class[0], others[0]), (others[1], others[2])
    for request in (
        asked("amnesiac_relabel", *first, name="a"),
        asked("amnesiac_relabel", 2, kind="classes", name="b"),
        asked("amnesiac_relabel", *second, name="c"),
    ):
        assert scheduler.serve(request).version is not None
    chain = versions(scheduler.reader, "default")
    assert [(v.classes_forgotten, v.samples_forgotten) for v in chain] == [
        ((), ()), ((), tuple(sorted(first))), ((2,), tuple(sorted(first))),
        ((2,), tuple(sorted((*first, *second)))),
    ]  # fmt: skip
    gone: set[int] = set()
    for granted, expected in zip(handed, ({*first}, {*of_class[1:]}, {*second}), strict=True):
        assert granted.forget is not None and granted.retain is not None
        assert set(granted.forget.ids.tolist()) == expected
        gone |= expected
        assert set(granted.retain.ids.tolist()) == set(ids.tolist()) - gone
    (last,) = rows(scheduler.context.store, "checkpoints", run_id=chain[-1].run_id)
    assert len(last["forgotten_share"]) == 1, "the class is watched on while samples are forgotten"


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_a_run_killed_before_any_write_goes_on() -> None:
    """As for a class: from every third prefix of its writes the same version, each row once."""
    store = Recording()
    scheduler = scheduler_of("fisher", "fisher.max_samples=2", store=store)
    begun = len(store.before)
    request = asked("fisher", *wrong_ids()[:2])
    expected = scheduler.serve(request).version
    assert expected is not None and len(store.before) - begun > 30
    for name, files in store.before[begun::3]:
        again = memory_store(files)
        assert scheduler_of("fisher", "fisher.max_samples=2", store=again).serve(request).version == expected
        assert rows(again, "versions") == rows(store, "versions"), name
        assert rows(again, "checkpoints") == rows(store, "checkpoints"), name
        assert rows(again, "evaluations") == rows(store, "evaluations"), name


# Taking in


def taken_in(scheduler: Scheduler, text: str) -> tuple[Intake, dict[str, str]]:
    """A file's requests sorted, and the reasons of those that were rejected."""
    recipe = scheduler.context.recipe
    seed = original()[0].split_seed
    intake, recorded = take_in(
        scheduler.reader,
        parse_requests(text, "f"),
        method=recipe.method,
        num_classes=10,
        check_samples=lambda roles, head: check_samples(recipe.data, seed, roles),
        read_examples=lambda request: str(request.examples),
        config_hash=scheduler.config_hash,
        now=NOON,
    )
    scheduler.context.ledger.append("requests", recorded)
    rejected = rows(scheduler.context.store, "requests", event="rejected")
    assert all(row["kind"] in ("classes", "samples") for row in rejected)
    return intake, {row["request_id"]: row["reason"] for row in rejected}


def line(name: str, *target: int, kind: str = "samples") -> str:
    """A line of a requests file."""
    body = {"request_id": name, "kind": kind, "target": target, "data_access": ["retain", "weights"]}
    return json.dumps(body) + "\n"


def test_bad_ids_are_rejected_and_the_good_ones_served() -> None:
    """Each is recorded with its reason before anything runs; the requests beside it go on."""
    scheduler = scheduler_of("retrain", "train.epochs=1")
    dataset, ids = wrongly_labelled()[0], train_ids()
    of = {c: [i for i in ids.tolist() if dataset.labels[i] == c] for c in range(10)}
    held_out = next(i for i in range(len(dataset.labels)) if i not in set(ids.tolist()))
    intake, reasons = taken_in(
        scheduler,
        line("good", of[1][0], of[2][0])
        + line("beyond", of[1][1], 99999)
        + line("held-out", held_out)
        + line("again", of[1][0], of[1][1])
        + line("class", 4, kind="classes")
        + line("gone", of[4][0])
        + line("whole", *of[5])
        + line("late", of[1][1]),
    )
    assert [r.request_id for r in intake.pending] == ["good", "class", "late"]
    for name, said in (
        ("beyond", "request 'beyond': target sample is [99999]; allowed: indices into 'digits', 0 to 1796"),
        ("held-out", f"target sample is [{held_out}]; allowed: training samples of 'digits'"),
        ("again", f"target sample is [{of[1][0]}]; allowed: samples not forgotten already"),
        ("gone", f"target sample is [{of[4][0]}]; allowed: samples of classes not forgotten already"),
        ("whole", "allowed: a target that leaves a training sample of each class"),
    ):
        assert said in reasons.pop(name)
    assert reasons == {}
    for request in intake.pending:
        assert scheduler.serve(request).version is not None
    assert (head(scheduler).classes_forgotten, head(scheduler).samples_forgotten) == (
        (4,), tuple(sorted((of[1][0], of[1][1], of[2][0])))
    )  # fmt: skip
    intake, reasons = taken_in(scheduler, line("good", of[1][0], of[2][0]) + line("more", of[2][0]))
    assert [r.request_id for r in intake.done] == ["good"]
    assert "samples not forgotten already" in reasons["more"]


def test_a_method_without_granularity_says_who_has_it() -> None:
    """At intake, as a rejection, and by the scheduler itself, before anything is recorded."""
    scheduler = scheduler_of("unsir")
    text = line("r", 3)
    intake, reasons = taken_in(scheduler, text)
    assert intake.pending == ()
    able = ", ".join(OF_SAMPLES)
    allowed = f"classes, for 'unsir'; samples are forgotten by {able}"
    assert reasons["r"] == f"request 'r': kind is 'samples'; allowed: {allowed}"
    (request,) = parse_requests(text, "f")
    assert isinstance(request, Request)
    with pytest.raises(BadInput, match="samples are forgotten by amnesiac_relabel, "):
        scheduler.serve(request)
    assert rows(scheduler.context.store, "runs") == []


def test_ids_of_samples_are_no_classes_of_the_report() -> None:
    """The synthetic images shown are those of every retained class, whatever the samples' numbers."""
    scheduler = scheduler_of("fisher", "fisher.max_samples=2")
    small = tuple(i for i in train_ids().tolist() if i < 50)[:2]
    outcome = scheduler.serve(asked("fisher", *small))
    made = retain_images(scheduler.context.store, scheduler.reader, outcome.run_id)
    assert made is not None and made.labels.unique().tolist() == list(range(10))


# The audit

MADE = ("accuracy", "distance", "probe", "entropy")


@functools.cache
def audited(target: tuple[int, ...], roles: Roles, measures: tuple[str, ...]) -> list[dict[str, Any]]:
    """The audit of what retraining published, beside a gold model of its own."""
    job, model, _ = original()
    scheduler = served("retrain")[1]
    gold = replace(job, excluded=roles.forget, excluded_samples=target, seed=job.seed + 1)
    return audit(
        AuditInputs(
            spec=job.spec,
            roles=roles,
            original=dict(model.state_dict()),
            unlearned=load_version(scheduler.context.store, head(scheduler)),
            golds=[dict(fit(gold).state_dict())],
            checkpoints={480: dict(model.state_dict())},
            chosen=480,
            data=job.data,
            split_seed=job.split_seed,
            settings=replace(recipe_of("retrain").audit, measures=measures),
            seed=3,
        )
    )


@pytest.mark.learned
def test_the_audit_of_samples() -> None:
    """Accuracy on the samples and on D_r of original, unlearned and gold; retraining is where gold is.

    A measure that needs a class is left out with its reason; nothing is said of where to stop.
    """
    target = wrong_ids()[:4]
    roles = Roles(retain=tuple(range(10)), target=(), target_samples=target)
    found = audited(target, roles, MADE)
    (left_out,) = [row for row in found if row["value"] is None]
    assert left_out["measure"] == "probe"
    assert "forgotten class" in json.loads(left_out["parameters"])["left_out"]
    assert {row["subject"] for row in found} == {"original", "unlearned", "gold"}
    on_samples = {
        row["subject"]: row for row in found if row["measure"] == "forget_accuracy" and row["classes"] == []
    }
    assert {row["split"] for row in on_samples.values()} == {"train"}
    assert on_samples["original"]["sum"] == len(target)
    # one of three or four, once in twenty root seeds: a label may be what the image looks like
    assert max(on_samples[s]["sum"] for s in ("unlearned", "gold")) < len(target) - 1
    assert {row["count"] for row in on_samples.values()} == {len(target)}
    kept = [r for r in found if r["measure"] == "retain_accuracy" and r["split"] == "train"]
    assert {row["count"] for row in kept} == {len(train_ids()) - len(target)}
    js = {r["subject"]: r["value"] for r in found if r["measure"] == "js_to_gold" and r["classes"] == []}
    assert js["unlearned"] < js["original"]
    assert not any(row["measure"] == "regret" or row["subject"] == "checkpoint" for row in found)


@pytest.mark.learned
def test_the_audit_of_samples_after_a_class() -> None:
    """The class has all of its measures; a sample of it counts as its class's, and is shown there."""
    dataset, ids = wrongly_labelled()[0], train_ids()
    of_class = tuple(i for i in ids.tolist() if dataset.labels[i] == 2)
    target = tuple(i for i in wrong_ids() if dataset.labels[i] != 2)[:2]
    roles = Roles(
        retain=tuple(c for c in range(10) if c != 2), target=(), forgotten=(2,), target_samples=target,
        forgotten_samples=of_class[:1],
    )  # fmt: skip
    found = audited(roles.forget_samples, roles, ("accuracy", "probe"))
    counts = {
        (tuple(r["classes"]), r["split"]): r["count"] for r in found if r["measure"] == "forget_accuracy"
    }
    assert counts[(), "train"] == 2 and counts[(2,), "train"] == len(of_class)
    probed = {r["subject"] for r in found if r["measure"] == "probe_forget_recall"}
    assert {"mask_logit", "unlearned"} <= probed


def test_an_audit_by_name_refuses_what_needs_a_class() -> None:
    """Before anything is trained, with what can be measured of this version."""
    scheduler = served("retrain")[1]
    auditor = Auditor(scheduler.context, threads=1)
    with pytest.raises(BadInput, match=r"--measures is \['probe', 'inversion'\]; allowed: accuracy, dist"):
        auditor.audit_version(head(scheduler).version, ("accuracy", "probe", "inversion"))


@pytest.mark.learned
def test_what_became_of_the_request() -> None:
    """The summary of a ledger with such an audit shows it as D_f."""
    _, scheduler = served("retrain")
    store, target = scheduler.context.store, wrong_ids()[:4]
    version = head(scheduler)
    roles = Roles(retain=tuple(range(10)), target=(), target_samples=target)
    stamp = {"run_id": version.run_id, "lineage": "default", "at": NOON, "version": version.version}
    found = audited(target, roles, MADE)
    scheduler.context.ledger.append("audits", [{**row, **stamp} for row in found])
    (summary,) = summarise(LedgerReader(store, ALL_TABLES), ["r"])
    figure = summary.figure("unlearned", "forget_accuracy")
    assert figure is not None and (figure.sum, figure.count) == (0, len(target))
    assert summary.figure("original", "forget_accuracy").value == 1  # type: ignore[union-attr]
    assert set(summary.left_out) == {"probe"} and summary.forgotten_samples == target
