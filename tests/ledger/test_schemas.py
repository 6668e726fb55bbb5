"""The ledger's schemas: the columns that were promised, and rows that must fit them exactly."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayunlearn.errors import BadInput, shown
from rayunlearn.ledger.schemas import (
    ADDED,
    ALL_TABLES,
    ENUMS,
    JSON_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    SCHEMAS,
    SYNTHETIC_TABLES,
    VOLATILE_COLUMNS,
    brought_up_to_date,
    schema_written_under,
    table_from_rows,
    without_volatile,
)

NOON = datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)

MEASURE: dict[str, Any] = {
    "run_id": "r1",
    "lineage": "digits",
    "version": "v1",
    "subject": "unlearned",
    "dataset": "digits",
    "dataset_hash": "d0",
    "split": "test",
    "classes": [0, 2],
    "measure": "accuracy",
    "parameters": '{"k": 1}',
    "value": 0.5,
    "sum": 1,
    "count": 2,
    "step": 3,
    "seed": 0,
    "censored": False,
    "at": NOON,
}
ROWS: dict[str, dict[str, Any]] = {
    "requests": {
        "request_id": "q1",
        "lineage": "digits",
        "kind": "classes",
        "target": [0],
        "received_at": NOON,
        "deadline": NOON + timedelta(days=30),
        "data_access": ["weights"],
        "examples": "sha256:c0ffee",
        "whole_classes": True,
        "priority": 5,
        "method": "gkt",
        "event": "failed",
        "at": NOON,
        "reason": "gate",
        "run_id": "r1",
    },
    "runs": {
        "run_id": "r1",
        "lineage": "digits",
        "request_ids": ["q1"],
        "method": "gkt",
        "placement": "split",
        "parent_version": "v0",
        "version": "v1",
        "event": "phase",
        "phase": "unlearn",
        "at": NOON,
        "seconds": 1.5,
        "config": "{}",
        "config_hash": "c0",
        "seed": 0,
        "attempt": 1,
        "reason": "because",
        "traceback": "Traceback ...",
        "sweep": "s1",
        "code": "0.1+c0de",
    },
    "checkpoints": {
        "run_id": "r1",
        "lineage": "digits",
        "phase": "unlearn",
        "step": 10,
        "retain_correct": 9,
        "retain_count": 10,
        "forget_correct": 0,
        "forget_count": 5,
        "retain_loss": 0.125,
        "forget_mass": 0.25,
        "forgotten_share": [0.0, 0.125],
        "kept": '{"coarse": 0.9}',
        "pass_rate": 0.75,
        "generator_loss": -1.0,
        "student_loss": 2.0,
        "student_steps": 100,
        "stalled": False,
        "recoveries": 0,
        "at": NOON,
        "trial": "t1",
    },
    "evaluations": MEASURE,
    "audits": MEASURE,
    "versions": {
        "version": "v1",
        "parent": "v0",
        "lineage": "digits",
        "path": "versions/v1.safetensors",
        "request_ids": ["q1"],
        "run_id": "r1",
        "classes_forgotten": [0],
        "samples_forgotten": [17, 254],
        "model": '{"name": "allcnn"}',
        "data_hash": "da7a",
        "event": "published",
        "created_at": NOON,
        "at": NOON,
    },
    "plans": {
        "event": "start",
        "lineage": "digits",
        "request_ids": ["q1"],
        "method": "gkt",
        "attempt": 1,
        "parent_version": "v0",
        "expected_seconds": 60.0,
        "why": "first in its lineage",
        "at": NOON,
    },
    "sweeps": {
        "sweep": "s1",
        "lineage": "digits",
        "version": "v0",
        "request": '{"request_id": "q1"}',
        "recipe": "digits_gkt",
        "method": "gkt",
        "space": '{"gkt.beta": "uniform(1.0,2.0)"}',
        "sampler": "random",
        "scheduler": "asha",
        "budget": "16 trials",
        "placement": "colocated",
        "config": "{}",
        "config_hash": "c0",
        "seed": 0,
        "event": "finished",
        "at": NOON,
        "reason": "because",
        "winner": "t1",
        "seconds": 1.5,
    },
    "trials": {
        "sweep": "s1",
        "trial": "t1",
        "lineage": "digits",
        "settings": '{"gkt.beta": 1.5}',
        "event": "stopped",
        "at": NOON,
        "score": 0.875,
        "step": 40,
        "cycles": 60,
        "second_correct": 7,
        "second_count": 8,
        "second_predicted": 0.9,
        "seconds": 1.5,
        "busy_seconds": 1.25,
        "cpus": 1.0,
        "gpus": 0.5,
        "reason": "because",
    },
}
NULLABLE = [(table, field.name) for table in SCHEMAS for field in SCHEMAS[table] if field.nullable]
WRITTEN = (
    "30d12ed17413522b", "0d06a303da7132b6", "c225244369b92a58", "88cf9dc0918bf180", "44f8eef16d1b456e",
    "44f8eef16d1b456e",
)  # fmt: skip
"""Of each schema version, the start of a hash of all tables' columns."""

NOT_NULLABLE = [(table, field.name) for table in SCHEMAS for field in SCHEMAS[table] if not field.nullable]


def refusal(table: str, row: dict[str, Any]) -> str:
    """What is said about a bad row that comes after a good one."""
    with pytest.raises(BadInput) as caught:
        table_from_rows(table, [ROWS[table], row])
    message = str(caught.value)
    assert repr(table) in message
    assert "row 1 (from 0)" in message
    return message


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_rows_come_back_as_given(table: str) -> None:
    """A full row has exactly the table's columns, in order, and comes back unchanged."""
    assert list(ROWS[table]) == SCHEMAS[table].names
    made = table_from_rows(table, [ROWS[table]])
    assert made.schema.equals(SCHEMAS[table], check_metadata=True)
    assert made.to_pylist() == [ROWS[table]]
    assert table_from_rows(table, []).num_rows == 0


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_schemas_say_what_they_are(table: str) -> None:
    """Metadata holds table and version; times are UTC microseconds; words and JSON are in string columns."""
    schema = SCHEMAS[table]
    assert schema.metadata == {b"table": table.encode(), b"schema_version": str(SCHEMA_VERSION).encode()}
    times = [field.type for field in schema if pa.types.is_timestamp(field.type)]
    assert set(times) == {pa.timestamp("us", tz="UTC")}
    assert VOLATILE_COLUMNS[table] <= set(schema.names)
    for column in {*ENUMS[table], *JSON_COLUMNS[table]}:
        assert schema.field(column).type == pa.string()


def test_every_table_is_described() -> None:
    """No side table lacks a table, required columns are nullable ones, and only audits hold real data."""
    assert set(ENUMS) == set(JSON_COLUMNS) == set(VOLATILE_COLUMNS) == set(SCHEMAS) == ALL_TABLES
    assert {"audits"} == ALL_TABLES - SYNTHETIC_TABLES
    assert SCHEMAS["audits"].equals(SCHEMAS["evaluations"])
    for (table, event), columns in REQUIRED.items():
        assert event in ENUMS[table]["event"]
        assert all(SCHEMAS[table].field(column).nullable for column in columns)


def test_rows_of_earlier_schemas_are_brought_up_to_date() -> None:
    """A column that came later holds no value in them; all else is as it was written."""
    assert {version for version in ADDED.values()} <= set(range(2, SCHEMA_VERSION + 1))
    assert all(SCHEMAS[table].field(column).nullable for table, column in ADDED)
    old = schema_written_under("versions", 1)
    assert [n for n in SCHEMAS["versions"].names if n not in old.names] == [
        "samples_forgotten", "data_hash"
    ]  # fmt: skip
    rows = table_from_rows("versions", [ROWS["versions"]])
    before = brought_up_to_date("versions", rows.drop_columns(["samples_forgotten", "data_hash"]))
    assert before.schema.equals(SCHEMAS["versions"], check_metadata=True)
    assert before.to_pylist() == [ROWS["versions"] | {"samples_forgotten": None, "data_hash": None}]
    for table in SCHEMAS:
        assert schema_written_under(table, SCHEMA_VERSION).equals(SCHEMAS[table])


def test_a_schema_that_changes_has_a_new_version() -> None:
    """What ledgers were written under stays as it was: a column more would refuse all of them."""
    for version, digest in enumerate(WRITTEN, start=1):
        told = "\n".join(
            f"{table}.{field.name}: {field.type}{'' if field.nullable else ' not null'}"
            for table in sorted(SCHEMAS)
            for field in schema_written_under(table, version)
        )
        assert hashlib.sha256(told.encode()).hexdigest()[:16] == digest, version
    assert len(WRITTEN) == SCHEMA_VERSION


@pytest.mark.parametrize(("table", "column"), NOT_NULLABLE)
@pytest.mark.parametrize("absent", ["left out", "None"])
def test_missing_values_are_refused(table: str, column: str, absent: str) -> None:
    """A column that is always present may neither be left out nor be None."""
    row = dict(ROWS[table])
    if absent == "None":
        row[column] = None
    else:
        del row[column]
    assert repr(column) in refusal(table, row)


@pytest.mark.parametrize(("table", "column"), NULLABLE)
def test_nullable_columns_may_be_left_out(table: str, column: str) -> None:
    """A nullable column left out is null, unless the row's event requires it."""
    row = {name: value for name, value in ROWS[table].items() if name != column}
    if column in REQUIRED.get((table, row.get("event", "")), ()):
        message = refusal(table, row)
        assert repr(column) in message
        assert repr(row["event"]) in message
    else:
        assert table_from_rows(table, [row]).column(column).to_pylist() == [None]


def test_a_rejected_request_needs_no_more_than_a_reason() -> None:
    """A request that could not be understood is recorded; one that was received must be whole."""
    row = {"request_id": "line 3", "event": "rejected", "at": NOON, "reason": "malformed JSON"}
    assert table_from_rows("requests", [row]).to_pylist()[0]["lineage"] is None
    assert "'reason'" in refusal("requests", {**row, "reason": None})
    assert "'lineage'" in refusal("requests", {**row, "event": "received"})


def test_unknown_columns_are_refused_with_the_nearest() -> None:
    """A misspelt column is named together with the one that was meant."""
    message = refusal("requests", {**ROWS["requests"], "reciever_at": NOON})
    assert "'reciever_at'" in message
    assert "'received_at'" in message
    assert "column is 7" in refusal("runs", {**ROWS["runs"], 7: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("table", "column", "value", "allowed"),
    [
        ("runs", "seed", "0", "whole number"),
        ("runs", "seed", 0.0, "whole number"),
        ("runs", "seed", True, "whole number"),
        ("runs", "seed", 2**63, "whole number of 64 bits"),
        ("runs", "seed", -(2**63) - 1, "whole number of 64 bits"),
        ("runs", "seconds", "1.0", "a number"),
        ("runs", "seconds", True, "a number"),
        ("runs", "seconds", 1j, "a number"),
        ("runs", "seconds", 10**400, "a number"),
        ("runs", "method", 3, "string"),
        ("runs", "method", b"gkt", "string"),
        ("runs", "method", "\ud800", "Unicode"),
        ("runs", "request_ids", "q1", "a list, each item a string"),
        ("runs", "request_ids", ["q1", 2], "string"),
        ("runs", "request_ids", ["q1", None], "string"),
        ("runs", "request_ids", {"q1": 1}, "a list"),
        ("runs", "event", "done", "'planned', 'started'"),
        ("runs", "config", "", "JSON object"),
        ("runs", "config", "[]", "JSON object"),
        ("runs", "config", '{"a": NaN}', "JSON object"),
        ("runs", "config", '{"a": ' * 100_000, "JSON object"),
        ("runs", "at", "2025-06-01", "datetime with a time zone"),
        ("runs", "at", NOON.date(), "datetime with a time zone"),
        ("runs", "at", NOON.timestamp(), "datetime with a time zone"),
        ("runs", "at", NOON.replace(tzinfo=None), "datetime with a time zone"),
        ("runs", "at", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "datetime"),
        ("requests", "target", [0, 1.0], "whole number"),
        ("requests", "target", [0, True], "whole number"),
        ("requests", "kind", "class", "'classes', 'samples'"),
        ("checkpoints", "stalled", 0, "True or False"),
        ("checkpoints", "forgotten_share", [0.5, "x"], "a number"),
        ("evaluations", "subject", "Retrain", "'original', 'unlearned', 'gold'"),
    ],
)
def test_wrong_values_are_refused(table: str, column: str, value: Any, allowed: str) -> None:
    """A value that the column cannot hold is not converted: column, value and what is allowed are named."""
    message = refusal(table, {**ROWS[table], column: value})
    assert repr(column) in message
    assert allowed in message
    assert shown(value[-1] if isinstance(value, list) else value) in message


def test_rows_must_be_mappings() -> None:
    """A row that is no mapping is refused by its number."""
    assert "a mapping" in refusal("runs", ["r1"])  # type: ignore[arg-type]


def test_numbers_of_other_kinds_are_the_same_numbers() -> None:
    """Integers stand for floats and numpy's scalars for Python's; negative control: a float is no integer."""
    row = {**ROWS["runs"], "seed": np.int64(7), "seconds": np.float32(0.5)}
    made = table_from_rows("runs", [row, {**row, "seconds": 2}, {**row, "seconds": Fraction(1, 4)}])
    assert made.column("seed").to_pylist() == [7, 7, 7]
    assert made.column("seconds").to_pylist() == [0.5, 2.0, 0.25]
    assert "whole number" in refusal("runs", {**row, "seed": np.float64(7)})


def test_diverged_losses_are_kept() -> None:
    """NaN and infinity are stored as such, and NaN is not null."""
    row = {**ROWS["checkpoints"], "generator_loss": math.nan, "student_loss": -math.inf}
    made = table_from_rows("checkpoints", [row])
    assert made.column("generator_loss").null_count == 0
    assert math.isnan(made.column("generator_loss")[0].as_py())
    assert made.column("student_loss").to_pylist() == [-math.inf]


def test_times_are_stored_in_utc() -> None:
    """A time of another zone is the same instant, told in UTC, to the microsecond."""
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    stored = table_from_rows("runs", [{**ROWS["runs"], "at": there}]).column("at")[0].as_py()
    assert stored == NOON
    assert stored.utcoffset() == timedelta(0)


def test_without_volatile_ignores_time_and_placement_alone() -> None:
    """Rows that differ in when and where they ran are equal without volatile columns; a seed still tells."""
    there = {**ROWS["runs"], "placement": "colocated", "seconds": 9.0, "at": NOON + timedelta(1)}
    tables = [table_from_rows("runs", [row]) for row in (ROWS["runs"], there, {**there, "seed": 1})]
    here, same, other = (without_volatile("runs", table) for table in tables)
    assert not tables[0].equals(tables[1])
    assert here.equals(same)
    assert not here.equals(other)
    assert set(SCHEMAS["runs"].names) - set(here.column_names) == {"at", "seconds", "placement", "traceback"}


def test_unknown_tables_are_refused_with_the_nearest() -> None:
    """A misspelt table is named together with the one that was meant."""
    with pytest.raises(BadInput, match="'request'.*'requests'"):
        table_from_rows("request", [])
