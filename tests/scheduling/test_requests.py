"""Requests: what is accepted, what is refused and how it is said, and ids that depend on nothing else."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.queue import Pending
from rayunlearn.scheduling.requests import (
    DATA_ACCESS,
    KINDS,
    Rejected,
    Request,
    check,
    check_times,
    differences,
    parse_requests,
    run_id,
    same_request,
)

QUICK = settings(deadline=None, max_examples=80, database=None)
NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True).filter(lambda s: s not in (".", ".."))
MOMENTS = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))


@st.composite
def well_formed(draw):
    """Any well-formed request."""
    received_at = draw(st.none() | MOMENTS)
    wait = timedelta(seconds=draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(KINDS))
    given = kind == "examples"
    return Request(
        request_id=draw(NAMES),
        lineage=draw(NAMES),
        kind=kind,
        target=tuple(draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))),
        received_at=received_at,
        deadline=draw(st.sampled_from([None, received_at + wait if received_at else None])),
        data_access=tuple(draw(st.lists(st.sampled_from(DATA_ACCESS), min_size=1, unique=True))),
        examples=draw(NAMES) if given else None,
        whole_classes=given and draw(st.booleans()),
        priority=draw(st.integers(-1000, 1000)),
        method=draw(st.none() | NAMES),
    )


def line(**fields):
    """A JSON line of a good request with some fields replaced or added."""
    return json.dumps({"request_id": "r1", "target": [0], **fields})


def only(text):
    """The one entry that a text has."""
    (entry,) = parse_requests(text, "in.jsonl")
    return entry


def test_the_shortest_request_and_its_defaults():
    """An id and a target are enough; the rest has the documented defaults."""
    assert only('{"request_id": "r1", "target": [3, 0]}') == Request(
        request_id="r1",
        lineage="default",
        kind="classes",
        target=(0, 3),
        received_at=None,
        deadline=None,
        data_access=("weights",),
    )


def test_every_field_is_read():
    """Every field is read; times are turned into UTC."""
    request = only(
        line(
            lineage="mnist",
            kind="classes",
            target=[2],
            received_at="2026-01-31T12:00:00Z",
            deadline="2026-01-31T15:30:00.000001+02:00",
            data_access=["weights", "retain"],
        )
    )
    assert request.received_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert request.deadline == datetime(2026, 1, 31, 13, 30, 0, 1, tzinfo=UTC)
    assert request.deadline.tzinfo is UTC
    assert request.data_access == ("retain", "weights")


BAD_LINES = {
    "class list empty": (line(target=[]), ["target of request 'r1' is []", "non-empty"]),
    "class negative": (line(target=[1, -1]), ["[1, -1]", "at least 0"]),
    "too many ids": (line(target=list(range(100_001))), ["100001", "at most 100000"]),
    "a line too long": (line(target=[0])[:-1] + " " * 2_000_000 + "}", ["characters", "at most 2000000"]),
    "class twice": (line(target=[1, 2, 1]), ["[1, 2, 1]", "each id once"]),
    "class a bool": (line(target=[True]), ["[True]", "whole numbers"]),
    "class a float": (line(target=[1.0]), ["[1.0]"]),
    "class a blank name": (line(target=[" "]), ["[' ']", "names"]),
    "sample a name": (line(kind="samples", target=["1"]), ["['1']", "a training sample has no name"]),
    "class beyond the ledger's integers": (line(target=[2**63]), [str(2**63)]),
    "target a number": (line(target=3), ["target of request 'r1' is 3", "list"]),
    "target null": (line(target=None), ["is None"]),
    "target missing": ('{"request_id": "r1"}', ["target of request 'r1' is missing", "required"]),
    "id missing": ('{"target": [0]}', ["request_id is missing", "required"]),
    "id empty": (line(request_id=""), ["request_id is ''", "1 to 128"]),
    "id too long": (line(request_id="x" * 129), ["request_id is 'xxx", "…", "1 to 128"]),
    "id with a slash": (line(request_id="../r1"), ["'../r1'"]),
    "id the folder above": (line(request_id=".."), ["'..'"]),
    "id with a final newline": (line(request_id="r1\n"), [r"'r1\n'"]),
    "id not ASCII": (line(request_id="é"), ["'é'"]),
    "id a number": (line(request_id=7), ["request_id is 7"]),
    "lineage with a slash": (line(lineage="a/b"), ["lineage of request 'r1' is 'a/b'"]),
    "lineage null": (line(lineage=None), ["lineage of request 'r1' is None"]),
    "kind unknown": (line(kind="class"), ["kind of request 'r1' is 'class'", "'classes'"]),
    "examples without any": (line(kind="examples"), ["examples of request 'r1' is None", "Parquet"]),
    "examples not a path": (line(kind="examples", examples=[1]), ["examples of request 'r1' is [1]"]),
    "examples of classes": (line(examples="shard"), ["'shard'", "kind is 'classes'"]),
    "whole classes of samples": (line(kind="samples", whole_classes=True), ["is True", "'samples'"]),
    "whole classes a word": (line(kind="examples", examples="x", whole_classes="yes"), ["'yes'", "true"]),
    "sample twice": (line(kind="samples", target=[17, 17]), ["[17, 17]", "each id once"]),
    "kind a list": (line(kind=["classes"]), ["['classes']"]),
    "field unknown": (line(dead_line="x"), ["is 'dead_line'", "'deadline'"]),
    "field given twice": ('{"request_id": "r1", "target": [0], "target": [1]}', ["'target'", "once"]),
    "access unknown": (line(data_access=["weight"]), ["'weight'", "'weights'"]),
    "access a string": (line(data_access="weights"), ["'weights'", "list of"]),
    "access empty": (line(data_access=[]), ["is []"]),
    "access twice": (line(data_access=["weights", "weights"]), ["once"]),
    "time naive": (line(deadline="2026-01-31T12:00:00"), ["deadline of request 'r1'", "offset from UTC"]),
    "time unparsable": (line(received_at="yesterday"), ["received_at", "'yesterday'", "ISO 8601"]),
    "time a number": (line(received_at=1769860800), ["received_at", "1769860800"]),
    "time before year 1 in UTC": (line(deadline="0001-01-01T00:00:00+14:00"), ["year 1"]),
    "deadline before receipt": (
        line(received_at="2026-02-01T00:00:00Z", deadline="2026-01-31T23:59:59Z"),
        ["deadline", "2026-01-31T23:59:59+00:00", "not before received_at, 2026-02-01"],
    ),
    "not an object": ("[1, 2]", ["line is [1, 2]", "one JSON object"]),
    "a number of 5000 digits": ('{"target": [' + "9" * 5000 + "]}", ["malformed JSON", "one JSON object"]),
    "nested beyond reading": ("[" * 100_000, ["malformed JSON", "one JSON object"]),
    "two objects": (line() + " " + line(), ["malformed JSON", "Extra data"]),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_says_where_what_value_and_what_is_allowed(name):
    """Each kind of bad line is rejected in BadInput's form, at its line, in a short text."""
    text, words = BAD_LINES[name]
    entry = only("\n\n" + text)
    assert isinstance(entry, Rejected)
    assert entry.line == 3
    assert entry.reason.startswith("in.jsonl:3: ")
    assert " is " in entry.reason
    assert "; allowed: " in entry.reason
    assert all(word in entry.reason for word in words), entry.reason
    assert len(entry.reason) < 600


def test_malformed_json_names_line_and_column():
    """The reason for broken JSON has the line of the file and the column of the line."""
    good, bad = parse_requests(line() + '\n  {"request_id": "r2", "target": [0,}\n', "in.jsonl")
    assert isinstance(good, Request)
    assert isinstance(bad, Rejected)
    assert bad.reason.startswith(
        "in.jsonl:2: malformed JSON: the text from column 37 is '}'; allowed: one JSON"
    )
    assert (bad.request_id, bad.target) == (None, ())


def test_a_rejected_line_keeps_what_could_be_read():
    """Id, lineage and target survive for the record when another field is wrong; bad parts are left out."""
    entry = only(line(lineage="mnist", target=[5, 2, 2, "x", -1, True], kind="rows"))
    assert (entry.request_id, entry.lineage, entry.target) == ("r1", "mnist", (2, 5))
    assert entry.kind is None
    entry = only(line(request_id="a b", lineage=3, target="all"))
    assert (entry.request_id, entry.lineage, entry.target) == (None, "default", ())
    assert entry.kind == "classes"
    assert only(line(kind="samples", target=[-1])).kind == "samples"


def test_the_second_use_of_an_id_is_rejected():
    """Of two lines with one id the first is kept, and the reason for the second names its line."""
    first, second = parse_requests(line() + "\n" + line(target=[1]), "in.jsonl")
    assert isinstance(second, Rejected)
    assert first.target == (0,)
    assert "in.jsonl:2: request_id is 'r1'; allowed: an id of its own; line 1" in second.reason


def test_a_rejected_line_does_not_take_its_id():
    """An id on a bad line is free for the corrected line after it."""
    bad, good = parse_requests(line(target=[]) + "\n" + line(), "in.jsonl")
    assert isinstance(bad, Rejected)
    assert isinstance(good, Request)


@pytest.mark.parametrize("text", ["", "\n \n\t\n", "\ufeff", "\r\n\r\n"])
def test_blank_lines_are_no_requests(text):
    """A file of blank lines has no entries and no errors."""
    assert parse_requests(text, "in.jsonl") == []


def test_line_ends_and_marks_of_other_systems():
    """A byte order mark and CRLF ends are read; U+2028 inside a string does not end its line."""
    entries = parse_requests("\ufeff" + line() + "\r\n" + line(request_id="r2") + "\r\n", "in.jsonl")
    assert [e.request_id for e in entries] == ["r1", "r2"]
    entry = only('{"request_id": "a\u2028b", "target": [0]}')
    assert "request_id is" in entry.reason


@QUICK
@given(well_formed())
def test_json_round_trip(request):
    """What `to_dict` writes is read back as the same request."""
    assert only(json.dumps(request.to_dict())) == request


@QUICK
@given(
    st.lists(well_formed(), max_size=6, unique_by=lambda r: r.request_id),
    st.lists(st.sampled_from([text for text, _ in BAD_LINES.values()]), max_size=6),
    st.randoms(use_true_random=False),
)
def test_bad_lines_never_take_good_ones_with_them(good, bad, random):
    """Whatever bad lines stand between them, the good requests are read, unchanged and in order."""
    places = sorted(random.choices(range(len(good) + 1), k=len(bad)))
    lines = [json.dumps(r.to_dict()) for r in good]
    for place, text in reversed(list(zip(places, bad, strict=True))):
        lines.insert(place, text)
    entries = parse_requests("\n".join(lines), "in.jsonl")
    assert [e for e in entries if isinstance(e, Request)] == good
    assert len(entries) == len(good) + len(bad)


@QUICK
@given(
    st.text(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["request_id", "target", "deadline", "kind", "x"]), inner, max_size=4
            )
        ),
    ).map(json.dumps)
)
def test_no_text_raises(text):
    """Any text gives requests and rejections, one for each line that is not blank, and never an exception."""
    entries = parse_requests(text, "in.jsonl")
    assert len(entries) == sum(1 for part in text.removeprefix("\ufeff").split("\n") if part.strip())


# check


def refused(request, **given_):
    """The message with which `check` refuses a request."""
    arguments = {"num_classes": 10, "forgotten": (), "served_ids": set(), **given_}
    with pytest.raises(BadInput) as error:
        check(request, **arguments)
    return str(error.value)


def asks(*target, request_id="r1", **more):
    """A request to forget these classes, or what else its kind says."""
    return Request(request_id=request_id, target=target, **more)


def test_a_class_the_model_does_not_have():
    """The class ids and the model's range are named."""
    message = refused(asks(0, 10, 12))
    assert message == "request 'r1': target class is [10, 12]; allowed: classes of the model, 0 to 9"


def test_a_class_already_forgotten():
    """The class is named, with those that are left."""
    message = refused(asks(1, 3), forgotten=(3, 0))
    assert message.startswith("request 'r1': target class is [3]; allowed: classes not forgotten already")
    assert "[1, 2, 4, 5, 6, 7, 8, 9]" in message


@pytest.mark.parametrize(
    ("target", "forgotten", "words"),
    [
        (range(10), (), "this is every class of the model"),
        (range(2, 10), (0, 1), "this is every remaining class"),
        (range(9), (), "all but 1 of"),
        (range(3, 10), (0, 1), "all but 1 of"),
    ],
)
def test_at_least_two_classes_are_retained(target, forgotten, words):
    """All classes, all remaining ones, and all but one are refused, with the reason."""
    message = refused(asks(*target), forgotten=forgotten)
    assert words in message
    assert "at least 2 classes to retain" in message


def test_two_classes_left_are_enough():
    """The bound is two: a request that leaves exactly two is served."""
    check(asks(*range(8)), num_classes=10, forgotten=(), served_ids=set())
    check(asks(*range(1, 8)), num_classes=10, forgotten=[0], served_ids={"r0"})


def test_an_id_served_before():
    """The id of a served request is refused for a request that says something else."""
    assert "request_id is 'r1'" in refused(asks(0), served_ids={"r1"})
    assert "request_id is 'r1'" in refused(asks(17, kind="samples"), served_ids={"r1"})


def test_a_sample_already_forgotten():
    """Only those are named; a class of the same number has nothing to do with it."""
    message = refused(asks(3, 17, 254, kind="samples"), samples_forgotten=(254, 17))
    assert message == "request 'r1': target sample is [17, 254]; allowed: samples not forgotten already"
    check(asks(3, kind="samples"), num_classes=10, forgotten=(3,), served_ids=())
    check(asks(3), num_classes=10, forgotten=(), samples_forgotten=(3,), served_ids=())


def test_labels_to_erase_leave_a_label():
    """All but one may be erased from what is like the examples; whole classes obey the rules of classes."""
    given = {"kind": "examples", "examples": "shard"}
    common = {"num_classes": 4, "forgotten": [0], "served_ids": ()}
    check(asks(1, 2, **given), **common)
    assert "a target that leaves a label" in refused(asks(1, 2, 3, **given), **common)
    assert "leaves at least 2 classes" in refused(asks(1, 2, whole_classes=True, **given), **common)
    assert "not forgotten already" in refused(asks(0, **given), **common)
    assert asks(1, **given).classes == () and asks(1, whole_classes=True, **given).classes == (1,)


def test_samples_are_no_classes():
    """Ids beyond the model's classes, and as many as there are classes, are no reason to refuse samples."""
    check(asks(*range(2000), kind="samples"), num_classes=10, forgotten=range(8), served_ids=())


@QUICK
@given(
    st.integers(1, 8),
    st.sets(st.integers(0, 9), min_size=1),
    st.sets(st.integers(0, 7)),
)
def test_check_accepts_what_can_be_served_and_nothing_else(num_classes, target, forgotten):
    """A request passes exactly if its classes exist, are not forgotten, and two others remain."""
    forgotten = {c for c in forgotten if c < num_classes}
    remaining = set(range(num_classes)) - forgotten
    servable = target <= remaining and len(remaining - target) >= 2
    try:
        check(asks(*target), num_classes=num_classes, forgotten=sorted(forgotten), served_ids=())
    except BadInput:
        assert not servable
    else:
        assert servable


# construction, identity, run ids


@pytest.mark.parametrize("field", ["request_id", "target", "kind", "priority", "examples"])
@pytest.mark.parametrize("value", [10**5000, 0, "", "a\ud800"], ids=["huge", "0", "empty", "half"])
def test_odd_values_are_refused_by_a_sentence(field, value):
    """Numbers that Python turns into no text, what is false and not None, text that no file name can have."""
    if (field, value) != ("priority", 0):
        with pytest.raises(BadInput, match=f"{field} is .* allowed: "):
            Request(**{"request_id": "r", "target": (1,), field: value})


def test_construction_is_checked_too():
    """A request made in Python is checked and brought into its one form like one read from a file."""
    assert Request(request_id="r", target=(3, 1)).target == (1, 3)
    plus_two = timezone(timedelta(hours=2))
    request = Request(request_id="r", target=(1,), deadline=datetime(2026, 1, 1, 2, tzinfo=plus_two))
    assert request.deadline == datetime(2026, 1, 1, tzinfo=UTC)
    assert request.deadline.tzinfo is UTC
    good: dict[str, Any] = {"request_id": "r", "target": (1,)}
    for bad in ({"deadline": datetime(2026, 1, 1)}, {"deadline": "2026-01-01T00:00:00Z"}, {"target": ()}):
        with pytest.raises(BadInput):
            Request(**{**good, **bad})


def test_a_deadline_at_receipt_is_well_formed():
    """The deadline may be the very moment of receipt, written with another offset; not a second earlier."""
    now = "2026-02-01T00:00:00Z"
    assert isinstance(only(line(received_at=now, deadline="2026-02-01T02:00:00+02:00")), Request)
    assert isinstance(only(line(received_at=now, deadline="2026-02-01T01:59:59+02:00")), Rejected)


def test_who_notes_the_receipt_keeps_a_deadline_that_had_passed():
    """Only a request that says both times itself is refused; what was asked can be held with its receipt."""
    late = Request(request_id="r", target=(1,), deadline=datetime(2026, 1, 1, tzinfo=UTC))
    held = replace(late, received_at=datetime(2026, 2, 1, tzinfo=UTC))
    assert held.deadline == late.deadline and same_request(held, late)
    with pytest.raises(BadInput, match="deadline is '2026-01-01T00:00:00.*not before received_at, 2026-02"):
        check_times(held)
    check_times(late)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"received_at": datetime(2026, 1, 1, tzinfo=UTC)}, True),
        ({"target": (1, 0)}, True),
        ({"request_id": "r2"}, False),
        ({"lineage": "other"}, False),
        ({"target": (0,)}, False),
        ({"kind": "samples"}, False),
        ({"deadline": datetime(2026, 1, 1, tzinfo=UTC)}, False),
        ({"data_access": ("weights", "retain")}, False),
    ],
)
def test_same_request(change, same):
    """Two requests are the same if they ask the same, whenever each was received."""
    request = asks(0, 1)
    assert same_request(request, replace(request, **change)) == same


RUN: dict[str, Any] = {
    "lineage": "default",
    "request_ids": ("r1", "r2"),
    "config_hash": "c0ffee",
    "attempt": 1,
}


def test_run_ids_do_not_depend_on_order():
    """Requests coalesced in one run are a set."""
    assert run_id(**RUN) == run_id(**{**RUN, "request_ids": ["r2", "r1"]})


@pytest.mark.parametrize(
    "change",
    [{"lineage": "b"}, {"request_ids": ("r1",)}, {"request_ids": ("r1", "r3")}, {"config_hash": "c0ffe"}]
    + [{"attempt": 2}],
)
def test_run_ids_differ_in_each_part(change):
    """Changing any one part changes the hash of the id, not its readable prefix alone."""
    assert run_id(**RUN)[-12:] != run_id(**{**RUN, **change})[-12:]


@QUICK
@given(NAMES, st.lists(NAMES, min_size=1, max_size=3, unique=True), st.text(min_size=1), st.integers(0, 99))
def test_run_ids_are_file_names(lineage, request_ids, config_hash, attempt):
    """A run id is short and itself a name as a request id is."""
    run = run_id(lineage, request_ids, config_hash, attempt)
    assert len(run) <= 64
    Request(request_id=run, target=(0,))


@pytest.mark.parametrize(
    "change",
    [{"request_ids": ()}, {"request_ids": ("a", "a")}, {"attempt": -1}, {"attempt": True}]
    + [{"config_hash": ""}, {"lineage": "a/b"}, {"request_ids": ("",)}],
)
def test_run_ids_of_nothing_are_refused(change):
    """No requests, one twice, a negative attempt, an empty hash and bad names are refused."""
    with pytest.raises(BadInput):
        run_id(**{**RUN, **change})


# priority and method


def test_priority_and_method_are_read_and_say_what_is_asked():
    """Both come from a line, are left out of lines that do not say them, and are part of what is asked."""
    request = only(line(priority=-1000, method="gkt"))
    assert (request.priority, request.method) == (-1000, "gkt")
    plain = only(line())
    assert (plain.priority, plain.method) == (0, None)
    assert only(line(priority=1000, method=None)).priority == 1000
    assert not same_request(plain, replace(plain, priority=1))
    assert not same_request(plain, replace(plain, method="gkt"))


@pytest.mark.parametrize("value", [1001, -1001, True, 1.0, "1", None, [1]])
def test_a_priority_is_a_whole_number_within_bounds(value):
    """Anything else is refused with what is allowed."""
    bad = only(line(priority=value))
    assert "priority of request 'r1'" in bad.reason and "from -1000 to 1000" in bad.reason


@pytest.mark.parametrize("value", ["", "a b", "../gkt", 7, ["gkt"]])
def test_a_method_is_a_plain_name(value):
    """Whether there is one of that name, requests do not know."""
    assert "method of request 'r1'" in only(line(method=value)).reason


def test_differences_are_told_as_values():
    """Each differing field with both values, never the time of receipt; nothing where two are the same."""
    a = only(line(received_at="2026-01-01T00:00:00Z", method="gkt"))
    b = replace(a, received_at=None, target=(1,), method=None)
    assert differences(a, b) == "target [0] rather than [1], method gkt rather than None"
    assert differences(a, replace(a, received_at=None)) == ""


def test_pending_of_a_request_has_its_priority_and_method():
    """The queue goes by what the request says."""
    request = replace(only(line(priority=7, method="gkt")), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert Pending.of(request) == Pending(request=request, priority=7, method="gkt")
