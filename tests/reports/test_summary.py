from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rayunlearn.errors import AccessDenied, BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES, SYNTHETIC_TABLES
from rayunlearn.reports.summary import Figure, RequestSummary, summarise
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import in_memory, row_of
from tests.reports import demo_ledger as demo


@pytest.fixture(scope="module")
def store() -> Store:
    """The demo's ledger, which no test appends to."""
    return demo.demo_store()


@pytest.fixture(scope="module")
def summaries(store: Store) -> dict[str, RequestSummary]:
    """Its summaries with everything granted."""
    found = summarise(LedgerReader(store, ALL_TABLES), demo.REQUEST_IDS)
    return {summary.request_id: summary for summary in found}


@pytest.fixture
def ledger_and_reader() -> tuple[Ledger, LedgerReader]:
    """An empty ledger and a reader of all of it."""
    store = in_memory()
    return Ledger(store), LedgerReader(store, ALL_TABLES)


def only(reader: LedgerReader, request_id: str = "r1") -> RequestSummary:
    """The summary of one request."""
    (summary,) = summarise(reader, [request_id])
    return summary


def test_a_summary_says_what_the_ledger_says(summaries: dict[str, RequestSummary]) -> None:
    """Status, run, versions, seconds and figures of a served request are those of its rows."""
    r2 = summaries["r2"]
    assert (r2.status, r2.reason, r2.run_id, r2.attempt) == ("served", None, "run-r2", 1)
    assert (r2.target, r2.forgotten) == ((2,), (0, 2))
    assert (r2.parent, r2.version) == (demo.digest("r1"), demo.digest("r2"))
    assert r2.path == f"models/default/{r2.version}.safetensors"
    assert r2.phase_seconds == {"synthesise": 21.4, "unlearn": 58.25, "gate": 1.5, "publish": 0.05}
    assert r2.seconds == pytest.approx(81.2)
    rows = demo.audit_rows("run-r2", (0, 2))
    for row in rows:
        figure = r2.figure(row["subject"], row["measure"])
        if len(row["classes"]) == 1:  # alone, beside the one over both
            figure = r2.forget_by_class[row["subject"]][row["classes"][0]]
        assert figure == Figure(
            value=row["value"], sum=row["sum"], count=row["count"], censored=row["censored"],
            parameters=json.loads(row["parameters"]), classes=tuple(row["classes"]),
        )  # fmt: skip
    assert len(rows) == 6 * 6 + 5 * 2


def test_summaries_come_in_the_order_asked_for(store: Store) -> None:
    """One summary for each id given, in that order."""
    found = summarise(LedgerReader(store), ["r3", "r5", "r1"])
    assert [summary.request_id for summary in found] == ["r3", "r5", "r1"]


def test_stops_and_curves(summaries: dict[str, RequestSummary]) -> None:
    """Chosen and oracle step, regret and both curves are those of the audit and the checkpoints."""
    r1 = summaries["r1"]
    assert (r1.chosen_step, r1.oracle_step) == (46, 52)
    assert r1.regret == 3 / 801
    assert {rule: stop.step for rule, stop in r1.stops.items()} == {"synthetic": 46, "last": 60, "fixed": 40}
    assert r1.stops["last"].forget_correct == 21
    assert list(r1.synthetic) == list(r1.real) == list(range(2, 61, 2))
    assert r1.synthetic[56].retain == round(180 * demo.synthetic_at(56)[0]) / 180
    assert r1.synthetic[56].forget == round(60 * demo.synthetic_at(56)[1]) / 60
    assert r1.synthetic[56].pass_rate == 0.8
    assert r1.real[56].retain == round(801 * demo.real_at(56)[0]) / 801
    assert r1.real[56].forget == round(89 * demo.real_at(56)[1]) / 89
    assert r1.relapse == {0: 0.0, 1: 0.05, 2: 0.1, 3: 0.15}
    assert r1.synthetic_check["retain_accuracy"].counts == "171/180"


def test_checkpoints_are_no_subject_of_their_own(summaries: dict[str, RequestSummary]) -> None:
    """Rows of the trajectory do not pass for figures of a model."""
    assert summaries["r1"].figures.keys() == {
        "original", "unlearned", "gold", "mask_logit", "delete_head_row", "gaussian_head",
    }  # fmt: skip


def test_without_the_audits_only_synthetic_figures_are_there(store: Store) -> None:
    """A reader that was not granted audits gives the same summary without any figure on real data."""
    reader = LedgerReader(store, SYNTHETIC_TABLES)
    summary = only(reader)
    assert (summary.figures, summary.real, summary.stops) == ({}, {}, {})
    assert summary.chosen_step is summary.oracle_step is summary.regret is None
    assert summary.status == "served" and summary.synthetic and summary.synthetic_check
    with pytest.raises(AccessDenied):
        reader.read("audits")


def test_failed_and_rejected_requests_have_a_reason(summaries: dict[str, RequestSummary]) -> None:
    """A failed request keeps its run and curve; a rejected one has nothing but its reason."""
    failed, rejected = summaries["r4"], summaries["r5"]
    assert (failed.status, failed.reason, failed.version) == ("failed", demo.FAILED, None)
    assert failed.run_id == "run-r4" and failed.synthetic and failed.forgotten == (7,)
    assert rejected == RequestSummary(
        request_id="r5", lineage=None, target=(), status="rejected", reason=demo.REJECTED
    )


def test_the_latest_attempt_counts(ledger_and_reader: tuple[Ledger, LedgerReader]) -> None:
    """Of two attempts the higher number counts, whichever was recorded last."""
    ledger, reader = ledger_and_reader
    ledger.append("requests", [demo.request_row("r1", "received")])
    second = demo.run_row("r1", "second", "phase", phase="unlearn", seconds=2.0, attempt=2)
    first = demo.run_row("r1", "first", "phase", phase="unlearn", seconds=7.0, attempt=1)
    other = demo.run_row("r2", "other", "phase", phase="unlearn", seconds=9.0, attempt=3)
    ledger.append("runs", [second, first, other])
    ledger.append("audits", [demo.share("first", "gold", "retain_accuracy", (1,), 0.1)])
    ledger.append("audits", [demo.share("second", "gold", "retain_accuracy", (1,), 1.0)])
    summary = only(reader)
    assert (summary.run_id, summary.attempt, summary.seconds) == ("second", 2, 2.0)
    gold = summary.figure("gold", "retain_accuracy")
    assert gold is not None and gold.value == 1.0


def test_of_repeated_rows_the_last_wins(ledger_and_reader: tuple[Ledger, LedgerReader]) -> None:
    """A crash that records a checkpoint or an audit twice leaves the later figure."""
    ledger, reader = ledger_and_reader
    ledger.append("requests", [demo.request_row("r1", "received")])
    ledger.append("runs", [demo.run_row("r1", "run", "started")])
    for correct in (1, 4):
        ledger.append(
            "checkpoints",
            [row_of("checkpoints", run_id="run", step=2, retain_correct=correct, retain_count=8)],
        )
        value = correct / 8
        ledger.append(
            "audits",
            [
                demo.measure("run", "gold", "retain_accuracy", (1,), value=value),
                demo.measure("run", "checkpoint", "retain_accuracy", (1,), value=value, step=2),
                demo.measure("run", "checkpoint", "forget_accuracy", (0,), value=value, step=2),
            ],
        )
    summary = only(reader)
    gold = summary.figure("gold", "retain_accuracy")
    assert gold is not None
    assert [gold.value, summary.synthetic[2].retain, summary.real[2].retain] == [0.5, 0.5, 0.5]


def test_passes_of_a_resumed_phase_are_added(ledger_and_reader: tuple[Ledger, LedgerReader]) -> None:
    """A run that went on records a phase for each pass; the seconds of all were spent."""
    ledger, reader = ledger_and_reader
    ledger.append("requests", [demo.request_row("r1", "received")])
    ledger.append(
        "runs",
        [
            demo.run_row("r1", "run", "phase", phase="synthesise", seconds=20.0),
            demo.run_row("r1", "run", "resumed"),
            demo.run_row("r1", "run", "phase", phase="synthesise", seconds=0.5),
            demo.run_row("r1", "run", "phase", phase="unlearn", seconds=4.0),
        ],
    )
    summary = only(reader)
    assert summary.phase_seconds == {"synthesise": 20.5, "unlearn": 4.0}
    assert summary.seconds == 24.5


def test_a_rejected_line_does_not_touch_the_request_whose_id_it_took(
    ledger_and_reader: tuple[Ledger, LedgerReader],
) -> None:
    """A duplicate id is rejected under that id; the request that has it stays as it is."""
    ledger, reader = ledger_and_reader
    ledger.append("requests", [demo.request_row("r1", "received"), demo.request_row("r1", "served")])
    ledger.append("requests", [demo.request_row("r1", "rejected", reason="duplicate request id")])
    summary = only(reader)
    assert (summary.status, summary.reason) == ("served", None)


def test_a_duplicate_id_is_shown_beside_the_request_that_has_it(
    ledger_and_reader: tuple[Ledger, LedgerReader],
) -> None:
    """An id asked for as often as it stood in the file gives the request, then its rejected lines."""
    ledger, reader = ledger_and_reader
    lines = [("received", None), ("rejected", "old"), ("rejected", "line 2"), ("rejected", "line 4")]
    ledger.append("requests", [demo.request_row("r1", event, reason=why) for event, why in lines])
    ledger.append("runs", [demo.run_row("r1", "run", "started")])
    found = summarise(reader, ["r1", "r1", "r1"])
    assert [(s.status, s.reason, s.run_id) for s in found] == [
        ("received", None, "run"), ("rejected", "line 2", None), ("rejected", "line 4", None),
    ]  # fmt: skip
    assert [s.reason for s in summarise(reader, ["r1"])] == [None]
    ledger.append("requests", [demo.request_row("r2", "rejected", reason=why) for why in ("a", "b")])
    assert [s.reason for s in summarise(reader, ["r2"])] == ["b"]
    assert [s.reason for s in summarise(reader, ["r2", "r2"])] == ["a", "b"]
    assert [s.reason for s in summarise(reader, ["r2"] * 3)] == ["a", "b", "b"]


def test_an_unknown_request_is_named(store: Store) -> None:
    """An id without an event is bad input that names the nearest ids."""
    with pytest.raises(BadInput, match=r"request id is 'r9'.*'r1'"):
        summarise(LedgerReader(store), ["r9"])


def test_a_class_that_came_back(summaries: dict[str, RequestSummary]) -> None:
    """Class 0, forgotten before, beyond gold's 1 %; the target's own 5 % is no return, nor is gold's 1 %."""
    r2 = summaries["r2"]
    assert (r2.target, r2.forgotten, r2.returned) == ((2,), (0, 2), {})
    for share, back in ((0.2, {0: 0.2}), (0.01, {})):
        by_class = {
            "unlearned": {0: Figure(value=share), 2: Figure(value=0.05)},
            "gold": {0: Figure(value=0.01), 2: Figure(value=0.0)},
        }
        assert replace(r2, forget_by_class=by_class).returned == back


def test_a_request_that_names_samples(ledger_and_reader: tuple[Ledger, LedgerReader]) -> None:
    """Its D_f are the samples: rows that name no class. A class forgotten before is told by class alone.

    What the audit left out is there with its reason, and no figure stands for it.
    """
    ledger, reader = ledger_and_reader
    asked = {"kind": "samples", "target": [17, 254]}
    ledger.append("requests", [demo.request_row("s", "received") | asked])
    waiting = only(reader, "s")
    assert (waiting.target_classes, waiting.forgotten, waiting.forgotten_samples) == ((), (), (17, 254))
    ledger.append("runs", [demo.run_row("s", "run", "published", version="v")])
    ledger.append("requests", [demo.request_row("s", "served", run_id="run") | asked])
    ledger.append(
        "versions",
        [
            row_of(
                "versions", version="v", run_id="run", classes_forgotten=[0], samples_forgotten=[9, 17, 254]
            )
        ],
    )
    checkpoint = row_of("checkpoints", run_id="run", step=9, forget_correct=0, forget_count=0)
    ledger.append("checkpoints", [checkpoint])
    told = json.dumps({"left_out": "it needs a class"})
    ledger.append(
        "audits",
        [
            demo.share("run", "unlearned", "retain_accuracy", tuple(range(1, 10)), 0.9),
            demo.share("run", "unlearned", "forget_accuracy", (0,), 0.1, split="test"),
            demo.share("run", "unlearned", "probe_forget_recall", (0,), 0.7, split="test"),
            demo.measure("run", "unlearned", "forget_accuracy", (), sum=2.0, count=3, split="train"),
            demo.measure("run", "unlearned", "anamnesis", (), parameters=told),
        ],
    )
    served = only(reader, "s")
    figures = {name: figure.counts for name, figure in served.figures["unlearned"].items()}
    assert figures == {"retain_accuracy": "721/801", "forget_accuracy": "2/3"}
    assert served.left_out == {"anamnesis": "it needs a class"}
    assert served.before == ((0,), (9,)) and served.returned == {0: 9 / 89}


def test_requests_by_examples() -> None:
    """Threshold, curve and what each class gave are those of the rows, and no figures of the gate's check.

    A label that is erased is no class that is forgotten, unless the request says so.
    """
    labels, whole = summarise(LedgerReader(demo.examples_store(), ALL_TABLES), ["labels", "whole"])
    assert (labels.target_classes, labels.forgotten, labels.before) == ((), (), ((), ()))
    assert (whole.target_classes, whole.forgotten, whole.before) == ((9,), (9,), ((), ()))
    assert labels.threshold is not None and whole.threshold is not None
    assert (labels.threshold.by, labels.threshold.reason) == ("midrange", demo.NO_KNEE)
    assert (whole.threshold.by, whole.threshold.reason, whole.threshold.value) == ("knee", "", 1.4)
    assert (whole.threshold.selected, whole.threshold.samples) == (74, 390)
    assert whole.threshold.curve == demo.CURVE
    assert [given.label for given in labels.yields] == list(range(10))
    assert labels.yields[7].predicted == {2: 9, 3: 4, 7: 27}
    assert [given.label for given in labels.yields if given.short] == [8]
    assert set(labels.synthetic_check) == {"retain_accuracy", "forget_accuracy"}
    assert labels.chosen_step == 12
    # D_f: the mislabelled samples, and the class
    figures = {name: figure.counts for name, figure in labels.figures["unlearned"].items()}
    assert figures == {
        "retain_accuracy": "865/890", "forget_accuracy": "9/100",
        "mislabelled_accuracy": "84/100", "mislabelled_taught": "9/100",
    }  # fmt: skip
    forget = whole.figure("original", "forget_accuracy")
    assert forget is not None and (forget.classes, forget.counts) == ((9,), "88/89")


def test_an_open_request_by_examples_forgets_what_it_names(
    ledger_and_reader: tuple[Ledger, LedgerReader],
) -> None:
    """Before it is served its classes, if it names some, are all that is known; nothing was filtered yet."""
    ledger, reader = ledger_and_reader
    for name, whole in (("a", True), ("b", False)):
        told = {"kind": "examples", "target": [3], "examples": "sha256:0", "whole_classes": whole}
        ledger.append("requests", [demo.request_row(name, "received", **told)])
    whole_class, label = only(reader, "a"), only(reader, "b")
    assert (whole_class.forgotten, label.forgotten) == ((3,), ())
    assert label.forgotten_samples == () and label.threshold is None and label.yields == ()


def test_mislabelled_samples_are_told_whatever_is_named(
    ledger_and_reader: tuple[Ledger, LedgerReader],
) -> None:
    """A request that names a class shows them too; its D_f stays that class, not the samples of others."""
    ledger, reader = ledger_and_reader
    ledger.append("requests", [demo.request_row("r1", "received")])
    ledger.append("runs", [demo.run_row("r1", "run", "started")])
    class_rows = [demo.share("run", "unlearned", "forget_accuracy", (0,), 0.0)]
    ledger.append("audits", class_rows + demo.behaviour_audit_rows("run"))
    summary = only(reader)
    forget, right = (summary.figure("unlearned", m) for m in ("forget_accuracy", "mislabelled_accuracy"))
    assert forget is not None and forget.classes == (0,)
    assert right is not None and right.counts == "84/100"


def test_the_best_baseline(summaries: dict[str, RequestSummary]) -> None:
    """AIN is compared by its ratio to 1, a bound as what it is, other measures by distance to gold's."""
    assert summaries["r1"].best_baseline("anamnesis_index") == "gaussian_head"
    assert summaries["r1"].best_baseline("retain_accuracy") == "mask_logit"
    assert summaries["r5"].best_baseline("anamnesis_index") is None
    # 3 is three times 1, 0.2 a fifth of it: 3 is nearer, though not by difference
    figures = {
        "mask_logit": {"anamnesis_index": Figure(value=0.2)},
        "delete_head_row": {"anamnesis_index": Figure(value=3.0)},
        "gaussian_head": {"anamnesis_index": Figure(value=0.0)},
    }
    summary = RequestSummary(request_id="r", lineage=None, target=(), status="served", figures=figures)
    assert summary.best_baseline("anamnesis_index") == "delete_head_row"
    bounds = {
        subject: {"anamnesis_index": Figure(value=None, censored=True, parameters={"upper_bound": bound})}
        for subject, bound in (("mask_logit", 0.05), ("delete_head_row", 0.2), ("gaussian_head", None))
    }
    assert replace(summary, figures=bounds).best_baseline("anamnesis_index") == "delete_head_row"
