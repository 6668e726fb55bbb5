"""Erasure requests: their JSON Lines form, their checks, and the ids of the runs that serve them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from pydantic import NonNegativeInt

from rayunlearn.errors import BadInput, nearest, shown
from rayunlearn.fields import check_value

DEFAULT_LINEAGE = "default"
KINDS = ("classes", "samples", "examples")
"""What a request may name as its target: classes; training samples, by their indices in the dataset; or,
beside a few examples of a behaviour, the labels that what is like them must no longer get."""
DATA_ACCESS = ("few_examples", "forget", "pretrained_generator", "retain", "training_log", "weights")
"""What a run may be handed."""
MOST_PRIORITY = 1000
"""Priorities go from its negative to this; the higher, the sooner among equal deadlines."""
MOST_TARGET = 100_000
"""Ids that one request may name."""
MOST_LINE = 2_000_000
"""Characters of a line of a requests file, which hold a request of so many ids."""
EXAMPLES_PREFIX = "sha256:"
"""Of a reference to examples that were taken in."""
LEAST_RETAINED = 2
"""A classifier over one class has no decision left to retain, so no request may leave fewer than two."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NAME_ALLOWED = "1 to 128 characters of A-Z a-z 0-9 . _ - (but not '.' or '..')"
EXAMPLES_ALLOWED = "a folder with images in folders of labels, or with Parquet shards of image and label"
_TARGET_ALLOWED = "a non-empty list of different ids, whole numbers of at least 0, as in [0, 3]"
_NAMES_ALLOWED = "different names of classes, texts that are not blank and of at most 200 characters"
_LONGEST_NAME = 200
_TIME_ALLOWED = "an ISO 8601 time with its offset from UTC, as in '2026-01-31T12:00:00Z'"
_LARGEST_ID = 2**31 - 1
_SHOWN = 120


class _Missing:
    """Shown in the place of the value of a field that a line does not have."""

    def __repr__(self) -> str:
        return "missing"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One demand to forget, checked on construction as far as it can be without a model.

    `target` holds ids of what `kind` says. It is sorted, `data_access` is sorted, times are turned into UTC.

    Attributes:
        deadline: until when; may have passed when the request was received.
        examples: of kind "examples" alone: where they are, a path; once they were taken in, "sha256:" and the
            digest that they are kept under.
        whole_classes: of kind "examples" alone: the labels to erase are classes to forget, all of what is
            in them; otherwise the classes stay, and what is like the examples gets another of their labels.
        priority: the higher, the sooner among equal deadlines.
        method: to be tried first, by name; None leaves it to whoever serves. Whether there is such a method
            is checked where methods are known.
        names: classes or labels of the target that are named, not numbered. Whoever knows the lineage's
            classes turns them into numbers (`rayunlearn.scheduling.class_names`); what is served and recorded
            has none.

    Raises:
        BadInput: naming the field, its value and what is allowed.
    """

    request_id: str
    lineage: str = DEFAULT_LINEAGE
    kind: str = "classes"
    target: tuple[int, ...] = ()
    received_at: datetime | None = None
    deadline: datetime | None = None
    data_access: tuple[str, ...] = ("weights",)
    examples: str | None = None
    whole_classes: bool = False
    priority: int = 0
    method: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field and bring it into its one form."""
        check_name("request_id", self.request_id)
        check_name("lineage", self.lineage)
        if self.kind not in KINDS:
            raise BadInput("kind", _shown(self.kind), nearest(shown(self.kind), KINDS))
        object.__setattr__(self, "names", _names(self.names, self.kind))
        named = bool(self.names) and self.target in ((), [])
        object.__setattr__(self, "target", () if named else _target(self.target))
        for name in ("received_at", "deadline"):
            object.__setattr__(self, name, _utc(name, getattr(self, name)))
        object.__setattr__(self, "data_access", _data_access(self.data_access))
        _check_examples(self)
        _check_priority(self.priority)
        if self.method is not None:
            check_name("method", self.method)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that are forgotten once the request is served; their images are in no later run."""
        return self.target if self.kind == "classes" or self.whole_classes else ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; `parse_requests` reads them back unchanged."""
        return {
            "request_id": self.request_id,
            "lineage": self.lineage,
            "kind": self.kind,
            "target": [*self.target, *self.names],
            "received_at": self.received_at.isoformat() if self.received_at else None,
            "deadline": self.deadline.isoformat() if self.deadline else None,
            "data_access": list(self.data_access),
            "examples": self.examples,
            "whole_classes": self.whole_classes,
            "priority": self.priority,
            "method": self.method,
        }


@dataclass(frozen=True)
class Rejected:
    """A line that is no request, with as much of it as could be read, for the record.

    Attributes:
        line: its number in the file, from 1.
        request_id: as given, or None where it has no usable one.
        lineage: the lineage it is filed under: as given, or the default where it names no usable one.
        kind: as given or by default; None where it is no kind.
        target: the ids that could be read, sorted, each once.
        reason: where, which thing, its value, what is allowed.
    """

    line: int
    request_id: str | None
    lineage: str
    kind: str | None
    target: tuple[int, ...]
    reason: str


def parse_requests(text: str, source: str) -> list[Request | Rejected]:
    """Read JSON Lines, one request a line, in file order; blank lines are skipped.

    A bad line becomes a `Rejected` and changes nothing about the others: the id of a rejected line is
    not taken, so a later line may use it.

    Args:
        text: the whole file.
        source: what the reasons call it, mostly its path.

    >>> text = '{"request_id": "a", "targets": [0]}\\n{"request_id": "a", "target": [0]}'
    >>> bad, good = parse_requests(text, "f")
    >>> print(bad.reason)
    f:1: field of request 'a' is 'targets'; allowed: 'target' (nearest of 11)
    >>> good.target
    (0,)
    """
    entries: list[Request | Rejected] = []
    line_of: dict[str, int] = {}
    # Not splitlines(): a JSON string may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        body: Mapping[str, Any] = {}
        try:
            if len(line) > MOST_LINE:
                raise BadInput("number of characters of the line", len(line), f"at most {MOST_LINE}")
            body = json_object(line)
            request = request_from(body)
            if request.request_id in line_of:
                used = f"an id of its own; line {line_of[request.request_id]} has this one"
                raise BadInput("request_id", request.request_id, used)
        except BadInput as error:
            entries.append(_rejected(number, body, error, source))
        else:
            line_of[request.request_id] = number
            entries.append(request)
    return entries


def check(
    request: Request,
    *,
    num_classes: int,
    forgotten: Sequence[int],
    samples_forgotten: Collection[int] = (),
    served_ids: Collection[str],
) -> None:
    """Refuse a request that the current version of its lineage cannot serve.

    Whether an id is that of a training sample, nobody can tell without the data: whoever may open the
    dataset checks that besides.

    Args:
        request: well formed already, by construction.
        num_classes: of the model; class ids go from 0 to `num_classes - 1`.
        forgotten: classes that the lineage has forgotten before.
        samples_forgotten: single samples that it has forgotten before.
        served_ids: ids of requests served before. A request that says what the served one said is to be
            answered by the caller (`same_request`) before it comes here.

    Raises:
        BadInput: for a class that the model does not have, a class or a sample forgotten already, a
            request that leaves fewer than two classes, and an id that was served with a different body.
    """
    where = f"request {request.request_id!r}"
    if request.names:
        raise BadInput("target class", list(request.names), "classes by their numbers", where=where)
    if request.request_id in served_ids:
        allowed = "an id that no served request has, or exactly the request that was served under it"
        raise BadInput("request_id", request.request_id, allowed, where=where)
    if request.kind == "samples":
        again = sorted(set(request.target) & set(samples_forgotten))
        if again:
            raise BadInput("target sample", _shown(again), "samples not forgotten already", where=where)
        return
    unknown = [c for c in request.target if c >= num_classes]
    if unknown:
        allowed = f"classes of the model, 0 to {num_classes - 1}"
        raise BadInput("target class", _shown(unknown), allowed, where=where)
    remaining = sorted(set(range(num_classes)) - set(forgotten))
    again = sorted(set(request.target) & set(forgotten))
    if again:
        allowed = f"classes not forgotten already, which are {remaining}"
        raise BadInput("target class", again, allowed, where=where)
    if not request.classes:
        if request.target == tuple(remaining):
            allowed = "a target that leaves a label to get in their place"
            raise BadInput("target", list(request.target), allowed, where=where)
        return
    retained = len(remaining) - len(request.target)
    if retained < LEAST_RETAINED:
        every = "every class" if len(remaining) == num_classes else "every remaining class"
        share = f"{every} of the model" if retained == 0 else f"all but {retained} of {remaining}"
        allowed = (
            f"a target that leaves at least {LEAST_RETAINED} classes to retain (this is {share}; "
            "a classifier over one class has nothing left to retain)"
        )
        raise BadInput("target", list(request.target), allowed, where=where)


def same_request(a: Request, b: Request) -> bool:
    """Whether two requests ask for the same thing under the same id, so that serving one serves both.

    `received_at` says when a request was handed over, not what it asks, and is filled in by whoever
    receives it; it is left out.
    """
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(Request) if f.name != "received_at")


def differences(a: Request, b: Request) -> str:
    """What the first of two requests asks otherwise than the second.

    >>> differences(Request(request_id="r", target=(3,)), Request(request_id="r", target=(4,), priority=1))
    'target [3] rather than [4], priority 0 rather than 1'
    """
    one, other = a.to_dict(), b.to_dict()
    return ", ".join(
        f"{name} {_shown(one[name])} rather than {_shown(other[name])}"
        for name in one
        if name != "received_at" and one[name] != other[name]
    )


def check_times(request: Request) -> None:
    """Refuse a request that itself says it was received after its deadline: one of the two is wrong.

    A deadline that had passed when somebody else noted the receipt is what was asked, and stays.

    Raises:
        BadInput: naming both times.
    """
    received_at, deadline = request.received_at, request.deadline
    if received_at and deadline and deadline < received_at:
        raise BadInput("deadline", deadline.isoformat(), f"not before received_at, {received_at.isoformat()}")


def parse_time(field: str, value: object) -> datetime | None:
    """The moment, in UTC, that the text of a field says; None says none.

    Raises:
        BadInput: it is no ISO 8601 time with an offset.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadInput(field, _shown(value), _TIME_ALLOWED)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise BadInput(field, _shown(value), _TIME_ALLOWED) from None
    return _utc(field, moment)


def run_id(lineage: str, request_ids: Sequence[str], config_hash: str, attempt: int) -> str:
    """The id of one attempt to serve some requests, from what it is and never from a clock.

    Requests coalesced in one run are a set: their order does not matter.

    >>> run_id("default", ["r1"], "c0ffee", 1)
    'run-r1-a1-5a11271080eb'
    """
    check_name("lineage", lineage)
    for request_id in request_ids:
        check_name("request_id", request_id)
    ids = sorted(request_ids)
    if not ids or len(set(ids)) != len(ids):
        raise BadInput("request_ids", list(request_ids), "at least one id, each once")
    if not isinstance(config_hash, str) or not config_hash:
        raise BadInput("config_hash", config_hash, "a non-empty string")
    check_value("attempt", attempt, NonNegativeInt)
    canonical = json.dumps([lineage, ids, config_hash, attempt], separators=(",", ":"))
    others = f"-and-{len(ids) - 1}" if len(ids) > 1 else ""
    return f"run-{ids[0][:32]}{others}-a{attempt}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def json_object(line: str) -> dict[str, Any]:
    """The JSON object on a line; a field given twice, or anything but one object, is refused.

    Raises:
        BadInput: saying where the text goes wrong.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise BadInput("field", _shown(name), "each field once; this one is given again")
            seen[name] = value
        return seen

    try:
        value = json.loads(line, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        rest = _shown(line[error.pos :].rstrip("\r"))
        allowed = f"one JSON object a line ({error.msg})"
        raise BadInput(f"malformed JSON: the text from column {error.colno}", rest, allowed) from None
    except RecursionError:
        allowed = "one JSON object a line, without nested objects"
        raise BadInput("malformed JSON: the text from column 1", _shown(line), allowed) from None
    except BadInput:
        raise
    except ValueError as error:  # a whole number of more digits than Python converts
        allowed = f"one JSON object a line ({error})"
        raise BadInput("malformed JSON: the text from column 1", _shown(line), allowed) from None
    if not isinstance(value, dict):
        raise BadInput("line", _shown(value), 'one JSON object, as in {"request_id": "r1", "target": [0]}')
    return value


def request_from(body: Mapping[str, Any]) -> Request:
    """The request that a JSON object says.

    Raises:
        BadInput: naming the field, its value and what is allowed.
    """
    names = [f.name for f in fields(Request) if f.name != "names"]  # they stand in the target
    for name in body:
        if name not in names:
            raise BadInput("field", _shown(name), nearest(name, names))
    for name, allowed in (("request_id", _NAME_ALLOWED), ("target", _TARGET_ALLOWED)):
        if name not in body:
            raise BadInput(name, _Missing(), f"{allowed}; the field is required")
    times = {name: parse_time(name, body.get(name)) for name in ("received_at", "deadline")}
    request = Request(**{**body, **times, **split_target(body["target"])})
    check_times(request)
    return request


def _rejected(number: int, body: Mapping[str, Any], error: BadInput, source: str) -> Rejected:
    """The record of a bad line; the reason names the request where that is known."""
    request_id, lineage, target = (body.get(name) for name in ("request_id", "lineage", "target"))
    kind = body.get("kind", KINDS[0])
    readable_id = request_id if _is_name(request_id) else None
    thing = error.thing
    if readable_id is not None and thing != "request_id":
        thing = f"{thing} of request {readable_id!r}"
    return Rejected(
        line=number,
        request_id=readable_id,
        lineage=str(lineage) if _is_name(lineage) else DEFAULT_LINEAGE,
        kind=kind if kind in KINDS else None,
        target=tuple(sorted({i for i in target if _is_id(i)})) if isinstance(target, list) else (),
        reason=str(BadInput(thing, error.value, error.allowed, where=f"{source}:{number}")),
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and value not in (".", "..")


def check_name(field: str, value: object) -> None:
    """Refuse what is no name of a request, a lineage or a method; no name leads out of a folder.

    Raises:
        BadInput: naming the field.
    """
    if not _is_name(value):
        raise BadInput(field, _shown(value), _NAME_ALLOWED)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_ID


def _target(value: object) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)) and len(value) > MOST_TARGET:
        raise BadInput("number of ids in target", len(value), f"at most {MOST_TARGET}")
    if not isinstance(value, (list, tuple)) or not value or not all(_is_id(i) for i in value):
        raise BadInput("target", _shown(value), _TARGET_ALLOWED)
    if len(set(value)) != len(value):
        raise BadInput("target", _shown(value), f"{_TARGET_ALLOWED}; each id once")
    return tuple(sorted(value))


def split_target(value: object) -> dict[str, Any]:
    """The fields of a request that a target says: its numbers, and the names among them.

    >>> split_target([3, "cat"]), split_target("cat")
    ({'target': [3], 'names': ['cat']}, {'target': 'cat'})
    """
    if not isinstance(value, list | tuple):
        return {"target": value}
    named = [thing for thing in value if isinstance(thing, str)]
    if not named:
        return {"target": value}
    return {"target": [thing for thing in value if not isinstance(thing, str)], "names": named}


def _names(value: object, kind: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise BadInput("target", _shown(value), _NAMES_ALLOWED)
    if len(value) > MOST_TARGET:
        raise BadInput("number of names in target", len(value), f"at most {MOST_TARGET}")
    if value and kind == "samples":
        raise BadInput("target", _shown(list(value)), f"{_TARGET_ALLOWED}; a training sample has no name")
    plain = all(isinstance(n, str) and n.strip() and len(n) <= _LONGEST_NAME and _is_text(n) for n in value)
    if not plain or len(set(value)) != len(value):
        raise BadInput("target", _shown(list(value)), _NAMES_ALLOWED)
    return tuple(sorted(value))


def _data_access(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(a, str) for a in value):
        raise BadInput("data_access", _shown(value), f"a non-empty list of {', '.join(DATA_ACCESS)}")
    for access in value:
        if access not in DATA_ACCESS:
            raise BadInput("data_access", _shown(access), nearest(access, DATA_ACCESS))
    if len(set(value)) != len(value):
        raise BadInput("data_access", _shown(value), "each kind of access once")
    return tuple(sorted(value))


def _check_examples(request: Request) -> None:
    """Refuse a request of kind "examples" without examples, and any other with some."""
    examples, whole = request.examples, request.whole_classes
    if not isinstance(whole, bool):
        raise BadInput("whole_classes", _shown(whole), "true or false")
    if request.kind == "examples":
        if not isinstance(examples, str) or not examples.strip() or not _is_text(examples):
            raise BadInput("examples", _shown(examples), EXAMPLES_ALLOWED)
    else:
        for name, value, none in (("examples", examples, None), ("whole_classes", whole, False)):
            if value is not none:
                raise BadInput(name, _shown(value), f"{none}; kind is {request.kind!r}, not 'examples'")


def _is_text(value: str) -> bool:
    """Whether a file name can be made of it, and a row of the ledger."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _check_priority(value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and value in range(-MOST_PRIORITY, MOST_PRIORITY + 1)):
        raise BadInput("priority", _shown(value), f"a whole number from {-MOST_PRIORITY} to {MOST_PRIORITY}")


def _utc(field: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise BadInput(field, _shown(value), "a datetime with its offset from UTC")
    if value.utcoffset() is None:
        raise BadInput(field, value.isoformat(), _TIME_ALLOWED)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise BadInput(field, value.isoformat(), "a time from year 1 to 9999 in UTC") from None


def _shown(value: object) -> object:
    """A value as an error shows it: itself, or the start of its text where that is long."""
    text = value if isinstance(value, str) else shown(value)
    return value if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
