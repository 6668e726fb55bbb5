"""The ledger's tables: Arrow schemas, what their columns may hold, and rows checked against them.

Every table holds events; what can be derived from them (the status of a request) is not stored. Times are UTC
microseconds. Measures are kept as sums and counts, so that they can be pooled.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from rayunlearn.errors import BadInput, nearest

Row = dict[str, Any]
"""A row of a table: column -> value."""

SCHEMA_VERSION = 6
"""Goes up with every change to a schema; entries say which one they were written under.

With 6 no column came: since then segments have the columns of entries (`compaction`).
"""

ADDED = {
    ("versions", "samples_forgotten"): 2,
    ("requests", "examples"): 3,
    ("requests", "whole_classes"): 3,
    ("requests", "priority"): 4,
    ("requests", "method"): 4,
    ("runs", "sweep"): 4,
    ("runs", "code"): 4,
    ("checkpoints", "trial"): 4,
    ("checkpoints", "kept"): 5,
    ("trials", "second_predicted"): 5,
    ("runs", "traceback"): 5,
    ("versions", "data_hash"): 5,
}
"""(table, column) -> the schema version that it came with; entries of an earlier one have no value there."""

_STRING = pa.string()
_INT = pa.int64()
_FLOAT = pa.float64()
_BOOL = pa.bool_()
_TIME = pa.timestamp("us", tz="UTC")
_STRINGS = pa.list_(pa.string())
_INTS = pa.list_(pa.int64())
_FLOATS = pa.list_(pa.float64())


def _schema(table: str, columns: Mapping[str, pa.DataType], *, null: Sequence[str]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=name in null) for name, kind in columns.items()]
    return pa.schema(fields, metadata={"table": table, "schema_version": str(SCHEMA_VERSION)})


_MEASURES: dict[str, pa.DataType] = {
    "run_id": _STRING,
    "lineage": _STRING,
    "version": _STRING,
    "subject": _STRING,
    "dataset": _STRING,
    "dataset_hash": _STRING,
    "split": _STRING,
    "classes": _INTS,
    "measure": _STRING,
    "parameters": _STRING,
    "value": _FLOAT,
    "sum": _FLOAT,
    "count": _INT,
    "step": _INT,
    "seed": _INT,
    "censored": _BOOL,
    "at": _TIME,
}
_MEASURES_NULL = ("run_id", "value", "sum", "count", "step")

SCHEMAS: dict[str, pa.Schema] = {
    "requests": _schema(
        "requests",
        {
            "request_id": _STRING,
            "lineage": _STRING,
            "kind": _STRING,
            "target": _INTS,
            "received_at": _TIME,
            "deadline": _TIME,
            "data_access": _STRINGS,
            "examples": _STRING,  # "sha256:" and the digest of what was given
            "whole_classes": _BOOL,
            "priority": _INT,
            "method": _STRING,  # asked for, to be tried first
            "event": _STRING,
            "at": _TIME,
            "reason": _STRING,
            "run_id": _STRING,
        },
        # what a rejected request may lack, or have malformed; every other event requires it (REQUIRED)
        null=(
            "lineage", "kind", "target", "received_at", "deadline", "data_access", "examples",
            "whole_classes", "priority", "method", "reason", "run_id",
        ),
    ),
    "runs": _schema(
        "runs",
        {
            "run_id": _STRING,
            "lineage": _STRING,
            "request_ids": _STRINGS,
            "method": _STRING,
            "placement": _STRING,
            "parent_version": _STRING,
            "version": _STRING,
            "event": _STRING,
            "phase": _STRING,
            "at": _TIME,
            "seconds": _FLOAT,
            "config": _STRING,
            "config_hash": _STRING,
            "seed": _INT,
            "attempt": _INT,
            "reason": _STRING,
            "traceback": _STRING,  # of what the run raised
            "sweep": _STRING,  # whose winner's settings it has
            "code": _STRING,  # version, and the start of a hash of the package's sources
        },
        null=("version", "phase", "seconds", "reason", "traceback", "sweep", "code"),
    ),
    "checkpoints": _schema(
        "checkpoints",
        {
            "run_id": _STRING,
            "lineage": _STRING,
            "phase": _STRING,
            "step": _INT,
            "retain_correct": _INT,
            "retain_count": _INT,
            "forget_correct": _INT,
            "forget_count": _INT,
            "retain_loss": _FLOAT,  # mean cross-entropy on the retain images, nats
            "forget_mass": _FLOAT,  # mean softmax probability of the classes to forget, over the forget set
            "forgotten_share": _FLOATS,  # share of predictions for each class forgotten so far
            "kept": _STRING,  # JSON: what was measured of it beside its version, on coarse images
            "pass_rate": _FLOAT,
            "generator_loss": _FLOAT,
            "student_loss": _FLOAT,
            "student_steps": _INT,
            "stalled": _BOOL,
            "recoveries": _INT,
            "at": _TIME,
            "trial": _STRING,  # of the sweep that is the run
        },
        null=("retain_loss", "kept", "pass_rate", "generator_loss", "student_loss", "trial"),
    ),
    "evaluations": _schema("evaluations", _MEASURES, null=_MEASURES_NULL),
    "audits": _schema("audits", _MEASURES, null=_MEASURES_NULL),
    "versions": _schema(
        "versions",
        {
            "version": _STRING,
            "parent": _STRING,
            "lineage": _STRING,
            "path": _STRING,
            "request_ids": _STRINGS,
            "run_id": _STRING,
            "classes_forgotten": _INTS,
            "samples_forgotten": _INTS,  # indices into the dataset
            "model": _STRING,
            "data_hash": _STRING,  # of the samples and their split, as the lineage began
            "event": _STRING,
            "created_at": _TIME,
            "at": _TIME,
        },
        null=("parent", "run_id", "samples_forgotten", "data_hash"),
    ),
    "plans": _schema(
        "plans",
        {
            "event": _STRING,
            "lineage": _STRING,
            "request_ids": _STRINGS,
            "method": _STRING,
            "attempt": _INT,
            "parent_version": _STRING,
            "expected_seconds": _FLOAT,
            "why": _STRING,
            "at": _TIME,
        },
        null=("method", "attempt", "parent_version", "expected_seconds"),
    ),
    "sweeps": _schema(
        "sweeps",
        {
            "sweep": _STRING,
            "lineage": _STRING,
            "version": _STRING,  # that every trial unlearns from
            "request": _STRING,  # what every trial is to forget
            "recipe": _STRING,
            "method": _STRING,
            "space": _STRING,
            "sampler": _STRING,
            "scheduler": _STRING,
            "budget": _STRING,
            "placement": _STRING,
            "config": _STRING,
            "config_hash": _STRING,
            "seed": _INT,
            "event": _STRING,
            "at": _TIME,
            "reason": _STRING,
            "winner": _STRING,
            "seconds": _FLOAT,
        },
        null=("reason", "winner", "seconds"),
    ),
    "trials": _schema(
        "trials",
        {
            "sweep": _STRING,
            "trial": _STRING,
            "lineage": _STRING,
            "settings": _STRING,
            "event": _STRING,
            "at": _TIME,
            "score": _FLOAT,  # to be maximised; below 0 without an admissible checkpoint
            "step": _INT,  # of the chosen checkpoint
            "cycles": _INT,
            "second_correct": _INT,  # of the second set's retain images, by the chosen checkpoint
            "second_count": _INT,
            "second_predicted": _FLOAT,  # D_r as a share of the version's, as the second set predicts it
            "seconds": _FLOAT,  # that it held its place ...
            "busy_seconds": _FLOAT,  # ... and of these, in which its run was carried out
            "cpus": _FLOAT,
            "gpus": _FLOAT,
            "reason": _STRING,
        },
        null=(
            "score", "step", "cycles", "second_correct", "second_count", "second_predicted", "seconds",
            "busy_seconds", "cpus", "gpus", "reason",
        ),
    ),
}

_SEGMENTS = _schema(
    "segments",
    {"table": _STRING, "first": _INT, "last": _INT, "rows": _INT, "sha256": _STRING},
    null=(),
)
"""Of the ledger's own table, which only the ledger appends to and reads."""

ALL_TABLES = frozenset(SCHEMAS)
SYNTHETIC_TABLES = ALL_TABLES - {"audits"}
"""What stopping rule, gate, plan and search may read: everything but measurements on real data."""

_SUBJECTS = ("original", "unlearned", "gold", "mask_logit", "delete_head_row", "gaussian_head", "checkpoint")

ENUMS: dict[str, dict[str, tuple[str, ...]]] = {
    "requests": {
        "kind": ("classes", "samples", "examples"),
        "event": ("received", "rejected", "planned", "served", "failed", "cancelled"),
    },
    "runs": {"event": ("planned", "started", "resumed", "phase", "lost", "published", "failed")},
    "checkpoints": {},
    "evaluations": {"subject": _SUBJECTS},
    "audits": {},
    "versions": {"event": ("published", "purged")},
    "plans": {"event": ("start", "wait", "park", "flag")},
    "sweeps": {"event": ("started", "resumed", "finished", "failed")},
    "trials": {"event": ("started", "finished", "stopped", "failed", "measured")},
}
"""Per table, the columns that hold one of a few words."""

JSON_COLUMNS: dict[str, frozenset[str]] = {
    "requests": frozenset(),
    "runs": frozenset({"config"}),
    "checkpoints": frozenset(),
    "evaluations": frozenset({"parameters"}),
    "audits": frozenset({"parameters"}),
    "versions": frozenset({"model"}),
    "plans": frozenset(),
    "sweeps": frozenset({"request", "space", "config"}),
    "trials": frozenset({"settings"}),
}
"""Per table, the string columns that hold a JSON object."""

_ASKED = ("lineage", "kind", "target", "received_at", "data_access")

REQUIRED: dict[tuple[str, str], tuple[str, ...]] = {
    ("requests", "received"): _ASKED,
    ("requests", "rejected"): ("reason",),
    ("requests", "planned"): _ASKED,
    ("requests", "served"): _ASKED,
    ("requests", "failed"): (*_ASKED, "reason"),
    ("requests", "cancelled"): _ASKED,
    ("runs", "phase"): ("phase",),
    ("runs", "published"): ("version",),
    ("runs", "failed"): ("reason",),
    ("runs", "lost"): ("reason",),
    ("plans", "start"): ("method", "attempt", "parent_version", "expected_seconds"),
    ("sweeps", "failed"): ("reason",),
    ("trials", "finished"): ("score", "cycles", "reason", "seconds"),
    ("trials", "stopped"): ("score", "cycles", "reason", "seconds"),
    ("trials", "failed"): ("reason",),
    ("trials", "measured"): ("step", "second_correct", "second_count"),
}
"""Per table and event, the nullable columns that this event must fill."""

VOLATILE_COLUMNS: dict[str, frozenset[str]] = {
    "requests": frozenset({"at", "received_at"}),
    "runs": frozenset({"at", "seconds", "placement", "traceback"}),
    "checkpoints": frozenset({"at"}),
    "evaluations": frozenset({"at"}),
    "audits": frozenset({"at"}),
    "versions": frozenset({"at", "created_at"}),
    "plans": frozenset({"at", "expected_seconds", "why"}),
    "sweeps": frozenset({"at", "seconds", "placement"}),
    "trials": frozenset({"at", "seconds", "busy_seconds"}),
}
"""Per table, the columns that placement and time may change; equal seeds give equal values in all others."""


def without_volatile(table: str, rows: pa.Table) -> pa.Table:
    """The rows without the columns that placement and time may change."""
    schema_of(table)
    return rows.drop_columns([name for name in rows.column_names if name in VOLATILE_COLUMNS[table]])


def is_table(name: str) -> bool:
    """Whether a ledger has entries of such a table."""
    return name in SCHEMAS or name == "segments"


def schema_of(table: str) -> pa.Schema:
    """The schema of a table; an unknown one, or the ledger's own, is `BadInput`."""
    if table not in SCHEMAS:
        raise BadInput("table of the ledger", table, nearest(str(table), SCHEMAS))
    return SCHEMAS[table]


def _schema_of_entries(table: str) -> pa.Schema:
    """The schema of a table, the ledger's own among them."""
    return _SEGMENTS if table == "segments" else schema_of(table)


def schema_written_under(table: str, version: int) -> pa.Schema:
    """The schema of a table's entries that were written under an earlier schema version."""
    schema = _schema_of_entries(table)
    return pa.schema([field for field in schema if ADDED.get((table, field.name), 1) <= version])


def has_columns_of_today(version: int) -> bool:
    """Whether what was written under this schema version has, in every table, the columns of today."""
    return all(schema_written_under(table, version).equals(schema_of(table)) for table in SCHEMAS)


def brought_up_to_date(table: str, rows: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of an earlier schema version in the schema of today; columns that came later hold no value.

    Args:
        table: whose rows they are.
        rows: with all columns of their version, or with those of `columns` that it has.
        columns: wanted; None for all.
    """
    schema = _schema_of_entries(table)
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    cells = [
        rows.column(field.name) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(cells, schema=schema)


def table_from_rows(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of exactly the table's schema.

    Nullable columns may be left out of a row. Nothing is converted but integers given for floats and times
    given in another time zone. NaN and infinity are kept: a loss may diverge.

    Raises:
        BadInput: names table, row (counted from 0), column, value and what is allowed.
    """
    schema = _schema_of_entries(table)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for number, row in enumerate(rows):
        where = f"ledger table {table!r}, row {number} (from 0)"
        if not isinstance(row, Mapping):
            raise BadInput("the row", row, "a mapping from column to value", where=where)
        for name in row:
            if name not in columns:
                raise BadInput("column", name, nearest(str(name), columns), where=where)
        for field in schema:
            value = row.get(field.name)
            if value is not None:
                value = checked_value(table, field.name, value, where=where)
            elif not field.nullable:
                raise BadInput(f"column {field.name!r}", None, f"a value, {_wanted(field.type)}", where=where)
            columns[field.name].append(value)
        event = row.get("event")
        for name in REQUIRED.get((table, event), ()) if event is not None else ():
            if row.get(name) is None:
                raise BadInput(f"column {name!r}", None, f"a value, for the event {event!r}", where=where)
    return pa.Table.from_arrays(
        [pa.array(columns[field.name], type=field.type) for field in schema], schema=schema
    )


def checked_value(table: str, column: str, value: Any, *, where: str) -> Any:
    """A value for a column, not None, as Arrow takes it without converting.

    Raises:
        BadInput: names the column, the value and what is allowed.
    """
    kind = _schema_of_entries(table).field(column).type
    thing = f"column {column!r}"
    if pa.types.is_list(kind):
        if not isinstance(value, list | tuple):
            raise BadInput(thing, value, _wanted(kind), where=where)
        return [_scalar(f"{thing}, item {i}", item, kind.value_type, where) for i, item in enumerate(value)]
    value = _scalar(thing, value, kind, where)
    words = ENUMS.get(table, {}).get(column)
    if words is not None and value not in words:
        raise BadInput(thing, value, ", ".join(map(repr, words)), where=where)
    if column in JSON_COLUMNS.get(table, ()) and not _is_json_object(value):
        raise BadInput(thing, value, "the text of a JSON object", where=where)
    return value


def _scalar(thing: str, value: Any, kind: pa.DataType, where: str) -> Any:
    """A single value of one of the ledger's types, or `BadInput`."""
    is_bool = isinstance(value, bool)
    try:
        if kind == _BOOL and is_bool:
            return value
        if kind == _INT and isinstance(value, numbers.Integral) and not is_bool:
            if -(2**63) <= (whole := int(value)) < 2**63:
                return whole
        elif kind == _FLOAT and isinstance(value, numbers.Real) and not is_bool:
            return float(value)
        elif kind == _STRING and isinstance(value, str):
            value.encode()
            return str(value)
        elif kind == _TIME and isinstance(value, datetime) and value.utcoffset() is not None:
            utc = value.astimezone(UTC)
            return datetime.combine(utc.date(), utc.time(), UTC)
    except (OverflowError, UnicodeEncodeError):
        pass  # of the right type, but out of what the column can hold
    raise BadInput(thing, value, _wanted(kind), where=where)


def _wanted(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"a list, each item {_wanted(kind.value_type)}"
    return {
        _STRING: "a string of Unicode text",
        _INT: "a whole number of 64 bits",
        _FLOAT: "a number",
        _BOOL: "True or False",
        _TIME: "a datetime with a time zone",
    }[kind]


def _is_json_object(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False
