"""What became of each request: a view of the ledger's tables, computed and never stored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayunlearn.errors import BadInput, nearest
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import runs_of
from rayunlearn.reports.approximated import ClassYield, Threshold, threshold_of, yield_of

BASELINES = ("mask_logit", "delete_head_row", "gaussian_head")
"""Subjects that a method has to beat: each gets D_f to 0 without forgetting anything."""

_Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured figure.

    Attributes:
        value: the figure; None where the measurement gave none.
        sum, count: what it was divided from, where it is a share.
        censored: the measurement was cut off.
        parameters: of the measurement.
        classes: that it was made on.
    """

    value: float | None
    sum: float | None = None
    count: int | None = None
    censored: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] = ()

    @property
    def counts(self) -> str:
        """Sum and count as a fraction; empty where there are none.

        >>> Figure(value=0.5, sum=4.0, count=8).counts
        '4/8'
        """
        return "" if self.sum is None or self.count is None else f"{self.sum:.0f}/{self.count}"

    @property
    def upper_bound(self) -> float | None:
        """What the figure is below, where that is all that is known of it."""
        bound: float | None = self.parameters.get("upper_bound")
        return bound


@dataclass(frozen=True, kw_only=True)
class SyntheticPoint:
    """A checkpoint on the synthetic set for stopping; accuracies are shares."""

    retain: float
    forget: float
    pass_rate: float | None
    forget_mass: float


@dataclass(frozen=True, kw_only=True)
class RealPoint:
    """A checkpoint on real test data, by the audit; accuracies are shares."""

    retain: float
    forget: float


@dataclass(frozen=True, kw_only=True)
class ChosenStop:
    """Where a stopping rule stopped, against the checkpoint that real data would have picked.

    Attributes:
        step: the cycle.
        regret: retain accuracy of the oracle's checkpoint less this one's; no value without an oracle.
        forget_correct: real images of forgotten classes that this checkpoint gets right.
    """

    step: int
    regret: Figure
    forget_correct: int


@dataclass(frozen=True, kw_only=True)
class RequestSummary:
    """What became of a request, from its latest attempt.

    Attributes:
        request_id, lineage: of the request; the lineage is None where a rejected line had none.
        target: ids of what is to be forgotten; empty where a rejected line had none.
        kind: what these are: classes; single samples; or, beside examples, labels to erase.
        whole_classes: of kind "examples": the labels to erase are classes to forget.
        forgotten: every class forgotten once the request is served; the target's alone until it is.
        forgotten_samples: every single sample, likewise.
        status: received, rejected, planned, served or failed.
        reason: why it was rejected or failed.
        run_id, attempt: of the latest run; None before one was planned.
        parent, version, path: the version it started from, the one it published, and where that lies.
        chosen_step: cycle that the stopping rule picked; None before it did.
        oracle_step: cycle that real data would have picked.
        regret: of the chosen step; see `ChosenStop`.
        stops: rule (synthetic, last, fixed) -> where it stopped.
        phase_seconds: phase -> seconds, in the order of the phases; passes of a resumed run are added up.
        seconds: sum over the phases; None before the first was over.
        figures: subject -> measure -> figure on real data; over all forgotten classes where by class, over
            the forgotten samples where the request names some.
        left_out: measure -> why the audit did not make it.
        forget_by_class: subject -> class -> accuracy on that forgotten class.
        synthetic_check: measure -> figure of the candidate on the gate's synthetic set.
        threshold: of kind "examples": what counted as like them; None before it was found.
        yields: likewise: what each class gave to D'.
        kept_layers: first layers that keep the parent's weights, as the judge chose, and how many there are;
            None where it chose none.
        relapse: steps of synthetic relearning -> accuracy on the class to forget, as the gate saw it.
        synthetic: cycle -> checkpoint on the synthetic set for stopping.
        real: cycle -> the same checkpoint on real data, where audited.
    """

    request_id: str
    lineage: str | None
    target: tuple[int, ...]
    status: str
    kind: str = "classes"
    whole_classes: bool = False
    forgotten: tuple[int, ...] = ()
    forgotten_samples: tuple[int, ...] = ()
    reason: str | None = None
    run_id: str | None = None
    attempt: int | None = None
    parent: str | None = None
    version: str | None = None
    path: str | None = None
    chosen_step: int | None = None
    oracle_step: int | None = None
    regret: float | None = None
    stops: Mapping[str, ChosenStop] = field(default_factory=dict)
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    figures: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    forget_by_class: Mapping[str, Mapping[int, Figure]] = field(default_factory=dict)
    synthetic_check: Mapping[str, Figure] = field(default_factory=dict)
    threshold: Threshold | None = None
    yields: tuple[ClassYield, ...] = ()
    kept_layers: tuple[int, int] | None = None
    relapse: Mapping[int, float] = field(default_factory=dict)
    synthetic: Mapping[int, SyntheticPoint] = field(default_factory=dict)
    real: Mapping[int, RealPoint] = field(default_factory=dict)

    def figure(self, subject: str, measure: str) -> Figure | None:
        """A figure on real data, or None where it was not measured."""
        return self.figures.get(subject, {}).get(measure)

    @property
    def target_classes(self) -> tuple[int, ...]:
        """The classes to forget; none where single samples are named, or labels whose classes stay."""
        return self.target if self.kind == "classes" or self.whole_classes else ()

    @property
    def before(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Classes and single samples that earlier requests had forgotten."""
        samples = self.target if self.kind == "samples" else ()
        return (
            tuple(sorted({*self.forgotten} - {*self.target_classes})),
            tuple(sorted({*self.forgotten_samples} - {*samples})),
        )

    @property
    def returned(self) -> dict[int, float]:
        """Classes that an earlier request had forgotten and this result recognises again: accuracy by class.

        More than the gold model does; forgetting may reverse when a later request is served.
        """
        own, gold = (self.forget_by_class.get(subject, {}) for subject in ("unlearned", "gold"))
        found = {}
        for c in self.before[0]:
            value = own[c].value if c in own else None
            least = gold[c].value if c in gold else 0.0
            if value is not None and value > (least or 0.0):
                found[c] = value
        return found

    def best_baseline(self, measure: str) -> str | None:
        """The baseline that does best: for `anamnesis_index` nearest to 1, else nearest to gold's figure.

        Indices are compared by their logarithm, a half and a double being equally far from 1; one of which
        a bound alone is known counts as that. None where nothing can be compared.
        """
        gold = self.figure("gold", measure)
        distances: dict[str, float] = {}
        for subject in BASELINES:
            figure = self.figure(subject, measure)
            if figure is None:
                continue
            value = figure.upper_bound if figure.value is None else figure.value
            if value is None:
                continue
            if measure == "anamnesis_index":
                distances[subject] = abs(math.log(value)) if value > 0 else math.inf
            elif gold is not None and gold.value is not None:
                distances[subject] = abs(value - gold.value)
        return min(distances, key=distances.__getitem__, default=None)


def summarise(reader: LedgerReader, request_ids: Sequence[str]) -> list[RequestSummary]:
    """What became of these requests, in this order.

    A rejected line may carry the id of an accepted request, which it does not touch. An id that is given
    more than once stands for the accepted request first and then for its rejected lines, the latest ones.

    Tables that the reader was not granted count as empty, so a reader without `audits` gives no figures
    on real data. Of rows that repeat (a run that crashed and went on), the last counts.

    Raises:
        BadInput: the ledger has no event of a request.
        AccessDenied: the reader may not read `requests`.
    """
    events = _grouped(reader.read("requests", request_id=set(request_ids)).to_pylist(), "request_id")
    ids = runs_of(reader, set(request_ids))
    runs = _by_request(_rows(reader, "runs", ids))
    checkpoints, evaluations, audits, versions = (
        _grouped(_rows(reader, table, ids), "run_id")
        for table in ("checkpoints", "evaluations", "audits", "versions")
    )
    summaries = []
    histories: dict[str, Iterator[list[_Row]]] = {}
    for request_id in request_ids:
        if request_id not in events:
            known = reader.read("requests", columns=["request_id"]).column("request_id").to_pylist()
            allowed = nearest(request_id, sorted(set(known))) or "none, the ledger has no requests"
            raise BadInput("request id", request_id, allowed, where="summary of the ledger")
        if request_id not in histories:
            histories[request_id] = iter(_histories(events[request_id], [*request_ids].count(request_id)))
        fields = _of_request(next(histories[request_id]))
        target_classes = fields["forgotten"]  # before those of earlier requests come in
        if fields["status"] != "rejected":
            fields |= _of_run(runs.get(request_id, []))
        run_id = fields.get("run_id")
        fields |= _of_version(versions.get(run_id, []))
        fields |= {
            **_of_audits(audits.get(run_id, []), fields["forgotten"], named=bool(target_classes)),
            "synthetic": _synthetic_curve(checkpoints.get(run_id, [])),
            **_of_evaluations(evaluations.get(run_id, [])),
        }
        summaries.append(RequestSummary(request_id=request_id, **fields))
    return summaries


def _rows(reader: LedgerReader, table: str, runs: set[str]) -> list[_Row]:
    """The rows of these runs; none of a table that was not granted."""
    return reader.read(table, run_id=runs).to_pylist() if table in reader.tables else []


def _grouped(rows: Sequence[_Row], column: str) -> dict[Any, list[_Row]]:
    """Rows by the value of a column; rows without one belong to nothing."""
    groups: dict[Any, list[_Row]] = {}
    for row in rows:
        if row[column] is not None:
            groups.setdefault(row[column], []).append(row)
    return groups


def _by_request(runs: Sequence[_Row]) -> dict[str, list[_Row]]:
    groups: dict[str, list[_Row]] = {}
    for row in runs:
        for request_id in row["request_ids"]:
            groups.setdefault(request_id, []).append(row)
    return groups


def _histories(events: Sequence[_Row], asked: int) -> list[list[_Row]]:
    """The events of an id as so many histories: of the accepted request, then of each rejected line."""
    accepted = [row for row in events if row["event"] != "rejected"]
    rejected = {row["reason"]: [row] for row in events if row["event"] == "rejected"}
    first = [accepted] if accepted else []
    lines = list(rejected.values())[-(asked - len(first)) :] if asked > len(first) else []
    found = first + lines
    return found + found[-1:] * (asked - len(found))


def _of_request(events: Sequence[_Row]) -> dict[str, Any]:
    last = events[-1]
    target, kind = tuple(last["target"] or ()), last["kind"] or "classes"
    whole = bool(last["whole_classes"])
    return {
        "lineage": last["lineage"],
        "target": target,
        "kind": kind,
        "whole_classes": whole,
        "forgotten": target if kind == "classes" or whole else (),
        "forgotten_samples": target if kind == "samples" else (),
        "status": last["event"],
        "reason": last["reason"],
        "run_id": last["run_id"],
    }


def _of_run(rows: Sequence[_Row]) -> dict[str, Any]:
    """The latest attempt: that of the highest number, and of equals the one recorded last."""
    if not rows:
        return {}
    _, latest = max(enumerate(rows), key=lambda item: (item[1]["attempt"], item[0]))
    phases: dict[str, float] = {}
    found: dict[str, Any] = {}
    for row in rows:
        if row["run_id"] != latest["run_id"]:
            continue
        if row["event"] == "phase" and row["seconds"] is not None:
            phases[row["phase"]] = phases.get(row["phase"], 0.0) + row["seconds"]
        if row["event"] == "published":
            found["version"] = row["version"]
    return found | {
        "run_id": latest["run_id"],
        "attempt": latest["attempt"],
        "parent": latest["parent_version"],
        "phase_seconds": phases,
        "seconds": sum(phases.values()) if phases else None,
    }


def _of_version(rows: Sequence[_Row]) -> dict[str, Any]:
    for row in reversed(rows):
        if row["event"] == "published":
            return {
                "version": row["version"],
                "path": row["path"],
                "forgotten": tuple(row["classes_forgotten"]),
                "forgotten_samples": tuple(row["samples_forgotten"] or ()),
            }
    return {}


def _synthetic_curve(rows: Sequence[_Row]) -> dict[int, SyntheticPoint]:
    points = {
        row["step"]: SyntheticPoint(
            retain=_share(row["retain_correct"], row["retain_count"]),
            forget=_share(row["forget_correct"], row["forget_count"]),
            pass_rate=row["pass_rate"],
            forget_mass=row["forget_mass"],
        )
        for row in rows
    }
    return dict(sorted(points.items()))


def _of_evaluations(rows: Sequence[_Row]) -> dict[str, Any]:
    relapse = {
        row["step"]: row["value"]
        for row in rows
        if row["measure"] == "relapse_accuracy" and row["step"] is not None and row["value"] is not None
    }
    chosen = [row["step"] for row in rows if row["measure"] == "chosen_step"]
    thresholds = [threshold_of(row) for row in rows if row["measure"] == "threshold"]
    yields = [yield_of(row) for row in rows if row["measure"] == "yield"]
    kept = [
        (int(row["value"]), len(json.loads(row["parameters"])["layers"]))
        for row in rows
        if row["measure"] == "kept_layers"
    ]
    others = ("threshold", "yield", "kept_layers")
    seen = [row for row in rows if row["step"] is None and row["measure"] not in others]
    return ({"chosen_step": chosen[-1]} if chosen else {}) | {
        "synthetic_check": {row["measure"]: _figure(row) for row in seen},
        "threshold": thresholds[-1] if thresholds else None,
        "kept_layers": kept[-1] if kept else None,
        "yields": tuple({given.label: given for given in yields}.values()),
        "relapse": dict(sorted(relapse.items())),
    }


def _of_audits(rows: Sequence[_Row], forgotten: Sequence[int], *, named: bool) -> dict[str, Any]:
    """Figures of each model, real curve and stops; of rows that repeat, the last counts.

    For a request that names classes D_f are test images of all forgotten classes. For any other they are the
    forgotten samples (rows that name no class), where these are known; forgotten classes are told class by
    class alone. Figures on mislabelled samples are there whatever is named.
    """
    figures: dict[str, dict[str, Figure]] = {}
    by_class: dict[str, dict[int, Figure]] = {}
    curve: dict[str, dict[int, Figure]] = {"retain_accuracy": {}, "forget_accuracy": {}}
    stops: dict[str, ChosenStop] = {}
    left_out: dict[str, str] = {}
    oracle = None
    for row in rows:
        figure, subject, measure = _figure(row), row["subject"], row["measure"]
        if "left_out" in figure.parameters:
            left_out[measure] = str(figure.parameters["left_out"])
            continue
        if not figure.classes and (not named or measure.startswith("mislabelled")):
            figures.setdefault(subject, {})[measure] = figure
        if row["split"] == "train" or measure == "class_accuracy":
            continue
        if measure == "regret":
            oracle = figure.parameters.get("oracle_step")
            stops[str(figure.parameters["rule"])] = ChosenStop(
                step=row["step"], regret=figure, forget_correct=figure.parameters["forget_correct"]
            )
        elif subject == "checkpoint":
            if measure in curve:
                curve[measure][row["step"]] = figure
        else:
            if measure == "forget_accuracy" and len(figure.classes) == 1:
                by_class.setdefault(subject, {})[figure.classes[0]] = figure
            if not named and {*figure.classes} <= {*forgotten}:
                continue
            known = figures.setdefault(subject, {}).get(measure)
            if known is None or len(figure.classes) >= len(known.classes):
                figures[subject][measure] = figure
    retain, forget = curve["retain_accuracy"], curve["forget_accuracy"]
    real = {
        step: RealPoint(retain=retain_value, forget=forget_value)
        for step in sorted(retain.keys() & forget.keys())
        if (retain_value := retain[step].value) is not None
        and (forget_value := forget[step].value) is not None
    }
    chosen = stops.get("synthetic")
    return {
        "figures": figures,
        "left_out": left_out,
        "forget_by_class": by_class,
        "real": real,
        "stops": stops,
        "oracle_step": oracle,
        "chosen_step": chosen.step if chosen else None,
        "regret": chosen.regret.value if chosen else None,
    }


def _figure(row: _Row) -> Figure:
    return Figure(
        value=row["value"],
        sum=row["sum"],
        count=row["count"],
        censored=row["censored"],
        parameters=json.loads(row["parameters"]),
        classes=tuple(row["classes"]),
    )


def _share(correct: int, count: int) -> float:
    return correct / count if count else math.nan
