"""Data with wrong labels made on purpose: who sees which labels, and what an audit makes of them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.auditing import auditor as auditor_module
from rayunlearn.auditing.audit import NO_GOLD, AuditInputs, audit
from rayunlearn.auditing.auditor import Auditor
from rayunlearn.auditing.labelled import mislabelled, mislabelled_by_task, open_data
from rayunlearn.auditing.training import TrainingJob, fit, training_job
from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.mislabelling import Mislabelled, Mislabelling
from rayunlearn.errors import BadInput
from rayunlearn.ledger.lineage import Version
from rayunlearn.lineages.requested import request_row
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.models.classifiers import Classifier
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import NOON, memory_store, original_job, same_bits, tiny_context, tiny_recipe

pytestmark = pytest.mark.learned

SEVENS = Mislabelling(of=7, to=(2, 3, 7), share=0.5)
RIGHT = DataSettings(train_per_class=20)
WRONG = replace(RIGHT, mislabelling=SEVENS)
SETTINGS = (
    "data.train_per_class=20", "data.mislabelling.of=7", "data.mislabelling.to=2,3,7",
    "data.mislabelling.share=0.5", "train.epochs=40", "train.batch_size=16",
)  # fmt: skip


def recipe_of(*more: str) -> Recipe:
    """200 training images, learned by heart, seven of them with a wrong label."""
    return tiny_recipe("digits", *SETTINGS, *more)


def job_of(**excluded: Any) -> TrainingJob:
    """The original, or a gold model without some samples."""
    gold = {"gold": 0} if excluded else {}
    return training_job(recipe_of(), original_job().spec, 0, **excluded, **gold)


@functools.cache
def fitted(*, without: tuple[int, ...] = ()) -> Classifier:
    """The original, or a gold model, trained once."""
    return fit(job_of(excluded_samples=without) if without else job_of())


def erased() -> Mislabelled:
    """D_e of the recipe's seed."""
    found = mislabelled(WRONG, job_of().split_seed)
    assert found is not None
    return found


def ids_of(found: Mislabelled) -> tuple[int, ...]:
    """As requests name them."""
    return tuple(found.changed_ids.tolist())


# Who sees which labels


def test_training_samples_get_wrong_labels_and_no_others() -> None:
    """Ten of twenty 7s are dealt to 2, 3 and 7: seven change. Test labels, images and split are the right
    data's, whose shared tensors nobody wrote into; the hash tells the two apart, and seeds from each other.
    """
    right, parts = open_data(RIGHT, 1)
    before = right.labels.clone()
    wrong, same_parts = open_data(WRONG, 1)
    changed = (wrong.labels != right.labels).nonzero().flatten()
    assert len(changed) == 7 and bool(torch.isin(changed, parts.train_ids).all())
    assert set(right.labels[changed].tolist()) == {7} and set(wrong.labels[changed].tolist()) == {2, 3}
    assert torch.equal(wrong.labels[parts.test_ids], right.labels[parts.test_ids])
    assert torch.equal(same_parts.train_ids, parts.train_ids)
    assert wrong.images is right.images
    assert right is load_dataset("digits") and torch.equal(right.labels, before)
    hashes = {right.hash, wrong.hash, open_data(WRONG, 2)[0].hash}
    assert len(hashes) == 3 and {len(h) for h in hashes} == {64}
    assert open_data(WRONG, 1)[0].hash == wrong.hash


def test_the_mislabelled_samples_and_their_right_labels() -> None:
    """Where `open_data` and the right data differ, ascending; nothing where nothing is mislabelled."""
    dataset, wrong = load_dataset("digits"), open_data(WRONG, 1)[0]
    found = mislabelled(WRONG, 1)
    assert found is not None
    assert torch.equal(found.changed_ids, (wrong.labels != dataset.labels).nonzero().flatten())
    assert torch.equal(found.right_labels, dataset.labels[found.changed_ids])
    assert torch.equal(found.labels, wrong.labels)
    assert mislabelled(RIGHT, 1) is mislabelled_by_task(RIGHT, 1) is None


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_they_are_known_from_another_process() -> None:
    """A task gives what this process finds."""
    here, there = mislabelled(WRONG, 1), mislabelled_by_task(WRONG, 1)
    assert here is not None and there is not None
    assert torch.equal(here.changed_ids, there.changed_ids)
    assert torch.equal(here.right_labels, there.right_labels)


def test_a_class_that_is_not_there_is_named() -> None:
    """Of a dataset of ten classes an eleventh cannot be mislabelled."""
    none = replace(RIGHT, mislabelling=Mislabelling(of=10, to=(2,)))
    with pytest.raises(BadInput, match="class of the mislabelling is 10; allowed: one of"):
        open_data(none, 1)


def test_a_request_for_the_mislabelled_samples() -> None:
    """They are handed over with the labels that they were trained with; the others to retain, the right 7s
    among them. Once forgotten, they never come again.
    """
    found = erased()
    seed, everything = job_of().split_seed, tuple(range(10))
    roles = Roles(retain=everything, target=(), target_samples=ids_of(found))
    both = grant(WRONG, seed, roles, ["forget", "retain"])
    assert both.forget is not None and both.retain is not None
    assert torch.equal(both.forget.ids, found.changed_ids)
    assert torch.equal(both.forget.labels, found.labels[found.changed_ids])
    assert len(both.retain.ids) == 200 - 7 and int((both.retain.labels == 7).sum()) == 20 - 7
    right = load_dataset("digits").labels
    assert torch.equal(both.retain.labels, right[both.retain.ids])
    later = Roles(retain=everything, target=(), forgotten_samples=ids_of(found))
    rest = grant(WRONG, seed, later, ["retain"]).retain
    assert rest is not None and torch.equal(rest.ids, both.retain.ids)


def test_the_original_learns_the_wrong_labels_and_gold_does_not() -> None:
    """Trained on the wrong labels it knows them by heart; without these samples a model is right on them.

    Over root seeds 6.8 +- 0.5 of the seven, either way.

    A gold model without them is, bit for bit, the one of the right data: no wrong label is left.
    """
    found = erased()
    images = load_dataset("digits").images[found.changed_ids]

    def answers(model: Classifier) -> Tensor:
        with torch.no_grad():
            return model.eval()(images).argmax(dim=1)

    original, gold = fitted(), fitted(without=ids_of(found))
    assert int((answers(original) == found.labels[found.changed_ids]).sum()) > 4
    assert int((answers(gold) == found.right_labels).sum()) > 4
    wrong = replace(job_of(excluded_samples=ids_of(found)), train=replace(job_of().train, epochs=1))
    right = replace(wrong, data=RIGHT)
    assert same_bits(dict(fit(wrong).state_dict()), dict(fit(right).state_dict()))


def test_keys_of_models_trained_on_wrong_labels() -> None:
    """Another mislabelling is another model; a job of right labels has the key that it always had."""
    job = job_of()
    share = replace(job, data=replace(job.data, mislabelling=replace(SEVENS, share=0.6)))
    right = replace(job, data=replace(job.data, mislabelling=None))
    assert len({job.key, share.key, right.key}) == 3
    stored = training_job(tiny_recipe("digits", SETTINGS[0], *SETTINGS[4:]), job.spec, 0)
    assert stored.key == right.key


# The audit


@functools.cache
def audited(roles: Roles, *measures: str, golds: bool = True) -> list[dict[str, Any]]:
    """The audit of a version that is gold's twin, of a lineage that began with the original."""
    ids = ids_of(erased())
    gold = dict(fitted(without=ids).state_dict())
    recipe = recipe_of()
    return audit(
        AuditInputs(
            spec=job_of().spec,
            roles=roles,
            original=dict(fitted().state_dict()),
            unlearned=gold,
            golds=[gold] if golds else [],
            data=recipe.data,
            split_seed=job_of().split_seed,
            settings=replace(recipe.audit, measures=measures),
            seed=3,
        )
    )


def figures(rows: list[dict[str, Any]], measure: str, **equals: Any) -> dict[str, tuple[float, int]]:
    """Subject -> sum and count of a measure's rows."""
    found = [r for r in rows if r["measure"] == measure and all(r[k] == v for k, v in equals.items())]
    assert len({r["subject"] for r in found}) == len(found)
    return {r["subject"]: (r["sum"], r["count"]) for r in found}


def test_the_audit_of_mislabelled_samples() -> None:
    """On D_e the original answers as it was taught, gold and its twin with the right labels; on D_r no image
    with a wrong label counts. What can be said of samples is said, as how far from gold the answers are.
    """
    found = erased()
    roles = Roles(retain=tuple(range(10)), target=(), target_samples=ids_of(found))
    rows = audited(roles, "accuracy", "distance", "entropy", "probe")
    on_right = figures(rows, "mislabelled_accuracy", split="train", classes=[])
    taught = figures(rows, "mislabelled_taught", split="train", classes=[])
    assert set(on_right) == set(taught) == {"original", "unlearned", "gold"}
    assert {count for _, count in (*on_right.values(), *taught.values())} == {7}
    assert taught["original"][0] > 4 and on_right["original"][0] < 3
    assert taught["gold"] == taught["unlearned"] and on_right["gold"] == on_right["unlearned"]
    assert taught["gold"][0] < 3 and on_right["gold"][0] > 4
    assert figures(rows, "forget_accuracy", classes=[]) == taught, "what was trained in, of what is to go"
    assert figures(rows, "retain_accuracy", split="train")["gold"] == (193, 193)
    assert figures(rows, "js_to_gold", classes=[])["unlearned"] == pytest.approx((0, 7), abs=1e-6)
    assert {row["dataset_hash"] for row in rows} == {open_data(WRONG, job_of().split_seed)[0].hash}
    (left_out,) = [row for row in rows if row["value"] is None]
    assert left_out["measure"] == "probe"


def test_the_mislabelled_are_measured_whatever_was_forgotten() -> None:
    """After a class of right labels went, D_e is no part of D_f: it is in D_r, and has its figures still."""
    roles = Roles(retain=tuple(range(1, 10)), target=(0,))
    rows = audited(roles, "accuracy")
    assert figures(rows, "mislabelled_taught")["original"][0] > 4
    counts = {count for _, count in figures(rows, "retain_accuracy", split="train").values()}
    assert counts == {180} and not figures(rows, "forget_accuracy", classes=[])


def test_the_audit_of_a_behaviour_that_nobody_knows_the_samples_of() -> None:
    """No gold model: retain accuracy of the original and the version; a row says why there is no more."""
    rows = audited(Roles(retain=tuple(range(10)), target=()), "accuracy", "distance", "probe", golds=False)
    assert set(figures(rows, "retain_accuracy", split="test")) == {"original", "unlearned"}
    reasons = {
        row["measure"]: json.loads(row["parameters"])["left_out"] for row in rows if row["value"] is None
    }
    assert reasons["gold"] == NO_GOLD and set(reasons) == {"gold", "distance", "probe"}
    assert "nobody knows them" in reasons["distance"] and "no class was forgotten" in reasons["probe"]


# The auditor


class Lineage:
    """A lineage in memory, its audits made in this process, and the gold models that they asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
        recipe = recipe_of("audit.golds=2", 'audit.measures=["accuracy","distance"]', *settings)
        self.store: Store = memory_store()
        self.context = tiny_context(self.store, recipe)
        self.scheduler = Scheduler(self.context, open_executor=InlineExecutor, placement="inline")
        self.jobs: list[TrainingJob] = []
        self.inputs: list[AuditInputs] = []
        self.head = self._publish(fitted(), ())
        here = SimpleNamespace(cluster_resources=lambda: {"CPU": 1})
        task = SimpleNamespace(remote=self._audit)
        for name, replaced in (
            ("ray", here), ("fetch", lambda answers: answers), ("audit_task", task),
            ("train_gold", self._train_gold), ("mislabelled_by_task", mislabelled),
        ):  # fmt: skip
            monkeypatch.setattr(auditor_module, name, replaced)
        monkeypatch.setattr(self.store, "local_path", lambda name: name)

    def serve(self, request: Request, bias: float, *, classes: tuple[int, ...] = ()) -> Version:
        """A version that serves a request: the original with another bias, since it has to be another."""
        model = fitted(without=ids_of(erased()))
        weights = {k: v + bias if k == "head.bias" else v for k, v in model.state_dict().items()}
        ledger = self.context.ledger
        ledger.append("requests", [request_row(request, event, NOON) for event in ("received", "served")])
        self.head = self.scheduler.publish(
            lineage="default", weights=weights, spec=job_of().spec, parent=self.head,
            request_ids=[request.request_id], classes_forgotten=classes, run=f"run-{request.request_id}",
        )  # fmt: skip
        return self.head

    def audit(self, *measures: str) -> list[dict[str, Any]]:
        """The audit of the newest version, by its name; no measure named: all that can be made."""
        return Auditor(self.context, threads=1).audit_version(self.head.version, measures or None).rows

    def _publish(self, model: Classifier, classes: tuple[int, ...]) -> Version:
        return self.scheduler.publish(
            lineage="default", weights=dict(model.state_dict()), spec=job_of().spec, parent=None,
            request_ids=[], classes_forgotten=classes, run=None,
        )  # fmt: skip

    def _audit(self, inputs: AuditInputs, threads: int) -> list[dict[str, Any]]:
        self.inputs.append(inputs)
        return audit(inputs)

    def _train_gold(self, jobs: list[TrainingJob], *given: Any, **more: Any) -> list[dict[str, Tensor]]:
        self.jobs += jobs
        return [dict(fitted(without=ids_of(erased())).state_dict()) for _ in jobs]


def by_examples(name: str, **more: Any) -> Request:
    """A request that takes the labels 2 and 3 from what is like its examples."""
    return Request(
        request_id=name, kind="examples", target=(2, 3), examples="sha256:0", received_at=NOON,
        data_access=("few_examples", "weights"), **more,
    )  # fmt: skip


def test_gold_models_of_a_request_by_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retrained without D_e, which is D_f; so is the gold of the class that is forgotten afterwards."""
    lineage, ids = Lineage(monkeypatch), ids_of(erased())
    lineage.serve(by_examples("a"), 1.0)
    rows = lineage.audit("accuracy", "entropy")
    assert [(job.excluded, job.excluded_samples) for job in lineage.jobs] == [((), ids)] * 2
    assert figures(rows, "mislabelled_taught")["original"][0] > 4
    assert set(figures(rows, "mislabelled_accuracy")) == {"original", "unlearned", "gold", "gold_2"}
    assert figures(rows, "retain_accuracy", split="train")["unlearned"][1] == 193
    roles = lineage.inputs[0].roles
    assert (roles.target, roles.target_samples, roles.forgotten_samples) == ((), ids, ())
    lineage.serve(Request(request_id="b", target=(0,), received_at=NOON), 2.0, classes=(0,))
    lineage.audit("accuracy")
    assert [(job.excluded, job.excluded_samples) for job in lineage.jobs[2:]] == [((0,), ids)] * 2
    roles = lineage.inputs[1].roles
    assert (roles.target, roles.target_samples, roles.forgotten_samples) == ((0,), (), ids)


def test_a_behaviour_of_unknown_samples_has_no_gold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is mislabelled no model is retrained; what can be measured is, and no more is allowed."""
    lineage = Lineage(monkeypatch, "data.mislabelling=none")
    lineage.serve(by_examples("a"), 1.0)
    rows = lineage.audit()
    assert lineage.jobs == [] and set(figures(rows, "retain_accuracy", split="test")) == {
        "original", "unlearned"
    }  # fmt: skip
    assert lineage.inputs[0].settings.measures == ("accuracy", "calibration")
    assert not any(row["measure"].startswith("mislabelled") for row in rows)
    named = Auditor(lineage.context, threads=1)
    with pytest.raises(BadInput, match=r"--measures is \['entropy'\]; allowed: accuracy, calibration for"):
        named.audit_version(lineage.head.version, ("accuracy", "entropy"))


def test_whole_classes_are_audited_as_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request by examples of whole classes leaves D_e alone, as does one that names a class."""
    for request in (
        by_examples("a", whole_classes=True), Request(request_id="a", target=(2, 3), received_at=NOON),
    ):  # fmt: skip
        lineage = Lineage(monkeypatch)
        lineage.serve(request, 1.0, classes=(2, 3))
        lineage.audit("accuracy")
        assert [(job.excluded, job.excluded_samples) for job in lineage.jobs] == [((2, 3), ())] * 2
        assert lineage.inputs[0].roles.target == (2, 3)


def test_a_run_without_synthetic_images_is_audited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """D' is not kept as synthetic sets: any file shows that a run is there; without one it is not audited."""
    lineage = Lineage(monkeypatch)
    version = lineage.serve(by_examples("a"), 1.0)
    stamp = {"run_id": version.run_id, "lineage": "default", "at": NOON}
    lineage.context.ledger.append(
        "runs",
        [
            stamp
            | {
                "request_ids": ["a"], "method": "few_shot", "placement": "inline", "event": "published",
                "parent_version": version.parent, "version": version.version, "config": "{}",
                "config_hash": "0", "seed": 0, "attempt": 1,
            }
        ],
    )  # fmt: skip
    lineage.context.ledger.append(
        "evaluations",
        [
            stamp
            | {
                "version": version.version, "subject": "unlearned", "dataset": "synthetic",
                "dataset_hash": "0", "split": "check", "classes": [], "measure": "chosen_step",
                "parameters": "{}", "step": 4, "seed": 0, "censored": False,
            }
        ],
    )  # fmt: skip
    auditor = Auditor(lineage.context, threads=1)
    auditor.audit()
    assert lineage.inputs == []
    RunFiles(lineage.store, str(version.run_id)).save("generator.pt", {"step": 1})
    for _ in range(2):
        auditor.audit()
    assert [inputs.unlearned.keys() for inputs in lineage.inputs] == [dict(fitted().state_dict()).keys()]
