"""The certificate: what it says is the ledger's, it needs nothing else, and nothing else looks like it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.reports.certificate import TITLES, certificate, to_html, to_json
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import NOON, in_memory, row_of
from tests.reports import demo_ledger as demo
from tests.reports.two_requests import BYTES, CONFIG, IDS, PATHS, Rows, story, tell

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "certificate.md"
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
METHODS = {
    "gkt": {"data_access": ["weights"], "summary": "gated knowledge transfer", "source": "section IV.C"},
    "retrain": {"data_access": ["retain", "weights"], "summary": "s", "source": "t"},
}


def made(store: Store, request_id: str, **changed: Any) -> dict[str, Any]:
    """A certificate, made at the same time as every other."""
    given: dict[str, Any] = {"made_at": MADE_AT, "methods": METHODS, "sealed": {"split"}}
    return certificate(store, request_id, **given | changed)


class Page(HTMLParser):
    """The text of a page with single spaces, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.words += data.split()


def page(store: Store, request_id: str, **changed: Any) -> Page:
    """The page of a certificate."""
    return Page(to_html(made(store, request_id, **changed)))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in plain data with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, name)
    else:
        yield name, value


@pytest.fixture
def served() -> Store:
    """Both requests served, the versions before purged."""
    return tell(in_memory())


def test_what_was_asked_done_and_published(served: Store) -> None:
    """Request, run, versions and purges are those of the ledger."""
    c = made(served, "r1")
    assert (c["status"], c["title"]) == ("served", "Erasure certificate")
    assert c["statement"].startswith("Forgotten from lineage default: 1 sample. Version ")
    assert c["request"]["target"] == [7] and c["request"]["data_access"] == ["weights"]
    assert c["request"]["deadline_met"] is True and c["request"]["closed_at"] == "2025-06-01T12:01:30+00:00"
    assert made(served, "r0")["request"]["deadline_met"] is False, "served 30 s after it"
    assert c["run"]["config"] == json.loads(CONFIG) and c["run"]["source"] == "section IV.C"
    assert c["run"]["seeds"] == {"run": str(2**60 + 1), "audit": []}
    assert c["run"]["code_version"] == "0.1+c0de"
    (attempt,) = c["attempts"]
    assert attempt["phases"] == [{"name": "unlearn", "seconds": 12.5, "note": None}]
    assert attempt["outcome"] == "published"
    assert [c["versions"][when]["version"] for when in ("before", "after")] == IDS[1:3]
    assert c["purged"]["versions"] == [
        {"version": version, "purged_at": "2025-06-01T13:00:00+00:00"} for version in IDS[:2]
    ]
    assert c["warnings"] == [] and c["purged"]["still_stored"] == []


def test_the_evidence_can_be_checked_without_this_program(served: Store) -> None:
    """Each entry's hash is that of its file's bytes; entries of other requests are not among them."""
    c = made(served, "r0")
    for entry in [*c["ledger"]["entries"], c["ledger"]["head"]]:
        assert hashlib.sha256(served.get(entry["file"])).hexdigest() == entry["sha256"]
        assert f"/{entry['number']:012d}." in entry["file"] and f"/{entry['table']}/" in entry["file"]
    # of 19 entries: the original, eight of this request and one purge; not the rest
    assert [entry["number"] for entry in c["ledger"]["entries"]] == [*range(1, 10), 18, 19]
    assert c["ledger"]["head"]["number"] == 19
    assert c["ledger"]["verify"] == "python -m rayunlearn models verify --storage memory"


def test_what_is_appended_later_does_not_change_what_was_said(served: Store) -> None:
    """The same storage gives the same bytes; another request's events change the head alone."""
    before = made(served, "r0")
    assert to_json(made(served, "r0")) == to_json(before)
    assert to_html(made(served, "r0")) == to_html(before)
    Ledger(served).append("requests", [row_of("requests", request_id="another")])
    after = made(served, "r0")
    assert after["ledger"].pop("head") != before["ledger"].pop("head")
    assert after == before


def test_a_broken_chain_is_not_certified(served: Store) -> None:
    """Negative control: an edited entry, of whatever table, and there is no certificate."""
    name = served.list("ledger/evaluations")[0]
    served.put(name, served.get(name)[:-1])
    with pytest.raises(IntegrityError, match=name):
        made(served, "r0")


def test_every_key_is_documented_and_every_documented_key_is_there() -> None:
    """The reference page names the keys of the JSON, and no other."""
    c = made(demo.demo_store(), "r2")
    keys = set()
    for key, value in c.items():
        told = isinstance(value, dict) and key != "run"
        keys |= {f"{key}.{inner}" for inner in value} if told else {key}
    keys |= {f"run.{inner}" for inner in c["run"]}
    rows = [line.split("|")[1] for line in DOCUMENTED.read_text().splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([a-z_.]+)`", "".join(rows))) == keys
    text = DOCUMENTED.read_text()
    measures = c["measures"]
    for of in (c["attempts"][0], c["versions"]["after"], measures["real"][0], measures["synthetic"][0]):
        assert all(f"`{key}`" in text for key in of)


def test_the_page_holds_what_the_json_holds() -> None:
    """Every id, hash, name, reason and sentence of the JSON is in the page's text."""
    c = made(demo.demo_store(), "r2")
    text = Page(to_html(c)).text
    shown = "id version sha256 method run_id statement verify limits file seed by"
    for name, value in leaves(c):
        if name.rsplit(".", 1)[-1] in shown.split():
            assert str(value) in text, name
    for figure in ("96.3 % (686/712)", "97.9 % (697/712)", "0.913", "95.0 % (171/180)"):
        assert figure in text
    assert "unlearned gold original" in text


def test_the_page_needs_nothing_else(served: Store) -> None:
    """No script, no picture, no address, no link."""
    html = to_html(made(served, "r1"))
    assert not re.search(r"https?:|@import|url\(|<script|href|src=", html, re.IGNORECASE)
    assert not {"script", "link", "iframe", "img", "a"} & {*Page(html).tags}


def test_what_users_wrote_is_text(served: Store) -> None:
    """Ids, reasons and settings that hold markup or control characters are shown, not obeyed."""
    hostile = demo.HOSTILE
    row = row_of("requests", request_id=hostile, event="rejected", reason=hostile, lineage=hostile)
    Ledger(served).append("requests", [row])
    html = to_html(made(served, hostile))
    assert "<script" not in html and "\x1b" not in html
    assert html.count("&lt;script&gt;") >= 4
    assert "\x1b" not in to_json(made(served, hostile))
    settings = to_html(made(served, "r0"))
    assert "</pre><b>" not in settings and "&lt;/pre&gt;&lt;b&gt;" in settings


@pytest.mark.parametrize(
    ("request_id", "status", "said"),
    [
        ("r4", "failed", demo.FAILED),
        ("r5", "rejected", demo.REJECTED),
        ("r6", "pending", "No run has begun."),
    ],
)
def test_what_was_not_served_never_looks_like_an_erasure(request_id: str, status: str, said: str) -> None:
    """The title says how it ended and that nothing was erased; the reason stands at the top."""
    store = demo.demo_store()
    Ledger(store).append("requests", [demo.request_row("r6", "received")])
    c = made(store, request_id)
    assert (c["status"], c["title"]) == (status, TITLES[status])
    text = Page(to_html(c)).text
    assert said in text and "this is no erasure certificate" in text
    assert "Erasure certificate" not in text and "Forgotten from" not in text
    assert c["versions"]["after"] is None and c["purged"]["versions"] == []


def test_an_unknown_request(served: Store) -> None:
    """It is refused with the nearest ids; so is any in an empty ledger."""
    with pytest.raises(BadInput, match="'r1'"):
        made(served, "r11")
    with pytest.raises(BadInput, match="the ledger has no requests"):
        made(in_memory(), "r1")


def test_a_rejected_line_does_not_touch_the_request_of_its_id(served: Store) -> None:
    """It is told beside it."""
    row = row_of("requests", request_id="r0", event="rejected", reason="again", at=NOON)
    Ledger(served).append("requests", [row])
    c = made(served, "r0")
    assert c["status"] == "served" and c["reason"] is None
    assert c["rejected_lines"] == [{"at": NOON.isoformat(), "reason": "again"}]
    assert "again" in Page(to_html(c)).text


def test_a_zero_shot_run_touched_no_data(served: Store) -> None:
    """Weights alone, by hash, and how that is enforced; where nobody sealed the run, that is not claimed."""
    data = made(served, "r1")["data"]
    assert data["real"] is False and data["enforced"].startswith("A run is handed")
    assert [(handed["kind"], handed["sha256"]) for handed in data["handed"]] == [("weights", IDS[1])]
    assert "Real data: none." in page(served, "r1").text and "connects no socket" in page(served, "r1").text
    inline = page(served, "r1", sealed=set()).text
    assert "connects no socket" not in inline and "not known of the placement 'split'" in inline


def test_data_that_any_attempt_was_handed_is_told() -> None:
    """A first attempt by another method counts as well; a method that is not known leaves it open."""
    (started, *_) = [row for table, row in story() if table == "runs"]
    other = started | {"run_id": "run-first", "method": "retrain"}
    first: Rows = [("runs", other), ("runs", other | {"event": "failed", "reason": "no"})]
    store = tell(in_memory(), [*story()[:2], *first, *story()[2:]])
    data = made(store, "r0")["data"]
    assert data["real"] is True and [handed["kind"] for handed in data["handed"]] == ["retain", "weights"]
    assert "Real data: handed over as below." in page(store, "r0").text
    assert [attempt["outcome"] for attempt in made(store, "r0")["attempts"]] == ["failed", "published"]
    unknown = made(store, "r0", methods={"gkt": METHODS["gkt"]})["data"]
    assert unknown["handed"] is None and unknown["real"] is None
    assert "Not known." in page(store, "r0", methods={}).text


def test_examples_are_told_by_their_hash() -> None:
    """The digest of what was given, and whether it is still there."""
    store = demo.examples_store()
    few_shot = {"x": {"data_access": ["few_examples", "weights"], "summary": "", "source": ""}}
    (examples, _) = made(store, "whole", methods=few_shot)["data"]["handed"]
    assert examples["sha256"] == "abc"
    store.put("examples/abc.safetensors", b"")
    c = made(store, "whole")
    assert c["purged"]["still_stored"] == ["examples/abc.safetensors"]
    assert "1.4 (74/390)" in Page(to_html(c)).text, "a threshold is no share"


def test_what_is_still_stored_is_warned_of(served: Store) -> None:
    """Weights that the ledger calls purged and files of a run: named, whatever the ledger says."""
    served.put(PATHS[0], BYTES[0])
    served.put("runs/run-1/state.pt", b"")
    c = made(served, "r1")
    assert c["purged"]["still_stored"] == [PATHS[0], "runs/run-1/state.pt"]
    (warning,) = c["warnings"]
    assert warning.startswith("2 files") and warning in Page(to_html(c)).text
    assert "Neither their weights" not in Page(to_html(c)).text


def test_publication_although_refused_or_unrecorded_is_warned_of() -> None:
    """An experiment's publication says so; a version without the word "served" is pending."""
    rows = story()
    served = next(row for table, row in rows if (row.get("event"), row.get("request_id")) == ("served", "r1"))
    served["reason"] = "gate: no"
    (warning,) = made(tell(in_memory(), rows), "r1")["warnings"]
    assert "although it was refused: gate: no" in warning
    served["reason"] = "the gate cannot tell: why"
    (warning,) = made(tell(in_memory(), rows), "r1")["warnings"]
    assert warning == (
        "It was published undecided, since the settings have such results published (gate.undecided): "
        "the gate cannot tell: why."
    )
    c = made(tell(in_memory(), [(table, row) for table, row in rows if row is not served]), "r1")
    assert c["status"] == "pending" and c["versions"]["after"]["version"] == IDS[2]
    assert "was published for this request, which is not recorded as served" in c["warnings"][0]
    assert "Erasure certificate" not in Page(to_html(c)).text


def test_a_deadline(served: Store) -> None:
    """None where none was set; a request that is not served has missed one that has passed."""
    row = demo.request_row("late", "received", deadline=NOON + timedelta(hours=1))
    Ledger(served).append("requests", [row, row | {"request_id": "none", "deadline": None}])
    for now, met, said in ((MADE_AT, False, "missed"), (NOON, None, "not passed yet")):
        c = made(served, "late", made_at=now)
        assert c["request"]["deadline_met"] is met and f"UTC: {said}" in Page(to_html(c)).text
    assert made(served, "none")["request"]["deadline_met"] is None
    assert "none was recorded" in page(served, "none").text


def test_what_is_not_known_is_said_to_be(served: Store) -> None:
    """Where the ledger lacks the version before, nothing is made up; numbers that are none stay text."""
    rows = [(t, r) for t, r in story() if t != "versions" or r["version"] != IDS[0]]
    rows = [(t, r | {"value": float("nan")}) if t == "evaluations" else (t, r) for t, r in rows]
    rows = [(t, r | {"code": None}) if t == "runs" else (t, r) for t, r in rows]
    c = made(tell(in_memory(), rows), "r0")
    assert c["versions"]["before"] is None and c["run"]["code_version"] is None
    assert c["measures"]["synthetic"][0]["value"] == "nan"
    json.loads(to_json(c), parse_constant=pytest.fail)
    text = Page(to_html(c)).text
    assert "Which version took the place of which is not known." in text
    assert "code version not known" in text


def test_a_class_that_came_back_is_warned_of(served: Store) -> None:
    """An audit that recognises the forgotten class again, more than gold does, stands at the top."""
    shares = {"unlearned": 22.0, "gold": 0.0}
    audit = {"version": IDS[1], "split": "test"}
    rows = [
        demo.measure("run-0", subject, name, (0,), sum=right, count=88, **audit)
        for subject, right in shares.items()
        for name in ("forget_accuracy", "class_accuracy")
    ]
    Ledger(served).append("audits", rows)
    c = made(served, "r0")
    assert c["warnings"] == [
        "What was forgotten came back: class 0 (25.0 % of its test images recognised)."
    ]
    (real, _) = c["measures"]["real"]
    assert {subject: figure["value"] for subject, figure in real["figures"].items()} == {
        "unlearned": 0.25, "gold": 0.0,
    }  # fmt: skip


def test_a_predicted_d_r_is_told_with_its_interval_and_its_calibration(served: Store) -> None:
    """In the JSON as shares and a hash, on the page in percent; where none was predicted nothing is said."""
    assert made(served, "r1")["run"]["calibration"] is None
    assert "calibration of the predicted" not in page(served, "r1").text
    told = {"dataset": "synthetic", "subject": "unlearned", "classes": [1, 2], "sum": None, "count": None}
    digest = json.dumps({"calibration": "c0ffee", "kept": {}})
    run = made(served, "r1")["run"]["run_id"]
    names = {"predicted_d_r": 0.9375, "predicted_d_r_low": 0.8, "predicted_d_r_high": 1.0}
    rows = [
        row_of("evaluations", **told, run_id=run, measure=name, value=value, step=None, parameters=digest)
        for name, value in names.items()
    ]
    Ledger(served).append("evaluations", rows)
    c = made(served, "r1")
    assert c["run"]["calibration"] == "c0ffee"
    assert {m["measure"]: m["value"] for m in c["measures"]["synthetic"]}.items() >= names.items()
    text = page(served, "r1").text
    assert "predicted D_r, relative to D_r of the version before" in text and "93.8 %" in text
    assert "c0ffee" in text
