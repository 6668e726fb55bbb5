"""The erasure certificate: what the ledger says of one request, as a page and as JSON of the same content.

The keys are those of `docs/reference/certificate.md`. What is not known is None; nothing is inferred.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rayunlearn import __version__
from rayunlearn.errors import BadInput, nearest
from rayunlearn.ledger.evidence import Evidence, Row
from rayunlearn.reports import wording
from rayunlearn.reports.comparison import returned_classes
from rayunlearn.reports.page import rendered
from rayunlearn.scheduling.gate import UNDECIDED
from rayunlearn.storage.store import Store

FORMAT = 1
"""Goes up when a key of the JSON changes its meaning or goes."""

TITLES = {
    "served": "Erasure certificate",
    "failed": "Request failed: nothing was erased",
    "rejected": "Request rejected: nothing was erased",
    "pending": "Request pending: no erasure is recorded",
}
"""By status; the page of any other says no more than that."""

_OPEN = {"received": "pending", "planned": "pending"}
"""Latest events of a request that is not closed."""

_ENDED = {"failed": "failed", "rejected": "was rejected", "pending": "is pending"}

KINDS = {
    "weights": "the version before, which the run began from",
    "few_examples": "the examples that the request gave",
    "forget": "the training samples to forget",
    "retain": "the training samples to keep, none of them forgotten by an earlier request",
    "training_log": "what was kept of the original's training, step by step",
    "pretrained_generator": "a generator that was trained on data",
}
"""What a run can be handed; all but the weights is real data or was made from it."""

_SEALED = (
    "A run is handed what its method declares and nothing else. Its processes are sealed before they load "
    "anything of the run: Python code in them opens no file outside the installed software, imports no "
    "module that loads data, starts no process, connects no socket, and calls no Ray task or actor. This is "
    "a guard against mistakes and habits. It is no sandbox: native code, or code that undoes the guard, is "
    "not held."
)
_NOT_SEALED = (
    "A run is handed what its method declares and nothing else; that its processes were sealed besides is "
    "not known of the placement {}."
)
_LIMITS = (
    "This states what the ledger records, after its whole chain was verified. It is no proof that nothing of "
    "what was forgotten is left in the weights: the measures are evidence. The chain finds whatever was "
    "edited, removed or reordered before the head given here; keep the head's hash elsewhere to find out "
    "whether everything was written anew."
)


def certificate(
    store: Store,
    request_id: str,
    *,
    made_at: datetime,
    methods: Mapping[str, Mapping[str, Any]],
    sealed: Collection[str],
) -> dict[str, Any]:
    """What the ledger says of a request, as plain data.

    The same storage location and time give the same certificate.

    Args:
        store: the storage location.
        request_id: of the request; a rejected line is told where no request of this id was accepted.
        made_at: when the certificate is made.
        methods: name -> what the registry says of a method: data_access, summary, source.
        sealed: placements whose processes are sealed.

    Raises:
        BadInput: the ledger knows no such request; the nearest ids are named.
        IntegrityError: the ledger's chain is broken.
    """
    evidence = Evidence(store)
    events = evidence.rows("requests", lambda row: row["request_id"] == request_id)
    if not events:
        known = {row["request_id"] for row in evidence.rows("requests", lambda row: True)}
        allowed = nearest(request_id, known) or "none, the ledger has no requests"
        raise BadInput("request", request_id, allowed)
    rejected = [row for row in events if row["event"] == "rejected"]
    accepted = [row for row in events if row["event"] != "rejected"]
    asked, last = (accepted[0], accepted[-1]) if accepted else (rejected[-1], rejected[-1])
    status: str = _OPEN.get(str(last["event"]), str(last["event"]))

    runs = evidence.rows("runs", lambda row: bool(accepted) and request_id in row["request_ids"])
    run_id = last["run_id"] or (runs[-1]["run_id"] if runs else None)
    own = [row for row in runs if row["run_id"] == run_id]
    chain = evidence.rows("versions", lambda row: row["lineage"] == asked["lineage"])
    before, after = _versions(chain, own, request_id)
    superseded = _up_to(chain, before) if after else []
    judged = evidence.rows("evaluations", lambda row: run_id is not None and row["run_id"] == run_id)
    audited = evidence.rows("audits", lambda row: run_id is not None and row["run_id"] == run_id)
    audited = [row for row in audited if row["subject"] != "checkpoint"]
    told = {version["version"] for version in (before, after, *superseded) if version}
    about = [row for row in chain if row["version"] in told]
    head = evidence.head
    assert head is not None, "it has the request"

    attempts = [_attempt(rows, methods) for rows in _grouped(runs, lambda row: row["run_id"]).values()]
    left = _still_stored(store, asked, runs, superseded) if after else []
    made: dict[str, Any] = {
        "format": FORMAT,
        "title": TITLES.get(status, f"Request {status}: no erasure is recorded"),
        "status": status,
        "statement": _statement(asked, last, status, before, after),
        "reason": last["reason"],
        "warnings": _warnings(last, status, after, left, audited),
        "request": _request(asked, last, status, made_at),
        "rejected_lines": [{"at": row["at"], "reason": row["reason"]} for row in rejected if accepted],
        "run": _run(own, methods, audited) | {"calibration": _calibration(judged)} if own else None,
        "attempts": attempts,
        "data": _data(asked, attempts, before, audited, sealed),
        "versions": {"before": before, "after": after},
        "measures": {
            "synthetic": [_figure(row, "measure", "classes", "step") for row in _latest(judged)],
            "real": _compared(audited),
            "left_out": _left_out(audited),
        },
        "purged": {
            "versions": [{"version": v["version"], "purged_at": v["purged_at"]} for v in superseded],
            "still_stored": left,
        },
        "ledger": {
            "head": asdict(head),
            "entries": [asdict(e) for e in evidence.entries([*events, *runs, *about, *judged, *audited])],
            "verify": f"python -m rayunlearn models verify --storage {shlex.quote(store.where)}",
        },
        "made": {"at": made_at, "by": f"rayunlearn {__version__}"},
        "limits": _LIMITS,
    }
    plain: dict[str, Any] = _plain(made)
    return plain


def to_json(made: Mapping[str, Any]) -> str:
    """A certificate as JSON text, ASCII throughout."""
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


def to_html(made: Mapping[str, Any]) -> str:
    """A certificate as one page that needs nothing else, with the content of the JSON."""
    return rendered(
        "certificate.html.jinja",
        c=_printable(made),
        settings=json.dumps(made["run"]["config"], indent=2) if made["run"] else "",
        subjects=_subjects(made["measures"]["real"]),
        subject_names=wording.SUBJECT_NAMES,
        gate_names=wording.GATE_NAMES,
        asked=lambda of: _what(of["kind"], of["target"], of["whole_classes"]),
        gone=lambda of: wording.gone(of["classes_forgotten"], of["samples_forgotten"]),
        when=_shown_time,
        figure=_shown_figure,
        seconds=wording.seconds,
        phase=wording.phase_name,
    )


def _request(asked: Row, last: Row, status: str, made_at: datetime) -> dict[str, Any]:
    return {
        "id": asked["request_id"],
        "lineage": asked["lineage"],
        "kind": asked["kind"],
        "target": asked["target"],
        "whole_classes": asked["whole_classes"],
        "examples": asked["examples"],
        "data_access": asked["data_access"],
        "received_at": asked["received_at"],
        "deadline": asked["deadline"],
        "deadline_met": _deadline_met(asked["deadline"], last["at"], status, made_at),
        "closed_at": None if status == "pending" else last["at"],
    }


def _deadline_met(deadline: datetime | None, closed: datetime, status: str, now: datetime) -> bool | None:
    """None where none was set, and where it has not passed yet without the request having been served."""
    if deadline is None:
        return None
    if status == "served":
        return closed <= deadline
    return False if now > deadline else None


def _attempt(rows: Sequence[Row], methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One run, from its events."""
    first = rows[0]
    ends = [row for row in rows if row["event"] in ("published", "failed")]
    phases = _grouped((row for row in rows if row["event"] == "phase"), lambda row: row["phase"])
    return {
        "run_id": first["run_id"],
        "attempt": first["attempt"],
        "method": first["method"],
        "declared": methods[first["method"]]["data_access"] if first["method"] in methods else None,
        "config_hash": first["config_hash"],
        "seed": str(first["seed"]),  # as text: beyond 2^53 readers of JSON differ
        "placement": list(dict.fromkeys(row["placement"] for row in rows)),
        "version_before": first["parent_version"],
        "began_at": first["at"],
        "resumed_at": [row["at"] for row in rows if row["event"] == "resumed"],
        "phases": [
            {
                "name": name,
                "seconds": sum(row["seconds"] or 0.0 for row in passes),
                "note": next((row["reason"] for row in passes if row["reason"]), None),
            }
            for name, passes in phases.items()
        ],
        "outcome": ends[-1]["event"] if ends else "under way",
        "ended_at": ends[-1]["at"] if ends else None,
        "reason": ends[-1]["reason"] if ends else None,
    }


def _run(
    own: Sequence[Row], methods: Mapping[str, Mapping[str, Any]], audited: Sequence[Row]
) -> dict[str, Any]:
    """The run that the request's status rests on."""
    first = own[0]
    method = methods.get(first["method"], {})
    return {
        "run_id": first["run_id"],
        "method": first["method"],
        "summary": method.get("summary"),
        "source": method.get("source"),
        "declared": method.get("data_access"),
        "config_hash": first["config_hash"],
        "config": json.loads(first["config"]),
        "code_version": first["code"],
        "seeds": {"run": str(first["seed"]), "audit": sorted({str(row["seed"]) for row in audited})},
    }


def _calibration(judged: Sequence[Row]) -> str | None:
    """Digest of the calibration by which the gate predicted D_r; None where it predicted none."""
    told = [json.loads(row["parameters"]).get("calibration") for row in judged]
    return next((str(digest) for digest in reversed(told) if digest is not None), None)


def _data(
    asked: Row,
    attempts: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any] | None,
    audited: Sequence[Row],
    sealed: Collection[str],
) -> dict[str, Any]:
    """What the runs were handed, all of them taken together, and what the audit looked at later."""
    declared = [attempt["declared"] for attempt in attempts]
    known = None not in declared
    kinds = sorted({kind for each in declared for kind in each}) if known else []
    hashes = {"few_examples": _digest(asked), "weights": before["version"] if before else None}
    placements = sorted({place for attempt in attempts for place in attempt["placement"]})
    open_places = [place for place in placements if place not in sealed]
    enforced = _NOT_SEALED.format(", ".join(map(repr, open_places))) if open_places else _SEALED
    handed = [{"kind": kind, "what": KINDS.get(kind), "sha256": hashes.get(kind)} for kind in kinds]
    return {
        "handed": handed if known else None,
        "real": any(kind != "weights" for kind in kinds) if known else None,
        "enforced": enforced if attempts else None,
        "audited_on": [
            {"dataset": name, "sha256": digest}
            for name, digest in dict.fromkeys((row["dataset"], row["dataset_hash"]) for row in audited)
        ],
    }


def _versions(
    chain: Sequence[Row], own: Sequence[Row], request_id: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The version that the run began from, and the one that it published for the request."""
    published = [row for row in chain if row["event"] == "published"]
    run, parent = (own[0]["run_id"], own[0]["parent_version"]) if own else (None, None)
    before = [row for row in published if own and row["version"] == parent]
    after = [row for row in published if own and row["run_id"] == run and request_id in row["request_ids"]]
    return (_version(before[0], chain) if before else None), (_version(after[0], chain) if after else None)


def _version(row: Row, chain: Sequence[Row]) -> dict[str, Any]:
    purged = [r["at"] for r in chain if r["version"] == row["version"] and r["event"] == "purged"]
    return {
        "version": row["version"],
        "path": row["path"],
        "published_at": row["created_at"],
        "request_ids": row["request_ids"],
        "classes_forgotten": row["classes_forgotten"],
        "samples_forgotten": row["samples_forgotten"] or [],
        "purged_at": purged[-1] if purged else None,
    }


def _up_to(chain: Sequence[Row], last: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A version and all that were published before it: each still knew what this request names."""
    published = [row for row in chain if row["event"] == "published"]
    ids = [row["version"] for row in published]
    return [_version(row, chain) for row in published[: ids.index(last["version"]) + 1]] if last else []


def _still_stored(
    store: Store, asked: Row, runs: Sequence[Row], superseded: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Files that know what was to be forgotten: of superseded versions, of the runs, the examples."""
    names = [v["path"] for v in superseded if store.exists(v["path"])]
    for run_id in dict.fromkeys(row["run_id"] for row in runs):
        names += store.list(f"runs/{run_id}")
    digest = _digest(asked)
    return names + [name for name in store.list("examples") if digest and digest in name]


def _digest(asked: Row) -> str | None:
    """That of a request's examples."""
    said = asked["examples"]
    return str(said).removeprefix("sha256:") if said else None


def _compared(audited: Sequence[Row]) -> list[dict[str, Any]]:
    """Figures on real data: measure by measure, each model's beside the others'."""
    made = [row for row in audited if "left_out" not in json.loads(row["parameters"])]
    groups = _grouped(made, lambda row: (row["measure"], row["split"], tuple(row["classes"])))
    return [
        {
            "measure": measure,
            "split": split,
            "classes": list(classes),
            "figures": {row["subject"]: _figure(row) for row in rows},
        }
        for (measure, split, classes), rows in groups.items()
    ]


def _figure(row: Row, *columns: str) -> dict[str, Any]:
    shown = {name: row[name] for name in (*columns, "value", "sum", "count", "censored")}
    return shown | {"parameters": json.loads(row["parameters"])}


def _latest(judged: Iterable[Row]) -> list[Row]:
    """Of rows that repeat, the last."""
    groups = _grouped(judged, lambda row: (row["measure"], tuple(row["classes"]), row["step"]))
    return [same[-1] for same in groups.values()]


def _left_out(audited: Iterable[Row]) -> dict[str, str]:
    told = {row["measure"]: json.loads(row["parameters"]).get("left_out") for row in audited}
    return {measure: str(reason) for measure, reason in told.items() if reason is not None}


def _warnings(
    last: Row, status: str, after: Mapping[str, Any] | None, left: Sequence[str], audited: Sequence[Row]
) -> list[str]:
    """What nobody who reads the certificate may miss."""
    found = []
    if status == "served" and last["reason"]:
        if last["reason"].startswith(UNDECIDED):
            chosen = "the settings have such results published (gate.undecided)"
            found.append(f"It was published undecided, since {chosen}: {last['reason']}.")
        else:
            found.append(f"It was published although it was refused: {last['reason']}.")
    if status == "served" and after is None:
        found.append("The ledger has no version that the run published for this request.")
    if status != "served" and after is not None:
        found.append(
            f"Version {_short(after)} was published for this request, which is not recorded as served; the "
            "job's command, given again, completes the record."
        )
    if left:
        found.append(
            f"{len(left)} files that may know what was to be forgotten are still stored; the end of a job "
            "throws them away."
        )
    if said := wording.came_back(returned_classes(audited)):
        found.append(f"What was forgotten {said}.")
    return found


def _statement(
    asked: Row, last: Row, status: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> str:
    what = _what(asked["kind"], asked["target"], asked["whole_classes"])
    of = f"from lineage {asked['lineage'] or 'not known'}: {what}"
    if status != "served":
        ended = _ENDED.get(status, f"is {status}")
        return f"To be forgotten {of}. The request {ended}; this is no erasure certificate."
    if before is None or after is None:
        return f"Recorded as forgotten {of}. Which version took the place of which is not known."
    took = f"Version {_short(after)} took the place of version {_short(before)}, which knew it"
    return f"Forgotten {of}. {took}, on {_shown_time(after['published_at'])}."


def _what(kind: str | None, target: Sequence[int] | None, whole_classes: bool | None) -> str:
    """What a request names.

    >>> _what("classes", [0], None), _what("classes", [0, 2], None), _what("samples", [17, 254], None)
    ('class 0', 'classes 0, 2', '2 samples')
    """
    if not target:
        return "not known"
    told = wording.asked(str(kind), target, bool(whole_classes))
    if kind == "classes" or whole_classes:
        return f"{'class' if len(target) == 1 else 'classes'} {told}"
    return told


def _subjects(compared: Iterable[Mapping[str, Any]]) -> list[str]:
    """Models with a figure: the unlearned one, then every gold model, then the others."""
    found = list(dict.fromkeys(subject for row in compared for subject in row["figures"]))
    known = [*wording.SUBJECT_NAMES]

    def rank(subject: str) -> tuple[int, int]:
        family = "gold" if subject.startswith("gold_") else subject
        return known.index(family) if family in known else len(known), found.index(subject)

    return sorted(found, key=rank)


def _shown_time(value: datetime | str) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _shown_figure(figure: Mapping[str, Any] | None) -> str:
    """A figure with its counts, or the bound that is known of one that was cut off.

    >>> share = {"value": 0.5, "sum": 4.0, "count": 8, "censored": False, "parameters": {}}
    >>> cut_off = {"value": None, "censored": True, "parameters": {"max_steps": 9}}
    >>> _shown_figure(share), _shown_figure(cut_off)
    ('50.0 % (4/8)', '> 9')
    """
    if figure is None:
        return wording.ABSENT
    value, told = figure["value"], figure["parameters"]
    if isinstance(value, str):
        return value  # no finite number
    if value is None:
        if "upper_bound" in told and told["upper_bound"] is not None:
            return wording.below(told["upper_bound"])
        return f"> {told['max_steps']}" if figure["censored"] and "max_steps" in told else wording.ABSENT
    if figure["sum"] is not None and figure["count"]:
        is_share = math.isclose(value, figure["sum"] / figure["count"])
        shown = wording.percent(value) if is_share else f"{value:.3g}"
        return f"{shown} ({figure['sum']:.0f}/{figure['count']})"
    if figure.get("measure") in wording.GATE_NAMES:  # shares, whose counts are not kept
        return wording.percent(value)
    return wording.above(value) if figure["censored"] else f"{value:.3g}"


def _short(version: Mapping[str, Any]) -> str:
    return str(version["version"])[:12]


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by a key, in the order in which each came first."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _plain(value: Any) -> Any:
    """As JSON has it: times as ISO 8601 text, numbers that are not finite as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _each(_plain, value)


def _printable(value: Any) -> Any:
    """Plain data without control characters, which users may have written."""
    return wording.plain(value) if isinstance(value, str) else _each(_printable, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A change made to every item of a mapping or a list; anything else as it is."""
    if isinstance(value, Mapping):
        return {str(key): change(item) for key, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list | tuple) else value
