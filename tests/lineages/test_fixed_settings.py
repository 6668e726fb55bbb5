"""What a lineage's original has fixed cannot be set otherwise, by a job, a sweep or an audit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.cli import audit_command, tune_command
from rayunlearn.cli.audit_command import AuditOptions, run_audit
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.cli.tune_command import run_sweep
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.lineages.fixed_settings import require_fixed
from rayunlearn.models.weights import weights_to_bytes
from rayunlearn.scheduling.requests import Request, parse_requests
from rayunlearn.serving.service import Place, Service, exit_code
from rayunlearn.settings import override
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import (
    BANK,
    NOON,
    Quiet,
    files_of,
    forget,
    memory_store,
    original,
    rows,
    tiny_context,
    tiny_recipe,
    tiny_scheduler,
)

FORGET_1 = '{"request_id": "b", "target": [1]}\n'


@pytest.fixture(scope="module")
def served_files() -> dict[str, bytes]:
    """A storage location in which class 0 was forgotten by a model of width 0.125."""
    store = memory_store()
    assert tiny_scheduler(store, tiny_recipe()).serve(forget(0, name="a")).version is not None
    return files_of(store)


@pytest.fixture
def served(served_files: dict[str, bytes]) -> Store:
    """The same, in memory."""
    return memory_store(served_files)


def statuses(store: Store) -> dict[str, str]:
    """What became of each accepted request."""
    return {k: status(v) for k, v in request_events(LedgerReader(store)).items()}


MISLABELLED = ("data.mislabelling.of=7", "data.mislabelling.to=2,3", "data.mislabelling.share=0.2")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("model.width=0.25",), "model.width is 0.25; allowed: 0.125, as the original of lineage 'default'"),
        (("model.name=resnet9",), "model.name is 'resnet9'; allowed: 'allcnn'"),
        (("data.dataset=mnist",), "data.dataset is 'mnist'; allowed: 'digits'"),
        (("data.test_fraction=0.25",), "data.test_fraction is 0.25; allowed: 0.5"),
        (("data.train_per_class=9",), "data.train_per_class is 9; allowed: None"),
        (MISLABELLED, "data.mislabelling is {'"),
    ],
)
def test_a_setting_of_the_original_is_refused_by_name(
    served: Store, changes: tuple[str, ...], said: str
) -> None:
    """The refusal has the setting, its value, and what the lineage has."""
    reader, recipe = LedgerReader(served), override(tiny_recipe(), list(changes))
    (first, *_) = versions(reader, "default")
    with pytest.raises(BadInput) as caught:
        require_fixed(reader, first, recipe, original()[0])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_classes", 12, "num_classes of the images of data.dataset 'digits' is 12; allowed: 10"),
        ("image_size", 16, "image_size of the images of data.dataset 'digits' is 16; allowed: 8"),
        ("mean", (0.3,), "mean of the images of data.dataset 'digits' is [0.3]; allowed: [0.3053]"),
        ("std", (0.4,), "std of the images of data.dataset 'digits' is [0.4]; allowed: [0.376]"),
    ],
)
def test_what_the_data_gives_is_fixed_too(served: Store, field: str, value: Any, said: str) -> None:
    """A dataset of the same name may have changed, and before the first run its name is not known."""
    reader = LedgerReader(served)
    (first, *_) = versions(reader, "default")
    spec = replace(original()[0], class_names=None, **{field: value})
    with pytest.raises(BadInput) as caught:
        require_fixed(reader, first, tiny_recipe(), spec)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes", [(), ("data.test_per_class=5",), ("train.epochs=3", "gate.max_loss=0.5"), ("method=gkt",)]
)
def test_what_the_original_has_not_fixed_is_free(served: Store, changes: tuple[str, ...]) -> None:
    """Negative control: how it is unlearned, judged and tested; and statistics up to their rounding."""
    reader, (spec, _) = LedgerReader(served), original()
    (first, *_) = versions(reader, "default")
    rounded = replace(spec, mean=(spec.mean[0] + 1e-9,))
    require_fixed(reader, first, override(tiny_recipe(), list(changes)), rounded)


def a_service(store: Store, *changes: str, **more: Any) -> Service:
    """A service whose roles are objects of this process."""
    service = Service(tiny_context(store, tiny_recipe("digits", *changes)), Place(), **more)
    service.scheduler.open_executor = InlineExecutor
    return service


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_job_leaves_a_lineage_that_its_settings_do_not_fit(served: Store) -> None:
    """Its request is refused by name and goes on waiting, that of another lineage is served.

    No run of the lineage begins, so that nothing is recorded as if the setting had had an effect. A job with
    the lineage's own settings serves what waits.
    """
    other = '{"request_id": "c", "lineage": "other", "target": [2]}\n'
    wide = a_service(served, "model.width=0.25", "train.epochs=1")
    intake = wide.take_in(parse_requests(FORGET_1 + other, "f"))
    (bad,) = intake.rejected
    assert bad.reason.startswith(
        "request 'b': model.width is 0.25; allowed: 0.125, as the original of lineage"
    )
    assert [request.request_id for request in intake.pending] == ["c"]
    assert exit_code(intake, wide.serve(intake)) == ExitCode.PARTIAL
    assert {name: statuses(served)[name] for name in "bc"} == {"b": "received", "c": "served"}
    assert rows(served, "requests", event="rejected") == []
    widths = {run["lineage"]: json.loads(run["config"])["model"]["width"] for run in rows(served, "runs")}
    assert widths == {"default": 0.125, "other": 0.25}
    assert [v.model["width"] for v in versions(LedgerReader(served), "other")] == [0.25, 0.25]

    again = a_service(served)
    waiting = again.take_in_inbox()
    assert [request.request_id for request in waiting.pending] == ["b"] and waiting.rejected == ()
    assert exit_code(waiting, again.serve(waiting)) == ExitCode.OK
    assert versions(LedgerReader(served), "default")[-1].classes_forgotten == (0, 1)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_lies_in_the_inbox_is_not_lost(served: Store) -> None:
    """It is taken in, told at each look, recorded once, and goes on waiting."""
    Inbox(served).add(Request(request_id="b", target=(1,)), now=NOON)
    for _ in range(2):
        found = a_service(served, "data.test_fraction=0.25").take_in_inbox()
        assert found.pending == () and "data.test_fraction is 0.25; allowed: 0.5" in found.rejected[0].reason
        assert statuses(served)["b"] == "received" and Inbox(served).entries() == []
    assert len(rows(served, "requests", request_id="b")) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_bad_request_of_such_a_lineage_is_rejected_for_good(served: Store) -> None:
    """Negative control: what no settings could serve is recorded as rejected."""
    service = a_service(served, "model.width=0.25")
    intake = service.take_in(parse_requests('{"request_id": "b", "target": [0]}', "f"))
    assert intake.pending == () and "not forgotten already" in intake.rejected[0].reason
    assert [row["request_id"] for row in rows(served, "requests", event="rejected")] == ["b"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_job_audits_no_lineage_of_other_data(served: Store) -> None:
    """It says so; no figure is recorded. With the right data the run would be audited."""
    said: list[str] = []
    service = a_service(served, "data.test_fraction=0.25")
    progress = Quiet()
    progress.say = said.append  # type: ignore[method-assign]
    service.context = replace(service.context, progress=progress)
    service.audit()
    assert len(said) == 1 and said[0].startswith("no audit of lineage default: data.test_fraction is 0.25")
    assert progress.phases == []


@pytest.fixture
def folder(served_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage location as a folder; the commands run on this process's cluster."""
    store = Store.open(tmp_path / "storage", sync=False)
    for name, data in served_files.items():
        store.put(name, data)
    (tmp_path / "requests.jsonl").write_text(FORGET_1)
    for command in (audit_command, tune_command):
        monkeypatch.setattr(command, "connect", lambda address, **options: None)
    return tmp_path


def swept(folder: Path, *changes: str, checkpoint: Path | None = None) -> int:
    """The exit code of a sweep over the storage location."""
    return run_sweep(
        recipe="digits_gkt", requests=folder / "requests.jsonl", request=None,
        storage=str(folder / "storage"), wait=0.0, name=None, space=("gkt.beta=uniform(0,1)",),
        sampler="random", scheduler="asha", budget="1 trials", grace=None, placement="colocated",
        cpus_per_role=None, gpus_per_role=None, seed=0, address=None, model=ModelFlags(checkpoint=checkpoint),
        set=(*BANK, *changes), log=(), audit=False,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_sweep_refuses_what_its_lineage_has_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A width, and the weights of another original, which it would else not look at; nothing is recorded."""
    store = Store.open(folder / "storage", create=False)
    assert swept(folder, "model.width=0.25") == ExitCode.BAD_INPUT
    assert "model.width is 0.25; allowed: 0.125" in " ".join(capsys.readouterr().out.split())
    other = folder / "other.safetensors"
    weights = original()[1]
    other.write_bytes(weights_to_bytes({**weights, "head.bias": weights["head.bias"] + 1}))
    assert swept(folder, checkpoint=other) == ExitCode.BAD_INPUT
    assert "--checkpoint is 'model " in " ".join(capsys.readouterr().out.split())
    assert rows(store, "sweeps") == []


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.width=0.25", "model.width is 0.25; allowed: 0.125"),
        ("data.test_fraction=0.25", "data.test_fraction is 0.25; allowed: 0.5"),
    ],
)
def test_an_audit_refuses_what_its_lineage_has_not(
    folder: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would train gold models of the version's width, or test on what the original was trained on."""
    store = Store.open(folder / "storage", create=False)
    version = versions(LedgerReader(store), "default")[-1].version
    given = AuditOptions(version=version, storage=str(folder / "storage"), set=(*BANK, change))
    assert run_audit(given) == ExitCode.BAD_INPUT
    out = " ".join(capsys.readouterr().out.split())
    assert said in out and "retrain" not in out
