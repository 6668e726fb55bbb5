"""`--json`: one document on standard output and nothing else there, also where a command ends in an error."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.__main__ import main
from rayunlearn.cli.console import print_json
from rayunlearn.errors import ExitCode
from rayunlearn.storage.store import Store
from tests.reports.two_requests import IDS, PATHS, tell

HERE = "--storage {folder}/storage"
CALLS = {
    "methods": list,
    "methods --table-three": dict,
    f"status {HERE}": dict,
    f"request list {HERE}": list,
    f"models list {HERE}": list,
    f"models verify {HERE}": dict,
    f"report r1 {HERE} --out {{folder}}/given": dict,
    "check --set inversion.iterations=1": dict,
    "verify {folder}/given/certificate-r1.json --key {folder}/log.key.pub": dict,
    f"log checkpoint --key {{folder}}/log.key {HERE} --out {{folder}}/note": dict,
    f"log prove --first 1 --out {{folder}}/proof {HERE}": dict,
    "log cosign {folder}/note --log {folder}/log.key.pub --key {folder}/w.key --state {folder}/state": dict,
}
"""What reads, or says what it did -> the form of its document."""
REFUSED = {
    "status --storage {folder}/none": 2,
    "request list --storage {folder}/none": 2,
    "models list --storage {folder}/none": 2,
    f"models list {HERE} --lineage defualt": 2,
    "models verify --storage {folder}/none": 2,
    f"report r9 {HERE}": 2,
    "check --recipe digit": 2,
    "verify {folder}/none.json --key {folder}/log.key.pub": 2,
    "verify {folder}/given/certificate-r1.json --key {folder}/other.key.pub": 8,
    f"log checkpoint --key {{folder}}/none {HERE}": 2,
    f"log prove --first 9999 --out {{folder}}/proof {HERE}": 2,
}


@pytest.fixture
def say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs `rayunlearn` with these words, beside a storage location, keys and a certificate."""

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rayunlearn", *shlex.split(line.format(folder=tmp_path))])
        return (main(), *capsys.readouterr())

    tell(Store.open(tmp_path / "storage", sync=False))
    for flags in ("log --out {folder}/log.key", "other --out {folder}/other.key"):
        assert run(f"key new --name {flags}")[0] == ExitCode.OK
    assert run("key new --witness --name w --out {folder}/w.key")[0] == ExitCode.OK
    signed = "report r1 --storage {folder}/storage --out {folder}/given --key {folder}/log.key"
    assert run(signed)[0] == ExitCode.OK
    assert run("log checkpoint --key {folder}/log.key --storage {folder}/storage --out {folder}/note")[0] == 0
    return run


@pytest.mark.parametrize("line", CALLS)
def test_a_document_and_nothing_else(line: str, say: Any) -> None:
    """The whole of standard output is JSON in ASCII; without the flag it is not, with the same exit code."""
    code, out, err = say(f"{line} --json")
    document = json.loads(out)
    assert code == ExitCode.OK and err == "" and out.isascii()
    assert type(document) is CALLS[line] and document and "error" not in document
    plainly = say(line)
    assert plainly[0] == ExitCode.OK
    with pytest.raises(ValueError, match="Expecting value|Extra data"):  # negative control
        json.loads(plainly[1])


@pytest.mark.parametrize("line", REFUSED)
def test_an_error_is_a_document(line: str, say: Any) -> None:
    """It has the sentence and the exit code; people read the sentence on standard error."""
    code, out, err = say(f"{line} --json")
    document = json.loads(out)
    assert (code, document["exit_code"]) == (REFUSED[line], REFUSED[line])
    assert document["error"] in err and err.startswith("error: ") and "\n" not in err.rstrip("\n")
    assert document["error"] in " ".join(say(line)[1].split())


def test_what_the_documents_say(say: Any, tmp_path: Path) -> None:
    """The same as people read: of requests, versions, certificates and checkpoints."""
    found = json.loads(say(f"request list {HERE} --json")[1])
    assert [(r["request_id"], r["status"], r["target"]) for r in found] == [
        ("r0", "served", [0]), ("r1", "served", [7])
    ]  # fmt: skip
    assert datetime.fromisoformat(found[0]["deadline"]).tzinfo is not None
    status = json.loads(say(f"status {HERE} --json")[1])
    assert status["requests"] == found and status["counts"]["served"] == 2 and status["scheduler"] is None
    verified = json.loads(say(f"models verify {HERE} --json")[1])
    assert (verified["findings"], verified["kept"], verified["purged"]) == ([], 1, 2)
    report = json.loads(say(f"report r1 {HERE} --out {{folder}}/again --json")[1])
    assert report["status"] == "served" and all(Path(file).is_file() for file in report["files"])
    certificate = "verify {folder}/given/certificate-r1.json --json --key"
    true = json.loads(say(f"{certificate} {{folder}}/log.key.pub")[1])
    assert true["true"] is True and true["shown"] and true["not_shown"]
    false = json.loads(say(f"{certificate} {{folder}}/other.key.pub")[1])
    assert false["true"] is False and false["kind"] == "signature"
    unreadable = json.loads(say("verify {folder}/none.json --key {folder}/log.key.pub --json")[1])
    assert unreadable["true"] is None and "kind" not in unreadable
    note = json.loads(say(f"log checkpoint --key {{folder}}/log.key {HERE} --json")[1])
    assert note["checkpoint"].startswith(f"log\n{note['entries']}\n{note['root']}\n")


def test_findings_are_listed(say: Any, tmp_path: Path) -> None:
    """Negative control of `models verify`: weights that were exchanged are in the document."""
    path = tmp_path / "storage" / PATHS[2]
    path.write_bytes(b"x")
    code, out, _ = say(f"models verify {HERE} --json")
    (finding,) = json.loads(out)["findings"]
    assert code == ExitCode.INTERNAL and IDS[2] in finding


def test_what_has_no_form_in_json_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Times and paths have one; a number that is none, and anything else, is a fault and no document."""
    print_json({"at": datetime(2026, 1, 1, tzinfo=UTC), "file": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-01T00:00:00+00:00", "file": "a"}
    for value, error in ((float("nan"), ValueError), (object(), TypeError)):
        with pytest.raises(error):
            print_json({"value": value})
    assert capsys.readouterr().out == ""
