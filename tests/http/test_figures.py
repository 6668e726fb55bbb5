"""Over a ledger as jobs leave it: certificates, versions, status and metrics; whoever wrote what is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rayunlearn.ledger.ledger import Ledger
from rayunlearn.reports.certificate import certificate, to_json
from rayunlearn.storage.lease import Lease
from rayunlearn.storage.store import Store
from tests.http.conftest import Running, Start, start, token_file
from tests.http.test_answers import asks, is_refused
from tests.ledger.ledgers import contents
from tests.reports.demo_ledger import HOSTILE, demo_store
from tests.reports.demo_ledger import request_row as row

PAST, FUTURE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


def in_folder(store: Store, folder: Path) -> Store:
    """The same files in a folder."""
    copy = Store.open(folder, sync=False)
    for name, data in contents(store).items():
        if name != "rayunlearn.json":
            copy.put(name, data)
    return copy


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A front door over a ledger of three served requests, a failed one and a rejected one."""
    folder = tmp_path_factory.mktemp("jobs")
    in_folder(demo_store(failed=HOSTILE, rejected=HOSTILE), folder / "storage")
    running = start(folder / "storage", "--tokens", str(token_file(folder)))
    yield running
    running.end()


def test_a_certificate_is_that_of_the_command(jobs: Running) -> None:
    """As JSON the same document but for its time; as a page for who wants one; none of an unknown request."""
    with jobs.client("reader") as reader:
        made = reader.get("/v1/requests/r1/certificate").json()
        page = reader.get("/v1/requests/r1/certificate", headers={"Accept": "text/html,*/*"})
        unknown = reader.get("/v1/requests/r99/certificate")
    from rayunlearn.execution.placement import Placement
    from rayunlearn.methods.catalogue import described

    by_command = certificate(
        Store.open(jobs.storage, create=False), "r1", made_at=datetime.fromisoformat(made["made"]["at"]),
        methods={method["name"]: method for method in described()},
        sealed={placement.value for placement in Placement},
    )  # fmt: skip
    assert made == json.loads(to_json(by_command)) and made["status"] == "served"
    assert page.headers["content-type"].startswith("text/html") and made["statement"][:20] in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert is_refused(unknown, 404, "not_found", "request is 'r99'; allowed: 'r1'")


def test_what_others_wrote_is_text(jobs: Running) -> None:
    """A reason that is markup is escaped on the page, and a string in JSON; negative control: it is there."""
    with jobs.client("reader") as reader:
        page = reader.get("/v1/requests/r4/certificate", headers={"Accept": "text/html"}).text
        one = reader.get("/v1/requests/r4")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert one.json()["reason"] == HOSTILE and one.headers["content-type"] == "application/json"


def test_versions_and_status(jobs: Running) -> None:
    """What was published, and how many requests have each status; neither says where anything is."""
    with jobs.client("reader") as reader:
        versions = reader.get("/v1/versions").json()["versions"]
        none = reader.get("/v1/versions", params={"lineage": "other"}).json()["versions"]
        status = reader.get("/v1/status").json()
    assert [v["request_ids"] for v in versions] == [["r1"], ["r2"], ["r3"]] and none == []
    assert versions[-1]["parent"] == versions[-2]["version"]
    assert not {"path", "model"} & versions[0].keys()
    assert status["counts"] == {"served": 3, "failed": 1, "rejected": 1, "waiting": 0}
    assert status["scheduler"] is None


def figures(running: Running) -> dict[str, float]:
    """The metrics by name and labels."""
    with running.client("reader") as reader:
        answer = reader.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_say_what_the_ledger_says(door: Start, tmp_path: Path) -> None:
    """Depth by state, slack, misses, runs, claims, checkpoints; each moves when its cause does."""
    storage = tmp_path / "storage"
    store = in_folder(demo_store(), storage)
    running = door("--tokens", str(token_file(tmp_path)), storage=storage)
    before = figures(running)
    assert before['rayunlearn_requests{status="served"}'] == 3
    assert before['rayunlearn_requests{status="waiting"}'] == 0
    assert sum(n for name, n in before.items() if name.startswith("rayunlearn_runs{")) == 4
    assert sum(n for name, n in before.items() if 'outcome="failed"' in name) == 1
    assert before["rayunlearn_claims_total"] == before["rayunlearn_log_checkpoint_entries"] == 0
    assert "rayunlearn_least_slack_seconds" not in before, "nothing waits"
    with running.client("platform") as platform:
        platform.post("/v1/requests", json=asks("w1", deadline=FUTURE.isoformat()))
        platform.post("/v1/requests", json=asks("w2", deadline=PAST.isoformat()))
        platform.post("/v1/requests", json=asks("w3"))
        platform.post("/v1/requests", json=asks("w3", 4))
    ledger = Ledger(store)
    late = {"deadline": PAST, "at": PAST + timedelta(days=1)}
    ledger.append("requests", [row("late", "received", **late), row("late", "served", **late)])
    ledger.append("requests", [row("timely", "served", deadline=PAST, at=PAST - timedelta(days=1))])
    Lease.take(store)
    store.put("log/checkpoints/000000000007.note", b"not read")
    after = figures(running)
    assert after['rayunlearn_requests{status="waiting"}'] == 3
    assert after['rayunlearn_requests{status="served"}'] == 5
    assert after["rayunlearn_deadlines_missed"] - before["rayunlearn_deadlines_missed"] == 2, "w2 and late"
    assert after["rayunlearn_least_slack_seconds"] < 0, "w2 is overdue"
    assert after["rayunlearn_claims_total"] == 1 and after["rayunlearn_log_checkpoint_entries"] == 7
    assert after["rayunlearn_ledger_entries"] == before["rayunlearn_ledger_entries"] + 2
    assert after['rayunlearn_http_refusals_total{reason="id_taken"}'] == 1
    assert after['rayunlearn_http_answers_total{route="/v1/requests",status="201"}'] == 3


def test_no_label_says_who(jobs: Running) -> None:
    """Neither an id nor a token's name nor what a caller wrote is in the metrics, whatever was asked."""
    with jobs.client("reader") as reader, jobs.client() as nobody:
        reader.get("/v1/requests/somebody-known")
        reader.get("/v1/somebody-known")
        nobody.get("/v1/requests", headers={"Authorization": "Bearer somebody-known"})
        text = reader.get("/metrics").text
    for word in ("somebody-known", "r1", "r4", "reader", "platform", "script", "default"):
        assert not re.search(rf'"[^"]*{word}[^"]*"', text), word
    assert 'rayunlearn_runs{method="x",outcome="published"}' in text, "negative control: a method is a label"
