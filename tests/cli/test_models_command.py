"""`python -m rayunlearn models` and `report`: what they show, write and refuse."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors

from rayunlearn.__main__ import main
from rayunlearn.cli.models_command import ExportOptions, ListOptions, VerifyOptions, run_models
from rayunlearn.cli.report_command import ReportOptions, run_report
from rayunlearn.errors import IntegrityError
from rayunlearn.lineages.requested import request_row
from rayunlearn.models.weights import load_weights_file, version_id
from rayunlearn.serving.retention import purge
from rayunlearn.storage.store import Store
from tests.reports.two_requests import BYTES, IDS, PATHS, tell
from tests.serving.tiny import NOON, files_of, forget, tiny_recipe, tiny_scheduler

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A folder in which two requests were served and what they superseded was purged."""
    tell(Store.open(tmp_path / "storage", sync=False))
    return tmp_path / "storage"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, with single spaces."""
    return " ".join(capsys.readouterr().out.split())


def test_list_shows_every_version(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oldest first, a line each: id, parent, requests, what it forgot, method, and whether it is kept."""
    assert run_models(ListOptions(storage=storage)) == 0
    out = said(capsys)
    rows = [
        f"default {IDS[0][:12]} – none, the – – 2025-06-01 purged",
        f"{IDS[1][:12]} {IDS[0][:12]} r0 0 gkt 2025-06-01 purged",
        f"{IDS[2][:12]} {IDS[1][:12]} r1 0 and 1 gkt 2025-06-01 kept",
    ]
    places = [out.index(row) for row in rows]
    assert places == sorted(places)


def test_list_as_json(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for programs, with whole ids and times."""
    assert run_models(ListOptions(storage=storage, json=True)) == 0
    first, _, last = json.loads(capsys.readouterr().out)
    assert (first["version"], first["parent"], first["method"]) == (IDS[0], None, None)
    assert (last["request_ids"], last["classes_forgotten"], last["samples_forgotten"]) == (["r1"], [0], [7])
    assert (first["purged_at"], last["purged_at"]) == ("2025-06-01T13:00:00+00:00", None)


def test_list_of_one_lineage(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lineage that is none is refused with the nearest; before the first version there is a sentence."""
    assert run_models(ListOptions(storage=storage, lineage="default")) == 0
    assert IDS[2][:12] in said(capsys)
    assert run_models(ListOptions(storage=storage, lineage="defualt")) == 2
    assert "--lineage is 'defualt'; allowed: 'default'" in said(capsys)
    Store.open(storage.parent / "new", sync=False)
    assert run_models(ListOptions(storage=storage.parent / "new")) == 0
    assert "No version was published yet." in said(capsys)


def test_verify_writes_nothing(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a finding the exit code is 0, and every file is as before."""
    before = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    assert run_models(VerifyOptions(storage=storage)) == 0
    out = said(capsys)
    assert "No finding" in out and "recomputed: 1" in out and "gone: 2" in out and "that run: 2" in out
    assert {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()} == before


def test_verify_lists_findings(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control: weights exchanged, and weights that were to be gone: both are named."""
    (storage / PATHS[2]).write_bytes(BYTES[1])
    (storage / PATHS[0]).write_bytes(BYTES[0])
    assert run_models(VerifyOptions(storage=storage)) == IntegrityError.exit_code
    out = said(capsys)
    assert out.count("finding: ") == 2 and "2 findings in" in out
    assert f"those of {IDS[1]}; expected: {IDS[2]}" in out and "still stored" in out


def test_export(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds the version's weights and says what they are; one that is there is left alone."""
    out = tmp_path / "v.safetensors"
    given: dict[str, Any] = {"version": IDS[2][:8], "out": out, "storage": storage}
    assert run_models(ExportOptions(**given)) == 0
    assert "forgotten: 0 and 1 sample" in said(capsys)
    assert version_id(load_weights_file(out)) == IDS[2]
    with safetensors.safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "version": IDS[2], "lineage": "default", "classifier": "{}", "classes_forgotten": "[0]",
    }  # fmt: skip
    out.write_bytes(b"mine")
    assert run_models(ExportOptions(**given)) == 2
    assert out.read_bytes() == b"mine" and "--force" in said(capsys)
    assert run_models(ExportOptions(**given, force=True)) == 0
    assert version_id(load_weights_file(out)) == IDS[2]
    assert run_models(ExportOptions(**given | {"out": tmp_path / "none" / "v"})) == 2
    assert "--out is" in said(capsys)


def test_export_refuses(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A purged version by when and for what it went; an unknown one by candidates; edited weights by name."""
    given: dict[str, Any] = {"out": tmp_path / "v.safetensors", "storage": storage}
    assert run_models(ExportOptions(version=IDS[1], **given)) == 2
    gone = f"purged at 2025-06-01 13:00 UTC, after version {IDS[2][:12]} superseded it for request 'r1'"
    assert gone in said(capsys)
    assert run_models(ExportOptions(version="zz", **given)) == 2
    assert f"{IDS[2][:12]} (default), {IDS[1][:12]} (default)" in said(capsys)
    (storage / PATHS[2]).write_bytes(BYTES[1])
    assert run_models(ExportOptions(version=IDS[2], **given)) == IntegrityError.exit_code
    assert "does not hold version" in said(capsys)
    assert not given["out"].exists()


def test_report_writes_page_and_json(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Side by side beside the jobs' reports, or where `--out` says; the terminal has the sentence."""
    assert run_report(ReportOptions(request="r1", storage=storage), now=MADE_AT) == 0
    out = said(capsys)
    assert out.startswith("Erasure certificate. Forgotten from lineage default: 1 sample.")
    folder = storage / "reports"
    c = json.loads((folder / "certificate-r1.json").read_text())
    assert c["status"] == "served" and c["made"]["at"] == "2026-01-01T00:00:00+00:00"
    assert c["run"]["declared"] == ["weights"] and "Zero-Shot" in c["run"]["source"]
    assert "connects no socket" in c["data"]["enforced"]
    assert c["statement"] in (folder / "certificate-r1.html").read_text()
    other = storage.parent / "for" / "the auditor"
    assert run_report(ReportOptions(request="r1", storage=storage, out=other), now=MADE_AT) == 0
    assert {path.read_bytes() for path in other.iterdir()} == {path.read_bytes() for path in folder.iterdir()}
    assert run_models(VerifyOptions(storage=storage)) == 0, "reports are no part of what is verified"


def test_report_refuses(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown request, a folder that is a file, a storage that is none; nothing is written."""
    before = sorted(storage.rglob("*"))
    assert run_report(ReportOptions(request="r9", storage=storage)) == 2
    assert "request is 'r9'; allowed: " in said(capsys)
    assert run_report(ReportOptions(request="r1", storage=storage, out=storage / "rayunlearn.json")) == 2
    assert "--out is" in said(capsys)
    assert run_report(ReportOptions(request="r1", storage=storage / "ledger")) == 2
    assert sorted(storage.rglob("*")) == before


def test_the_command_line(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nested commands and positional ids as the documentation writes them."""
    out = storage.parent
    for arguments in (
        ["models", "list", "--json", "--storage", str(storage)],
        ["models", "verify", "--storage", str(storage)],
        ["models", "export", IDS[2][:6], "--out", f"{out}/v.safetensors", "--storage", str(storage)],
        ["report", "r0", "--out", str(out), "--storage", str(storage)],
    ):
        monkeypatch.setattr(sys, "argv", ["rayunlearn", *arguments])
        assert main() == 0, arguments
    assert {path.name for path in out.iterdir()} >= {"v.safetensors", "certificate-r0.html"}
    monkeypatch.setattr(sys, "argv", ["rayunlearn", "models", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert re.search("• list .*• verify .*• export ", said(capsys))


def test_what_the_real_scheduler_leaves_is_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request served and purged for real: no finding, before the purge and after; a certificate of it."""
    store = Store.open(tmp_path / "storage", sync=False)
    scheduler = tiny_scheduler(store, tiny_recipe())
    context, request = scheduler.context, forget(0)
    context.ledger.append("requests", [request_row(request, "received", NOON)])
    outcome = scheduler.serve(request)
    where = {"storage": tmp_path / "storage"}
    assert run_models(VerifyOptions(**where)) == 0
    assert run_report(ReportOptions(request="forget-0", **where), now=MADE_AT) == 0
    assert re.search(r"\d+ files that may know what was to be forgotten are still stored", said(capsys))
    purge(store, context.ledger, context.clock)
    assert run_models(VerifyOptions(**where)) == 0
    assert run_report(ReportOptions(request="forget-0", **where), now=MADE_AT) == 0
    c = json.loads(files_of(store)["reports/certificate-forget-0.json"])
    assert c["warnings"] == [] and c["versions"]["after"]["version"] == outcome.version
    assert c["data"]["real"] is False and "not known of the placement 'inline'" in c["data"]["enforced"]
    measured = {figure["measure"] for figure in c["measures"]["synthetic"]}
    assert measured >= {"chosen_step", "retain_accuracy", "forget_accuracy", "stand_in_probe_recall"}
    assert c["run"]["config_hash"] == context.recipe.config_hash
    assert c["run"]["config"]["method"] == c["run"]["method"] == "gated_inversion"
