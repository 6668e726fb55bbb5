"""Keys, checkpoints and certificates by their commands; `verify` needs neither Ray, torch nor the storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayunlearn.cli.key_command import NewOptions, RotateOptions, run_key
from rayunlearn.cli.log_command import CheckpointOptions, CosignOptions, ProveOptions, run_log
from rayunlearn.cli.report_command import ReportOptions, run_report
from rayunlearn.cli.verify_command import VerifyOptions, run_verify
from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import row_of
from tests.reports.two_requests import BYTES, story, tell
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]

ALONE = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "torch", "pyarrow", "obstore", "numpy"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
sys.argv = ["rayunlearn", "verify", *sys.argv[1:]]
from rayunlearn.__main__ import main
sys.exit(main())
"""


class Place:
    """A storage location with two served requests, the log's key, and what an auditor was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = str(folder / "storage")
        self.given = folder / "given"
        self.key = folder / "log.key"
        tell(Store.open(self.storage, sync=False))
        assert run_key(NewOptions(name="log.example.org/ledger", out=self.key)) == ExitCode.OK

    def report(self, request: str = "r1", key: str = "log.key") -> Path:
        """A signed certificate, given to the auditor."""
        made = ReportOptions(request=request, storage=self.storage, out=self.given, key=self.folder / key)
        assert run_report(made) == ExitCode.OK
        return self.given / f"certificate-{request}.json"

    def verify(self, certificate: Path, **more: object) -> int:
        """The exit code of `verify` with the log's public key."""
        given = {"key": self.folder / "log.key.pub"} | more
        return run_verify(VerifyOptions(certificate=certificate, **given))

    def append(self, number: int = 1) -> None:
        """The ledger grows."""
        for _ in range(number):
            Ledger(Store.open(self.storage, sync=False)).append("plans", [row_of("plans")])

    def checkpoint(self, name: str) -> Path:
        """A checkpoint as a file."""
        path = self.folder / name
        made = CheckpointOptions(key=self.key, storage=self.storage, out=path)
        assert run_log(made) == ExitCode.OK
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One for each test."""
    return Place(tmp_path)


def test_an_auditor_verifies_offline_without_the_storage(place: Place) -> None:
    """In an interpreter where Ray, torch, Arrow and stores cannot be imported, after the storage is gone."""
    certificate = place.report()
    after = place.folder / "after.safetensors"
    after.write_bytes(BYTES[2])
    shutil.rmtree(place.storage)

    def verified(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ALONE, *map(str, arguments), "--key", f"{place.key}.pub"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=HANG_S,
            check=False,
        )  # fmt: skip

    done = verified(certificate, "--after", after)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("shown:     signature of log.example.org/ledger, key id ")
    assert "That an algorithm ran is auditable; that nothing is left in the weights is not" in done.stdout
    assert lines[-1] == "True, as far as it is shown above."
    after.write_bytes(BYTES[1])
    done = verified(certificate, "--after", after)
    assert done.returncode == 8
    assert done.stdout.splitlines()[-1].startswith("FALSE:     not verified (model): ")


@pytest.mark.parametrize("suffix", [".html", ".json", ".evidence.json"])
def test_any_file_of_the_certificate_names_it(place: Place, suffix: str) -> None:
    """The others are found beside it and checked; one that was edited is found whichever was named."""
    name = place.report().with_suffix("")
    given = name.with_name(name.name + suffix)
    assert place.verify(given) == ExitCode.OK
    page = name.with_name(name.name + ".html")
    page.write_text(page.read_text().replace("Erasure", "erasure"))
    assert place.verify(given) == ExitCode.NOT_VERIFIED


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"certificate": "missing.json"}, 2),
        ({"certificate": "given/certificate-r1.txt"}, 2),
        ({"key": "missing.pub"}, 2),
        ({"key": "given/certificate-r1.html"}, 2),
        ({"key": "other.key.pub"}, 8),
        ({"key": "witness.key.pub"}, 2),
        ({"checkpoint": "log.key.pub"}, 2),
        ({"witness": "log.key.pub"}, 2),
        ({"witness": "witness.key.pub"}, 8),
        ({"tsa": "log.key.pub"}, 8),
        ({"before": "missing.safetensors"}, 2),
    ],
)
def test_codes_tell_a_bad_call_from_a_false_certificate(
    place: Place, wrong: dict[str, str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """2: what was given cannot be used; 8: it can, and the certificate is not true by it."""
    certificate = place.report()
    for name, witness in (("other", False), ("witness", True)):
        out = place.folder / f"{name}.key"
        assert run_key(NewOptions(name=f"{name}.example.org", out=out, witness=witness)) == ExitCode.OK
    assert place.verify(certificate) == ExitCode.OK
    paths = {k: (place.folder / v,) if k == "witness" else place.folder / v for k, v in wrong.items()}
    capsys.readouterr()
    assert place.verify(**{"certificate": certificate} | paths) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith("FALSE:" if code == 8 else "error: ")


def test_a_rewritten_ledger_is_found_by_whoever_kept_a_checkpoint(place: Place) -> None:
    """The operator deletes everything, tells another story and signs it with the right key."""
    kept = place.checkpoint("kept.note")
    shutil.rmtree(place.storage)
    rows = story()
    rows[5][1]["value"] = 0.9
    tell(Store.open(place.storage, sync=False), rows)
    certificate = place.report()
    assert place.verify(certificate) == ExitCode.OK, "without the checkpoint nobody can tell"
    assert place.verify(certificate, checkpoint=kept) == ExitCode.NOT_VERIFIED


def test_a_rewritten_ledger_is_not_signed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """With its checkpoints on record still, neither checkpoint nor certificate is made."""
    place.checkpoint("kept.note")
    shutil.rmtree(Path(place.storage) / "ledger")
    rows = story()
    rows[5][1]["value"] = 0.9
    tell(Store.open(place.storage, sync=False), rows)
    capsys.readouterr()
    assert run_log(CheckpointOptions(key=place.key, storage=place.storage)) == ExitCode.INTERNAL
    assert "the ledger was rewritten" in capsys.readouterr().out
    made = ReportOptions(request="r1", storage=place.storage, out=place.given, key=place.key)
    assert run_report(made) == ExitCode.INTERNAL
    assert not list(place.folder.glob("given/*")), "not even without a signature"


def test_a_witness_cosigns_what_grew_and_refuses_a_fork(place: Place) -> None:
    """Proof from the certificate itself or from `log prove`; a fork and an older checkpoint are refused."""
    witness, state = place.folder / "w.key", place.folder / "state.note"
    assert run_key(NewOptions(name="witness.example.org", out=witness, witness=True)) == ExitCode.OK
    public = Path(f"{place.key}.pub")

    def cosign(file: Path, proof: Path | None = None) -> int:
        return run_log(CosignOptions(file=file, log=public, key=witness, state=state, proof=proof))

    first = place.checkpoint("first.note")
    old = first.read_text()
    assert cosign(first) == ExitCode.OK
    place.append()
    certificate = place.report()
    evidence = certificate.with_name("certificate-r1.evidence.json")
    assert cosign(evidence) == ExitCode.OK
    held = (Path(f"{witness}.pub"),)
    assert place.verify(certificate, witness=held) == ExitCode.OK
    place.append()
    third, proof = place.checkpoint("third.note"), place.folder / "proof.json"
    assert cosign(third) == ExitCode.NOT_VERIFIED, "without a proof"
    before = state.read_bytes()
    assert run_log(ProveOptions(first=20, second=21, out=proof, storage=place.storage)) == ExitCode.OK
    assert cosign(third, proof) == ExitCode.OK and state.read_bytes() != before
    first.write_text(old)
    assert cosign(first) == ExitCode.NOT_VERIFIED, "a tree that is smaller than the last"
    shutil.rmtree(place.storage)
    tell(Store.open(place.storage, sync=False), [*story()[:-1], ("plans", row_of("plans"))])
    place.append(3)
    forked = place.checkpoint("fork.note")
    assert run_log(ProveOptions(first=21, out=proof, storage=place.storage)) == ExitCode.OK
    after = state.read_bytes()
    assert cosign(forked, proof) == ExitCode.NOT_VERIFIED and state.read_bytes() == after
    assert run_log(CosignOptions(file=third, log=public, key=place.key, state=state)) == ExitCode.BAD_INPUT


def test_a_key_is_handed_over_on_record(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Who pinned the old public key verifies what the new one signs; the old one signs no more."""
    old = place.report("r0")
    rotate = RotateOptions(key=place.key, out=place.folder / "next.key", storage=place.storage)
    assert run_key(rotate) == ExitCode.OK
    assert (place.folder / "next.key").stat().st_mode & 0o777 == 0o600
    new = place.report("r1", "next.key")
    for certificate in (old, new):
        for pinned in ("log.key.pub", "next.key.pub"):
            assert place.verify(certificate, key=place.folder / pinned) == ExitCode.OK
    alone = place.folder / "alone.pub"
    alone.write_text(json.loads(_payload(place.folder / "next.key.pub"))["to"])
    assert place.verify(new, key=alone) == ExitCode.OK
    assert place.verify(old, key=alone) == ExitCode.NOT_VERIFIED
    capsys.readouterr()
    made = ReportOptions(request="r1", storage=place.storage, out=place.given, key=place.key)
    assert run_report(made) == ExitCode.BAD_INPUT and "to which it was handed over" in capsys.readouterr().out
    assert run_key(rotate) == ExitCode.BAD_INPUT


def _payload(public: Path) -> bytes:
    import base64

    return base64.b64decode(json.loads(public.read_text().splitlines()[1])["payload"])


SEALED = """
import sys
from rayunlearn.access import seal
key = sys.argv[1]
seal()
for way, to in ((open, key), (__import__, "rayunlearn.evidence.keys"), (__import__, "rayunlearn.ledger")):
    try:
        way(to)
    except Exception as error:
        print(type(error).__name__)
    else:
        print("reached")
import json  # what is no way to the key goes on
print("goes on")
"""


def test_a_sealed_process_gets_no_path_to_the_key(place: Place) -> None:
    """Neither the file, nor the code that signs, nor the storage; where it could read it, no key is kept."""
    command = [sys.executable, "-c", SEALED, str(place.key)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.stdout.split() == ["AccessDenied", "ImportDenied", "ImportDenied", "goes", "on"], done.stderr
    inside = Path(sys.prefix) / "log.key"
    assert run_key(NewOptions(name="log.example.org", out=inside)) == ExitCode.BAD_INPUT
    assert not inside.exists()


def test_a_report_without_a_key_is_what_it_was(place: Place) -> None:
    """Two files, no checkpoint on record; negative control: with a key there are three and one."""
    made = ReportOptions(request="r1", storage=place.storage, out=place.given)
    assert run_report(made) == ExitCode.OK
    assert sorted(p.name for p in place.given.iterdir()) == ["certificate-r1.html", "certificate-r1.json"]
    store = Store.open(place.storage, create=False)
    assert store.list("log") == []
    place.report()
    assert len(list(place.given.iterdir())) == 3
    assert store.list("log") == ["log/checkpoints/000000000019.note"]
