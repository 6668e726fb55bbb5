"""Auditing a version by command: what it records and shows, and what it refuses before any work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.__main__ import main
from rayunlearn.auditing.auditor import Auditor
from rayunlearn.cli import audit_command
from rayunlearn.cli.audit_command import AuditOptions, run_audit
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.serving.retention import purge
from rayunlearn.storage.store import Store
from tests.serving.tiny import BANK, environment, files_of, forget, memory_store, tiny_recipe, tiny_scheduler
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def served_files() -> dict[str, bytes]:
    """A storage location in which class 0 was forgotten, superseded files purged, nothing audited."""
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe())
    assert scheduler.serve(forget(0)).version is not None
    purge(store, scheduler.context.ledger, scheduler.context.clock)
    return files_of(store)


@pytest.fixture
def served(served_files: dict[str, bytes], tmp_path: Path) -> Store:
    """The same as a folder."""
    store = Store.open(tmp_path / "storage")
    for name, data in served_files.items():
        store.put(name, data)
    return store


@pytest.fixture
def connected(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs on the cluster that this process is connected to already."""
    monkeypatch.setattr(audit_command, "connect", lambda address, **options: None)


def options(store: Store, **changed: Any) -> AuditOptions:
    """The command's flags for the newest version of a store."""
    chain = versions(LedgerReader(store), "default")
    given = {
        "version": chain[-1].version[:8],
        "storage": store.local_path("ledger").parent,
        "set": BANK,
        "golds": 2,
    }
    return AuditOptions(**{**given, **changed})


@pytest.mark.slow
@pytest.mark.ray
def test_a_version_is_measured_recorded_and_shown(
    served: Store, connected: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The purged original is trained again, two gold models beside it; every row lands in `audits`.

    The likelihood ratio attack trains its shadow models, and a second audit finds them in the store.
    """
    named = options(
        served, measures="distance,accuracy,likelihood_ratio",
        set=(*BANK, "audit.shadows=4"),
    )  # fmt: skip
    assert run_audit(named) == 0
    out = capsys.readouterr().out
    for said in ("retain accuracy", "js to gold", "lira auc", "original", "masked", "±", "rows of"):
        assert said in out, said
    (version,) = versions(LedgerReader(served), "default")[1:]
    recorded = LedgerReader(served, ALL_TABLES).read("audits", version=version.version).to_pylist()
    assert {row["subject"] for row in recorded} >= {"original", "unlearned", "gold", "gold_2", "mask_logit"}
    assert {row["run_id"] for row in recorded} == {version.run_id}
    shown = sum(row["measure"] == "forget_accuracy" and row["split"] == "test" for row in recorded)
    assert shown == len({row["subject"] for row in recorded})
    shadows = served.list("shadows")
    assert len(shadows) == 4
    assert run_audit(named) == 0
    assert served.list("shadows") == shadows
    twice = LedgerReader(served, ALL_TABLES).read("audits", version=version.version).to_pylist()
    assert [r["value"] for r in twice] == 2 * [r["value"] for r in recorded]


@pytest.mark.ray
@pytest.mark.slow
def test_figures_go_to_a_folder_and_nowhere_else(
    served: Store, connected: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`--figures` writes PNG files of curves, ROC and images, named for the version; the store gets none.

    Relearning goes through Ray Train here.
    """
    folder = tmp_path / "new" / "figures"
    named = options(
        served, measures="anamnesis,likelihood_ratio,inversion", golds=1, figures=folder,
        set=(*BANK, "audit.shadows=4", "audit.relearn_workers=2", "audit.inversion.epochs=2"),
    )  # fmt: skip
    assert run_audit(named) == 0
    out = capsys.readouterr().out
    assert re.search("relearn steps +D_f", out), "D_f is known without the measure of accuracy"
    version = versions(LedgerReader(served), "default")[-1].version[:12]
    files = sorted(path.name for path in folder.iterdir())
    assert files == [f"{version}-{name}.png" for name in ("inversion-0", "likelihood-ratio", "relearning")]
    assert all(f"Figure: {folder / name}" in out for name in files)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in files)
    assert not [name for name in served.list() if name.endswith("png")]
    assert not list(served.local_path("train").iterdir())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"measures": "accuracy", "figures": Path("figures")}, ["--figures", "figures", "anamnesis"]),
        ({"figures": Path(__file__)}, ["--figures", "a folder"]),
        ({"measures": "accuracy,prob"}, ["measure", "prob", "probe"]),
        ({"measures": " , "}, ["measures", "at least one of accuracy"]),
        ({"recipe": "digit"}, ["--recipe", "digit", "digits"]),
        ({"golds": 0}, ["audit.golds", "0", "a whole number > 0"]),
        ({"set": ("audit.golds=3",)}, ["--set", "--data and --golds"]),
        ({"storage": Path("/nowhere/at/all")}, ["/nowhere/at/all"]),
    ],
)
def test_what_is_refused_before_ray_starts(
    served: Store, changed: dict[str, Any], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a sentence that names the thing, the value and what is allowed; nothing is written."""
    before = served.list()
    assert run_audit(options(served, **changed)) == 2
    out = capsys.readouterr().out.replace("\n", " ")
    assert all(part in out for part in ["error:", *said]), out
    assert served.list() == before


def written(store: Store) -> list[str]:
    """What a storage location holds but claims."""
    return [name for name in store.list() if not name.startswith("claims/")]


@pytest.mark.ray
def test_versions_that_cannot_be_audited(
    served: Store, connected: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of that name, several, an original, one purged, another seed: each named; nothing written."""
    first, last = versions(LedgerReader(served), "default")
    before = written(served)
    for changed, said in (
        ({"version": "xyz"}, ["--version", "xyz", last.version[:12]]),
        ({"version": ""}, ["--version", "the id of one version"]),
        ({"version": first.version}, ["this is the original"]),
        ({"seed": 1}, ["--seed", "1", "another --storage"]),
    ):
        assert run_audit(options(served, **changed)) == 2
        out = capsys.readouterr().out.replace("\n", " ")
        assert all(part in out for part in ["error:", *said]), out
    assert written(served) == before
    served.delete(last.path)
    assert run_audit(options(served)) == 2
    assert "this one was purged" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_audits_with_as_many_gold_models_as_asked(tmp_path: Path, cluster: None) -> None:
    """`audit.golds=2` gives two gold subjects in the job's own audit, each with its own figures."""
    store = Store.open(tmp_path / "storage")
    scheduler = tiny_scheduler(
        store, tiny_recipe("digits", "audit.golds=2", 'audit.measures=["accuracy","distance"]')
    )
    scheduler.serve(forget(0))
    Auditor(scheduler.context, threads=1).audit()
    rows = LedgerReader(store, ALL_TABLES).read("audits").to_pylist()
    kept = {
        r["subject"]: r["sum"] for r in rows if r["measure"] == "retain_accuracy" and r["split"] == "train"
    }
    assert {"gold", "gold_2"} <= set(kept)
    assert {r["subject"] for r in rows if r["measure"] == "js_to_gold"} >= {"gold", "gold_2", "unlearned"}
    assert any(r["measure"] == "regret" for r in rows)


def test_the_help_says_that_images_are_sensitive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks what `--figures` does reads what it shows before using it."""
    monkeypatch.setattr(sys, "argv", ["rayunlearn", "audit", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert ended.value.code == 0
    assert "These images are sensitive, since they show what was to be forgotten" in said


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    """`python -m rayunlearn audit` exits with the table's code and says why, within seconds."""
    command = [sys.executable, "-m", "rayunlearn", "audit", "--version", "x", "--measures", "prob"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=HANG_S
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "measure is 'prob'" in ended.stdout and "probe" in ended.stdout
    assert list(tmp_path.iterdir()) == []
