"""Secrets of the environment and of addresses reach nothing that is written, printed, pickled or raised."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayunlearn.cli.models_command import ListOptions as ModelsListOptions
from rayunlearn.cli.models_command import VerifyOptions, run_models
from rayunlearn.cli.report_command import ReportOptions, run_report
from rayunlearn.cli.request_command import AddOptions, ListOptions, run_request
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import request_events, status
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.reports.report import write_report
from rayunlearn.reports.summary import summarise
from rayunlearn.reports.terminal import JobProgress, open_console, result_table
from rayunlearn.scheduling.plan import PlanSettings
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.dispatch import Dispatcher
from rayunlearn.serving.grants import grant
from rayunlearn.serving.intake import take_in
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.settings import to_json
from rayunlearn.storage.lease import held
from rayunlearn.storage.store import NotStored, Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.ledger.ledgers import row_of
from tests.serving.tiny import NOON, original, tiny_context, tiny_recipe
from tests.storage.s3_server import BUCKET, S3Server

MARK = "hush"
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{MARK}".upper(),
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-key",
    "AWS_SESSION_TOKEN": f"{MARK}-token",
    "RAY_AUTH_TOKEN": f"{MARK}-ray",
}


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A storage location, with secrets in the environment."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    if request.param == "folder":
        yield str(tmp_path / "storage")
        return
    pytest.importorskip("moto.server", reason="needs the extra s3-tests: moto[server]")
    server = S3Server()
    for name, value in {**server.environment, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/secrets"
    server.stop()


def written(store: Store) -> str:
    """Everything in a storage location, compressed rows as values too."""
    reader = LedgerReader(store, ALL_TABLES)
    rows = "".join(str(reader.read(table).to_pylist()) for table in sorted(ALL_TABLES))
    return rows + "".join(name + store.get(name).decode("latin-1") for name in store.list())


def serve(store: Store) -> None:
    """Take the inbox in by way of the ledger, serve it in this process, and report as a job does."""
    recipe = tiny_recipe("digits_gkt")
    console = open_console()
    with JobProgress(console) as progress, held(store) as lease:
        context = replace(tiny_context(store, recipe), progress=progress, lease=lease)
        scheduler = Scheduler(context, open_executor=InlineExecutor, placement="inline", grant=grant)

        def begin(lineage: str) -> None:
            spec, weights = original()
            scheduler.publish(
                lineage=lineage, weights=weights, spec=spec, parent=None, request_ids=[],
                classes_forgotten=(), run=None,
            )  # fmt: skip

        asked = [Request(request_id="served", target=(0,)), Request(request_id="bad", target=(99,))]
        intake, rows = take_in(
            LedgerReader(store), asked, method="gkt", num_classes=10, config_hash="c0", now=NOON,
            check_samples=lambda roles, head: None, read_examples=lambda request: "",
        )  # fmt: skip
        context.ledger.append("requests", rows)
        dispatcher = Dispatcher(
            context, scheduler_for=lambda method: scheduler, settings=PlanSettings(order=("gkt",)),
            begin_lineage=begin,
        )  # fmt: skip
        dispatcher.drain(intake.pending)
    summaries = summarise(LedgerReader(store, ALL_TABLES), ["served", "bad"])
    console.print(result_table(summaries))
    page = write_report(summaries, {}, {}, to_json(recipe), {"storage": store.where}, Ledger(store).verify())
    store.put("reports/report.html", page.encode())


def test_no_secret_is_written_or_printed(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Inbox, lease, ledger, weights, report and certificate, and what every command says meanwhile."""
    assert run_request(AddOptions(target=(1,), storage=storage)) == ExitCode.OK
    store = Store.open(storage)
    serve(store)
    assert run_request(ListOptions(storage=storage)) == ExitCode.OK
    assert run_report(ReportOptions(request="served", storage=storage)) == ExitCode.OK
    assert run_report(ReportOptions(request="bad", storage=storage)) == ExitCode.OK
    assert run_models(ModelsListOptions(storage=storage)) == ExitCode.OK
    assert run_models(VerifyOptions(storage=storage)) == ExitCode.OK
    said = "".join(capsys.readouterr())
    kept = written(store)
    events = request_events(LedgerReader(store))
    assert status(events["served"]) == "served" and "reports/certificate-served.html" in kept
    assert MARK not in (kept + said).lower()
    row = row_of("requests", reason=SECRETS["AWS_SESSION_TOKEN"], event="rejected")
    Ledger(store).append("requests", [row])
    assert MARK in written(store), "negative control: it is found in compressed rows"


def test_no_secret_is_pickled_or_raised(storage: str) -> None:
    """A store, as it goes to an actor, what a context shows of itself, and the errors of a store."""
    store = Store.open(storage)
    context = tiny_context(store, tiny_recipe())
    told = [repr(pickle.dumps(store)), repr(context), repr(pickle.dumps(context.recipe)), repr(vars(store))]
    for action in (lambda: store.get("a"), lambda: store.get("../a"), lambda: store.create("a", b"")):
        with pytest.raises((NotStored, BadInput, FileExistsError)) as caught:
            action() or action()
        told += traceback.format_exception(caught.value) + [repr(pickle.dumps(caught.value))]
    assert MARK not in "".join(told).lower()


@pytest.mark.parametrize(
    "address", ["s3://key:hush@bucket/prefix", "https://key:hush@host/b", "s3:/k:hush@b"]
)
def test_a_password_in_an_address_is_not_repeated(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever command is given it."""
    for options in (AddOptions(target=(1,), storage=address), ListOptions(storage=address)):
        assert run_request(options) == ExitCode.BAD_INPUT
    assert run_report(ReportOptions(request="r", storage=address)) == ExitCode.BAD_INPUT
    assert run_models(VerifyOptions(storage=address)) == ExitCode.BAD_INPUT
    said = "".join(capsys.readouterr())
    assert said.count("error: storage is") == 4 and MARK not in said
