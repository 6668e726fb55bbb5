"""What a certificate says beside what the rows of the log say that it shows.

A signature binds a certificate to its signer and an inclusion proof binds rows to the log. This binds the two
together: a certificate that says otherwise than its own rows is found, whoever signed it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rayunlearn.evidence.canonical import written

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]
"""Table -> its rows that a certificate shows, in the order of the log."""

_OPEN = {"received": "pending", "planned": "pending"}
_ASKED = ("lineage", "kind", "target", "whole_classes", "examples", "data_access", "received_at", "deadline")
_FIGURES = ("value", "sum", "count", "censored")
_VERSION = ("path", "request_ids", "classes_forgotten")
_TIMES = ("received_at", "deadline")


def is_about(certificate: Mapping[str, Any], table: str, row: Row) -> bool:
    """Whether a row is one that a certificate is made of; of other rows of an entry the digest is enough."""
    request, run = certificate["request"], certificate["run"] or {}
    if table == "requests":
        return bool(row["request_id"] == request["id"])
    if table == "runs":
        return request["id"] in row["request_ids"]
    if table == "versions":
        return row["lineage"] == request["lineage"] and row["version"] in _versions_told(certificate)
    if table in ("evaluations", "audits"):
        return run.get("run_id") is not None and row.get("run_id") == run["run_id"]
    return False


def _versions_told(certificate: Mapping[str, Any]) -> set[str]:
    told = [v["version"] for v in certificate["versions"].values() if v]
    return {*told, *(v["version"] for v in certificate["purged"]["versions"])}


def contradictions(certificate: Mapping[str, Any], rows: Rows) -> Iterator[str]:
    """Everything that a certificate says otherwise than its rows, each as a sentence.

    Raises:
        KeyError, TypeError, ValueError: it is no certificate, or these are no rows of a ledger.
    """
    for table, found in rows.items():
        for row in found:
            if not is_about(certificate, table, row):
                yield f"a row of {table} is not about this request"
    yield from _asked(certificate, rows.get("requests", ()))
    yield from _ran(certificate, rows.get("runs", ()))
    yield from _published(certificate, rows.get("versions", ()))
    yield from _measured(certificate, rows)


def _asked(certificate: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    accepted = [row for row in rows if row["event"] != "rejected"]
    if not rows:
        yield "no row of the request is shown"
        return
    first, last = (accepted[0], accepted[-1]) if accepted else (rows[-1], rows[-1])
    request = certificate["request"]
    status = _OPEN.get(last["event"], last["event"])
    if certificate["status"] != status:
        yield f"the status is {certificate['status']!r}, its last row says {status!r}"
    if certificate["reason"] != last.get("reason"):
        yield "the reason is not that of its last row"
    for name in _ASKED:
        if not _same(request[name], first.get(name), time=name in _TIMES):
            yield f"request.{name} is {request[name]!r}, its row says {first.get(name)!r}"
    closed = None if status == "pending" else last["at"]
    if not _same(request["closed_at"], closed, time=True):
        yield f"request.closed_at is {request['closed_at']!r}, its last row says {closed!r}"


def _ran(certificate: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    run = certificate["run"]
    own = [row for row in rows if run and row["run_id"] == run["run_id"]]
    if run and not own:
        yield "no row of the run is shown"
    if run and own:
        first = own[0]
        ran = run["method"], run["config_hash"], run["code_version"], run["seeds"]["run"]
        asked = first["method"], first["config_hash"], first.get("code"), str(first["seed"])
        if ran != asked or run["config"] != json.loads(first["config"]):
            yield "method, settings, code or seed of the run are not those of its row"
    ids = list(dict.fromkeys(row["run_id"] for row in rows))
    if [attempt["run_id"] for attempt in certificate["attempts"]] != ids:
        yield "the attempts are not the runs whose rows are shown"
        return
    for attempt in certificate["attempts"]:
        events = [row for row in rows if row["run_id"] == attempt["run_id"]]
        ends = [row for row in events if row["event"] in ("published", "failed")]
        outcome = ends[-1]["event"] if ends else "under way"
        told = (attempt["outcome"], attempt["reason"], attempt["seed"], attempt["version_before"])
        said = (
            outcome, ends[-1].get("reason") if ends else None, str(events[0]["seed"]),
            events[0]["parent_version"],
        )  # fmt: skip
        if told != said or not _same(attempt["began_at"], events[0]["at"], time=True):
            yield f"attempt {attempt['run_id']} is not what its rows say"


def _published(certificate: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    published = {row["version"]: row for row in rows if row["event"] == "published"}
    purged = {row["version"]: row["at"] for row in rows if row["event"] == "purged"}
    for name, version in certificate["versions"].items():
        if version is None:
            continue
        row = published.get(version["version"])
        if row is None:
            yield f"no row says that the version {name} was published"
            continue
        same = all(_same(version[column], row.get(column)) for column in _VERSION)
        same = same and _same(version["samples_forgotten"], row.get("samples_forgotten", []))
        if not same or not _same(version["published_at"], row["created_at"], time=True):
            yield f"the version {name} is not what its row says"
    after = certificate["versions"]["after"]
    if after and certificate["request"]["id"] not in after["request_ids"]:
        yield "the version after was not published for this request"
    told = [v for v in certificate["versions"].values() if v] + certificate["purged"]["versions"]
    for version in told:
        if not _same(version["purged_at"], purged.get(version["version"]), time=True):
            yield f"when version {version['version'][:12]} was purged is not what its rows say"


def _measured(certificate: Mapping[str, Any], rows: Rows) -> Iterator[str]:
    synthetic, real = certificate["measures"]["synthetic"], certificate["measures"]["real"]
    told = {(figure["measure"], tuple(figure["classes"]), figure["step"]) for figure in synthetic}
    judged = rows.get("evaluations", ())
    if told != {(row["measure"], tuple(row["classes"]), row.get("step")) for row in judged}:
        yield "the synthetic figures are not all those of the rows that are shown"
    compared = {(c["measure"], c["split"], tuple(c["classes"]), name) for c in real for name in c["figures"]}
    if compared != {(r["measure"], r["split"], tuple(r["classes"]), r["subject"]) for r in _audited(rows)}:
        yield "the figures on real data are not all those of the rows that are shown"
    for figure in certificate["measures"]["synthetic"]:
        places = ("measure", "classes", "step")
        if not _is_there(figure, {name: figure[name] for name in places}, rows.get("evaluations", ())):
            yield f"no row has the synthetic figure of {figure['measure']}"
    for compared in certificate["measures"]["real"]:
        for subject, figure in compared["figures"].items():
            place = {name: compared[name] for name in ("measure", "split", "classes")} | {"subject": subject}
            if not _is_there(figure, place, rows.get("audits", ())):
                yield f"no row has the figure of {compared['measure']} of {subject}"


def _audited(rows: Rows) -> Iterator[Row]:
    """Rows of figures on real data: of published models, and of measures that were made."""
    for row in rows.get("audits", ()):
        if row["subject"] != "checkpoint" and "left_out" not in json.loads(row["parameters"]):
            yield row


def _is_there(figure: Mapping[str, Any], place: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    wanted = {**place, **{name: figure[name] for name in _FIGURES}}
    numbers = ("value", "sum")
    return any(
        all(_same(value, row.get(name), number=name in numbers) for name, value in wanted.items())
        and json.loads(row["parameters"]) == figure["parameters"]
        for row in rows
    )


def _same(told: Any, said: Any, *, time: bool = False, number: bool = False) -> bool:
    """Whether a certificate's value is that of a row in canonical form."""
    if told is None or said is None:
        return told is said
    if time:
        return datetime.fromisoformat(told) == datetime.fromisoformat(said)
    if number:
        return bool(written(float(told)) == said)
    return bool(written(told) == said)
