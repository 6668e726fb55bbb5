from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from jobs.sequential_unlearn import Options
from rayunlearn.auditing.labelled import open_data
from rayunlearn.cli import job
from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.serving.tiny import (
    BANK,
    NOON,
    Ended,
    forget,
    memory_store,
    original_job,
    run_job,
    tiny_recipe,
    tiny_scheduler,
)

GOOD = '{"request_id": "forget-0", "target": [0]}\n'
QUICK = (*BANK, "audit.enabled=false")
Run = Callable[..., Ended]


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A file with one good request."""
    path = tmp_path / "requests.jsonl"
    path.write_text(GOOD)
    return path


def here(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the job with the command line's arguments in this process, which is quicker than in its own."""

    def run(*arguments: str | Path, settings: tuple[str, ...] = ()) -> Ended:
        command = [str(a) for a in arguments]
        for setting in settings:
            command += ["--set", setting]
        options = tyro.cli(Options, args=command, config=(tyro.conf.UseAppendAction,))
        began = time.monotonic()
        code = job.run_job(**vars(options))
        return Ended(code, *capsys.readouterr(), time.monotonic() - began)

    return run


@pytest.fixture
def on_cluster(cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The job in this process, which is connected already."""
    monkeypatch.setattr(job, "connect", lambda address, **options: None)
    return here(capsys)


@pytest.fixture
def without_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The job in this process, which fails the test if it so much as asks for Ray."""

    def connect(address: str | None) -> None:
        raise AssertionError("the job went on to Ray")

    monkeypatch.setattr(job, "connect", connect)
    return here(capsys)


def report_of(ended: Ended) -> Path:
    """The report whose path the job printed."""
    (line,) = [line for line in ended.out.splitlines() if line.startswith("Report: ")]
    return Path(line.removeprefix("Report: "))


def one_sentence(ended: Ended) -> str:
    """The error that the job printed: one line, and no traceback anywhere."""
    assert "Traceback" not in ended.out + ended.err, ended.out + ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_from_two_flags(requests: Path, tmp_path: Path) -> None:
    """The job starts a Ray of its own, serves, audits against a gold model, and shows table and report.

    Its version is the one that roles in one process without Ray publish.
    """
    storage = tmp_path / "storage"
    ended = run_job("--requests", requests, "--storage", storage, settings=BANK)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    for word in ("forget-0", "served", "Retain", "Forget", "Probe", "AIN", "Regret"):
        assert word.lower() in ended.out.lower(), word
    report = report_of(ended)
    assert report.is_relative_to(storage) and report.stat().st_size > 10_000
    assert report.read_text().lstrip().lower().startswith("<!doctype html>")

    store = Store.open(storage, create=False)
    reader = LedgerReader(store, ALL_TABLES)
    expected = memory_store()
    tiny_scheduler(expected, tiny_recipe()).serve(forget(0))
    ids = [v.version for v in versions(reader, "default")]
    assert ids == [v.version for v in versions(LedgerReader(expected), "default")]
    audited = set(reader.read("audits").column("subject").to_pylist())
    assert {"original", "unlearned", "gold", "mask_logit", "delete_head_row", "gaussian_head"} <= audited
    assert store.list("models") == [f"models/default/{ids[-1]}.safetensors"]  # the original was purged


@pytest.mark.ray
@pytest.mark.slow
def test_samples_then_a_class(on_cluster: Run, requests: Path, tmp_path: Path) -> None:
    """A job that forgets two samples and then a class: served, audited against gold models without both.

    The table tells the samples by their number. The same file again is served already.
    """
    recipe = tiny_recipe("digits", "method=retrain", "audit.golds=1")
    split_seed = original_job().split_seed
    dataset, parts = open_data(recipe.data, split_seed)
    of_class = parts.train_ids[dataset.labels[parts.train_ids] == 0]
    target = sorted([int(of_class[0]), int(parts.train_ids[dataset.labels[parts.train_ids] == 1][0])])
    granted = '"data_access": ["weights", "retain"]'
    requests.write_text(
        f'{{"request_id": "two", "kind": "samples", "target": {target}, {granted}}}\n'
        f'{{"request_id": "one", "target": [0], {granted}}}\n'
    )
    where = ("--requests", requests, "--storage", tmp_path / "storage")
    settings = (*BANK, "method=retrain", "train.epochs=4")
    ended = on_cluster(*where, settings=settings)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert re.search(r"two +2 samples +served +unlearned", ended.out), ended.out
    assert re.search(r"one +0 +served +unlearned", ended.out) and "after 2" in ended.out
    reader = LedgerReader(Store.open(tmp_path / "storage", create=False), ALL_TABLES)
    assert [(v.classes_forgotten, v.samples_forgotten) for v in versions(reader, "default")] == [
        ((), ()), ((), tuple(target)), ((0,), tuple(target)),
    ]  # fmt: skip
    on_samples = [r for r in reader.read("audits", measure="forget_accuracy").to_pylist() if not r["classes"]]
    counts = [(r["subject"], r["count"]) for r in on_samples]
    # of the second version one sample counts as its class's, which was forgotten by then
    assert counts[:3] == [("original", 2), ("unlearned", 2), ("gold", 2)]
    assert {count for _, count in counts[3:]} == {1} and len(counts) == 9
    left_out = [r["measure"] for r in reader.read("audits").to_pylist() if "left_out" in r["parameters"]]
    assert left_out == ["probe", "anamnesis"]
    rows_before = reader.read("requests").num_rows
    assert on_cluster(*where, settings=settings).code == ExitCode.OK
    assert reader.read("requests").num_rows == rows_before


@pytest.mark.ray
@pytest.mark.slow
def test_keep_keeps(on_cluster: Run, requests: Path, tmp_path: Path) -> None:
    """`--keep` leaves superseded weights and the runs' files, and later requests build on them."""
    storage = tmp_path / "storage"
    where = ("--storage", storage, "--placement", "colocated")
    ended = on_cluster("--requests", requests, *where, "--keep", settings=QUICK)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    store = Store.open(storage, create=False)
    assert len(store.list("models")) == 2
    runs = store.list("runs")
    assert len([r for r in runs if "/students/" in r]) == 3 and any("synthetic.pt" in r for r in runs)
    purged = LedgerReader(store).read("versions", event="purged")
    assert purged.num_rows == 0


@pytest.mark.ray
def test_dry_run_does_nothing(on_cluster: Run, requests: Path, tmp_path: Path) -> None:
    """`--dry-run` says what would be done, leaves no file and trains nothing."""
    storage = tmp_path / "storage"
    requests.write_text(GOOD + '{"request_id": "bad", "target": [77]}\n')
    ended = on_cluster("--requests", requests, "--storage", storage, "--dry-run", settings=BANK)
    assert ended.code == ExitCode.BAD_INPUT
    assert "1. forget-0: forget 0" in ended.out and "weights only" in ended.out
    assert "'bad'" in ended.out and "0 to 9" in ended.out
    assert not storage.exists()
    assert "train" not in ended.out


@pytest.mark.ray
def test_the_inbox_of_a_dry_run(on_cluster: Run, requests: Path, tmp_path: Path) -> None:
    """What was added follows the file, or stands alone, without what was cancelled; it stays in the inbox."""
    inbox = Inbox(Store.open(tmp_path / "storage", sync=False))
    for number in (4, 5):
        inbox.add(Request(request_id=f"added-{number}", target=(number,)), now=NOON)
    inbox.cancel("added-4", now=NOON)
    where = ("--storage", tmp_path / "storage", "--dry-run")
    ended = on_cluster("--requests", requests, *where, settings=BANK)
    assert ended.code == ExitCode.OK and "added-4: cancelled" in ended.out
    assert "1. forget-0: forget 0" in ended.out and "2. added-5: forget 5" in ended.out
    ended = on_cluster("--inbox-only", *where, settings=BANK)
    assert ended.code == ExitCode.OK and "1. added-5: forget 5" in ended.out and "forget-0" not in ended.out
    assert len(inbox.entries()) == 2 and len(inbox.cancellations()) == 1


@pytest.mark.ray
def test_a_job_without_requests(on_cluster: Run, tmp_path: Path) -> None:
    """Nothing in the inbox is nothing to do, and no error."""
    ended = on_cluster("--inbox-only", "--storage", tmp_path / "storage", settings=QUICK)
    assert ended.code == ExitCode.OK and "No request waits" in ended.out and "train" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--recipe", "digit"], ["--recipe", "'digit'", "'digits'"]),
        (["--set", "gkt.epsilom=0.1"], ["gkt.epsilom", "'gkt.epsilon'"]),
        (["--set", "gkt.epsilon=2"], ["gkt.epsilon", "2", "> 0 and <= 1"]),
        (["--set", "gkt.cycles=many"], ["gkt.cycles", "'many'", "integer"]),
        (["--set", "gkt.cycles"], ["--set", "'gkt.cycles'", "key.path=value"]),
        (["--storage", "{foreign}"], ["storage", "{foreign}", "holds thesis.txt"]),
        (["--storage", "{foreign}/thesis.txt"], ["storage", "a folder; this is a file"]),
        (["--requests", "{nowhere}"], ["--requests", "{nowhere}", "No such file"]),
        (["--requests", "{foreign}"], ["--requests", "Is a directory"]),
    ],
)
def test_bad_flags(
    arguments: list[str], named: list[str], without_ray: Run, requests: Path, tmp_path: Path
) -> None:
    """What is wrong with a flag is said in one sentence at once, before Ray is even started."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    filled = {"{foreign}": str(foreign), "{nowhere}": str(tmp_path / "nowhere.jsonl")}

    def fill(text: str) -> str:
        for place, path in filled.items():
            text = text.replace(place, path)
        return text

    given = [fill(a) for a in arguments]
    defaults = [] if "--requests" in given else ["--requests", str(requests)]
    if "--storage" not in given:
        defaults += ["--storage", str(tmp_path / "storage")]
    ended = without_ray(*defaults, *given)
    assert ended.code == ExitCode.BAD_INPUT, ended.out + ended.err
    error = one_sentence(ended)
    assert all(fill(text) in error for text in named), error
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_bad_flag_ends_the_process(requests: Path) -> None:
    """As a process: exit code 2, the sentence and no traceback."""
    ended = run_job("--requests", requests, "--recipe", "digit")
    assert ended.code == ExitCode.BAD_INPUT
    assert "'digits'" in one_sentence(ended) and ended.err == ""


@pytest.mark.ray
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--gpus-per-role", "1"], ["3 x 1 GPU = 3 GPU", "0 GPU", "3 CPU"]),
        (["--cpus-per-role", "2"], ["3 x 2 CPU = 6 CPU", "3 CPU"]),
        (["--set", "data.dataset=digit"], ["dataset", "'digit'", "'digits'"]),
        (["--set", "model.name=allcn"], ["'allcn'", "'allcnn'"]),
        (["--checkpoint", "{nowhere}"], ["{nowhere}", "No such file"]),
    ],
)
def test_what_the_cluster_refuses(
    arguments: list[str], named: list[str], on_cluster: Run, requests: Path, tmp_path: Path
) -> None:
    """What only the cluster, or a process on it, can tell is one sentence as well, and nothing is trained."""
    nowhere = str(tmp_path / "nowhere.safetensors")
    storage = tmp_path / "storage"
    given = [a.replace("{nowhere}", nowhere) for a in arguments]
    ended = on_cluster("--requests", requests, "--storage", storage, *given)
    assert ended.code == ExitCode.BAD_INPUT, ended.out + ended.err
    error = one_sentence(ended)
    assert all(text.replace("{nowhere}", nowhere) in error for text in named), error
    assert "train" not in ended.out and not (storage / "models").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_later_requests_are_audited_as_well(on_cluster: Run, requests: Path, tmp_path: Path) -> None:
    """A second job on a storage whose original was purged serves a new request and audits it.

    Requests arrive over time; the purge after the first must not take the audit's yardstick away. What
    was purged before anybody audited it stays without an audit.
    """
    storage = tmp_path / "storage"
    where = ("--requests", requests, "--storage", storage, "--placement", "colocated")
    first = on_cluster(*where, settings=QUICK)
    assert first.code == ExitCode.OK, first.out + first.err
    assert len(list((storage / "models" / "default").iterdir())) == 1
    requests.write_text(GOOD + '{"request_id": "forget-2", "target": [2]}\n')
    second = on_cluster(*where, settings=BANK)
    assert second.code == ExitCode.OK, second.out + second.err
    reader = LedgerReader(Store.open(storage, create=False), ALL_TABLES)
    assert [v.classes_forgotten for v in versions(reader, "default")] == [(), (0,), (0, 2)]
    (unlearned,) = {r["version"] for r in reader.read("audits", subject="unlearned").to_pylist()}
    assert unlearned == versions(reader, "default")[-1].version
    assert re.search(r"forget-2.*served", second.out)
