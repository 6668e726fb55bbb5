"""A certified request run again gives the version that its certificate names, or says that it does not."""

from __future__ import annotations

import copy
import functools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.cli.replay_command import ReplayOptions, run_replay
from rayunlearn.errors import BadInput, ExitCode, NotVerified
from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import SYNTHETIC_TABLES
from rayunlearn.reports.certificate import certificate, to_json
from rayunlearn.serving.replay import Replayed, replay
from rayunlearn.storage.store import Store
from tests.serving.tiny import (
    Quiet,
    files_of,
    forget,
    memory_store,
    stored_original,
    tiny_recipe,
    tiny_scheduler,
)

pytestmark = pytest.mark.usefixtures("few_draws")


@functools.cache
def served() -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a storage location that kept everything, and the certificate of its second request."""
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe("digits"), of=stored_original())
    for request in (forget(0), forget(2)):
        assert scheduler.serve(request).version is not None
    return files_of(store), certified(store)


def certified(store: Store, request: str = "forget-2") -> dict[str, Any]:
    """The certificate of a request."""
    return certificate(store, request, made_at=datetime(2026, 1, 1, tzinfo=UTC), methods={}, sealed=())


def again(files: dict[str, bytes], told: dict[str, Any], seed: int = 0) -> Replayed:
    """The certificate's request run once more."""
    return replay(memory_store(files), told, seed=seed, threads=1, progress=Quiet())


def test_the_same_bits_come_out() -> None:
    """Of a second request, which began from images that were handed on; the location is left as it was."""
    files, told = served()
    store = memory_store(files)
    done = replay(store, told, seed=0, threads=1, progress=Quiet())
    assert done.is_same and done.version == told["versions"]["after"]["version"] != done.before
    assert done.before == told["versions"]["before"]["version"] and done.code[0] == done.code[1]
    assert files_of(store) == files


def test_a_version_that_no_run_made_does_not_come_out(tmp_path: Path) -> None:
    """Negative control: a ledger that was written anew with another version to the run's name."""
    files, told = served()
    old, new = told["versions"]["after"]["version"], "f" * 64
    reader, rows = LedgerReader(memory_store(files)), []
    for table in SYNTHETIC_TABLES:
        rows += [(row.pop(ENTRY), table, row) for row in reader.rows(table)]
    forged = Store.open(tmp_path / "storage", sync=False)
    ledger = Ledger(forged)
    for _, table, row in sorted(rows, key=lambda r: r[:2]):
        ledger.append(table, [{k: v.replace(old, new) if isinstance(v, str) else v for k, v in row.items()}])
    for name, data in files.items():
        if not name.startswith("ledger/"):
            forged.put(name, data)
    made = certified(forged)
    assert made["versions"]["after"]["version"] == new
    done = replay(forged, made, seed=0, threads=1, progress=Quiet())
    assert not done.is_same and done.version == old
    path = tmp_path / "certificate.json"
    path.write_text(to_json(made))
    options = ReplayOptions(certificate=path, storage=str(tmp_path / "storage"))
    assert run_replay(options) == ExitCode.NOT_VERIFIED


def test_what_cannot_be_run_again_is_named() -> None:
    """Another seed, a version that was purged, a request that was not served, no certificate."""
    files, told = served()
    with pytest.raises(BadInput, match="--seed is 1"):
        again(files, told, seed=1)
    gone = {name: data for name, data in files.items() if name != told["versions"]["before"]["path"]}
    with pytest.raises(BadInput, match="weights are kept"):
        again(gone, told)
    with pytest.raises(BadInput, match="'served'"):
        again(files, told | {"status": "failed"})
    with pytest.raises(BadInput, match="certificate"):
        again(files, {"format": 1})


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("run.run_id", "run-x"),
        ("run.config_hash", "0"),
        ("run.seeds", {"run": "1"}),
        ("versions.after.version", "0"),
    ],
)
def test_a_certificate_of_another_run_is_found(where: str, what: Any) -> None:
    """What it says of the run is the ledger's, or nothing is run."""
    files, told = served()
    changed = copy.deepcopy(told)
    *way, last = where.split(".")
    place = functools.reduce(lambda at, step: at[step], way, changed)
    place[last] = what
    with pytest.raises(NotVerified, match="claims"):
        again(files, changed)
    assert json.loads(to_json(told)) == told
