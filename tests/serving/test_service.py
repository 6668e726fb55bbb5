from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.auditing.labelled import data_hash, open_data
from rayunlearn.auditing.training import fit, fit_logged, training_job
from rayunlearn.cli.job import Taken
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.models.weights import version_id, weights_to_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import Request, parse_requests
from rayunlearn.serving.intake import Intake
from rayunlearn.serving.scheduler import Outcome
from rayunlearn.serving.service import Place, Service, exit_code
from rayunlearn.serving.training_logs import load_log
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.progress import Quiet
from tests.serving.tiny import (
    NOON,
    Recording,
    memory_store,
    original,
    original_job,
    rows,
    tiny_context,
    tiny_recipe,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster", "few_draws")]
UNPUBLISHABLE = ("gate.max_forget=0", "gate.max_position=0", "gate.max_loss=0")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny original as a file."""
    path = tmp_path_factory.mktemp("given") / "original.safetensors"
    path.write_bytes(weights_to_bytes(original()[1]))
    return path


@pytest.fixture
def serve(weights_file: Path) -> Callable[..., tuple[Service, ExitCode]]:
    """Runs a job over a store up to its exit code, roles in this process and without an audit."""

    def run(store: Store, text: str, recipe: Recipe | None = None, **more: Any) -> tuple[Service, ExitCode]:
        service = a_service(store, recipe or tiny_recipe(), **{"checkpoint": weights_file, **more})
        intake = service.take_in(parse_requests(text, "requests.jsonl"))
        return service, exit_code(intake, service.serve(intake))

    return run


def a_service(store: Store, recipe: Recipe, *, seed: int = 0, **more: Any) -> Service:
    """A service whose roles are objects of this process."""
    service = Service(tiny_context(store, recipe, seed=seed), Place(), **more)
    service.scheduler.open_executor = InlineExecutor
    return service


def statuses(store: Store) -> dict[str, str]:
    """What became of each accepted request."""
    return {k: status(v) for k, v in request_events(LedgerReader(store)).items()}


def rejections(store: Store) -> dict[str, str]:
    """The reason of each rejection, by the id it is filed under."""
    return {row["request_id"]: row["reason"] for row in rows(store, "requests", event="rejected")}


MIXED = """\
{"request_id": "all", "target": [0,1,2,3,4,5,6,7,8,9]}
{"request_id": "good", "target": [0]}
{"request_id": "unknown", "target": [10]}
{"request_id": "again", "target": [0, 4]}
{"request_id": "good", "target": [5]}
{"request_id": "torn", "target": [5}
{"request_id": "field", "targets": [5]}
{"request_id": "none", "target": []}
{"request_id": "access", "target": [5], "data_access": ["retain"]}
{"request_id": "late", "target": [2]}
"""


def test_bad_requests_among_good_ones(serve: Any) -> None:
    """Each bad request is recorded with its reason; the good ones before and after are served (exit 4).

    The reason names the value and what is allowed; a line that cannot be read is named by its number.
    """
    store = memory_store()
    _, code = serve(store, MIXED)
    assert code == ExitCode.PARTIAL
    assert statuses(store) == {"good": "served", "late": "served"}
    assert [v.classes_forgotten for v in versions(LedgerReader(store), "default")] == [(), (0,), (0, 2)]
    expected = {
        "unknown": ["[10]", "0 to 9"],
        "all": ["at least 2 classes", "every class"],
        "again": ["[0]", "not forgotten already", "[1, 2, 3, 4, 5, 6, 7, 8, 9]"],
        "good": ["requests.jsonl:5", "line 2 has this one"],
        "field": ["requests.jsonl:7", "targets", "'target'"],
        "none": ["requests.jsonl:8", "non-empty list"],
        "access": ["data_access", "['retain']", "weights"],
        "line-6": ["requests.jsonl:6", "malformed JSON", "column"],
    }
    found = rejections(store)
    assert found.keys() == expected.keys()
    for name, texts in expected.items():
        assert all(text in found[name] for text in texts), found[name]


def test_bad_samples_among_good_ones(serve: Any) -> None:
    """Ids are checked in another process at intake: the bad one is named, the good one served (exit 4).

    A file with nothing that can be served ends with exit 2 before anything is trained.
    """
    recipe = tiny_recipe(
        "digits", "method=fisher", "publish_refused=true", "inversion.iterations=5", "fisher.max_samples=2"
    )
    split_seed = original_job().split_seed
    first, *_ = open_data(recipe.data, split_seed)[1].train_ids.tolist()
    line = '{{"request_id": "{}", "kind": "samples", "target": [{}], "data_access": ["weights", "retain"]}}\n'
    bad = line.format("bad", 99999)
    store = memory_store()
    service, code = serve(store, bad, recipe, checkpoint=None)
    assert code == ExitCode.BAD_INPUT and service.context.progress.phases == []
    assert rejections(store) == {
        "bad": "request 'bad': target sample is [99999]; allowed: indices into 'digits', 0 to 1796"
    }
    _, code = serve(store, bad + line.format("good", first), recipe)
    assert code == ExitCode.PARTIAL and statuses(store) == {"good": "served"}
    assert versions(LedgerReader(store), "default")[-1].samples_forgotten == (first,)


def test_nothing_bad_is_trained_for(serve: Any) -> None:
    """A file of bad requests alone ends with exit 2 before an original is trained or a run begins."""
    store = memory_store()
    service, code = serve(store, '{"request_id": "a", "target": [99]}\n{"request_id": "b"}', checkpoint=None)
    assert code == ExitCode.BAD_INPUT
    assert service.context.progress.phases == []
    assert rows(store, "versions") == [] and rows(store, "runs") == []
    assert rejections(store).keys() == {"a", "b"}


def test_the_same_file_again(serve: Any) -> None:
    """A file served already is served: exit 0, not a row more, the same head."""
    store = memory_store()
    text = '{"request_id": "a", "target": [0]}\n{"request_id": "b", "target": [1]}'
    _, first = serve(store, text)
    before = store.list()
    service, second = serve(store, text)
    assert (first, second) == (ExitCode.OK, ExitCode.OK)
    assert service.context.progress.phases == [] and store.list() == before


def test_bad_requests_again_are_recorded_once(serve: Any) -> None:
    """The same bad file a second time says the same and records nothing new."""
    store = memory_store()
    bad = "".join(MIXED.splitlines(keepends=True)[4:9])
    _, first = serve(store, bad)
    before = rows(store, "requests")
    _, second = serve(store, bad)
    assert len(rejections(store)) == 4 and (first, second) == (ExitCode.PARTIAL, ExitCode.PARTIAL)
    assert rows(store, "requests") == before


def test_an_id_cannot_be_used_for_something_else(serve: Any) -> None:
    """An id served before is refused with another body, and the served request is left as it is."""
    store = memory_store()
    serve(store, '{"request_id": "a", "target": [0]}')
    _, code = serve(store, '{"request_id": "a", "target": [1]}')
    assert code == ExitCode.BAD_INPUT
    assert statuses(store) == {"a": "served"} and "'a'" in rejections(store)["a"]


def test_a_result_that_fails_the_gate(serve: Any) -> None:
    """What fails the gate is not published: the request ends as failed with every reason, exit 3."""
    store = memory_store()
    _, code = serve(store, '{"request_id": "a", "target": [0]}', tiny_recipe("digits", *UNPUBLISHABLE))
    assert code == ExitCode.NOTHING_ADMISSIBLE
    assert [v.classes_forgotten for v in versions(LedgerReader(store), "default")] == [()]
    (ended,) = rows(store, "requests", event="failed")
    (run,) = rows(store, "runs", event="failed")
    assert ended["reason"] == run["reason"] and ended["reason"].startswith("gate: predicted D_r is")
    assert statuses(store) == {"a": "failed"}
    assert len(list(store.list("models"))) == 1


def test_a_result_of_which_nothing_can_be_told(serve: Any) -> None:
    """It is parked, with the reason, or published with it where the operator has chosen so; exit 3 and 0."""
    store, blind = memory_store(), ("gate.max_position=0", "gate.least_power=1")
    text = '{"request_id": "a", "target": [0]}'
    _, code = serve(store, text, tiny_recipe("digits", *blind))
    assert code == ExitCode.NOTHING_ADMISSIBLE and statuses(store) == {"a": "failed"}
    (ended,) = rows(store, "requests", event="failed")
    assert ended["reason"].startswith("the gate cannot tell: it cannot be told whether")
    _, code = serve(store, text, tiny_recipe("digits", *blind, "gate.undecided=publish"))
    assert code == ExitCode.OK and statuses(store) == {"a": "served"}
    (ended,) = rows(store, "requests", event="served")
    assert ended["reason"].startswith("the gate cannot tell: it cannot be told whether")


def test_a_run_without_an_admissible_checkpoint(serve: Any) -> None:
    """Where the stopping rule finds no checkpoint, the gate is not asked, and its reason is recorded."""
    store = memory_store()
    service, code = serve(
        store, '{"request_id": "a", "target": [0]}', tiny_recipe("digits", "stopping.min_retain=1")
    )
    assert code == ExitCode.NOTHING_ADMISSIBLE
    (ended,) = rows(store, "requests", event="failed")
    assert ended["reason"].startswith("stopping rule: the highest retain accuracy is")
    assert "gate" not in service.context.progress.phases and rows(store, "evaluations") == []


def test_a_failed_request_again(serve: Any) -> None:
    """A failed request is not run again under the same settings, and stays failed: exit 3 once more.

    Under other settings it is.
    """
    store = memory_store()
    text = '{"request_id": "a", "target": [0]}'
    serve(store, text, tiny_recipe("digits", *UNPUBLISHABLE))
    service, code = serve(store, text, tiny_recipe("digits", *UNPUBLISHABLE))
    assert code == ExitCode.NOTHING_ADMISSIBLE and service.context.progress.phases == []
    _, code = serve(store, text)
    assert code == ExitCode.OK and statuses(store) == {"a": "served"}


def test_a_failure_beside_a_success(serve: Any) -> None:
    """One request fails, the next one is served from the version before it: exit 4."""
    store = memory_store()
    text = '{"request_id": "a", "target": [0]}\n{"request_id": "b", "target": [1]}'
    serve(store, text.splitlines()[0], tiny_recipe("digits", *UNPUBLISHABLE))
    strict = tiny_recipe("digits", *UNPUBLISHABLE)
    service = a_service(store, strict)
    service.scheduler.context = replace(service.context, recipe=tiny_recipe())  # b is judged by other bounds
    intake = service.take_in(parse_requests(text, "f"))
    assert [r.request_id for r in intake.done] == ["a"] and [r.request_id for r in intake.pending] == ["b"]
    assert exit_code(intake, service.serve(intake)) == ExitCode.PARTIAL
    assert [v.classes_forgotten for v in versions(LedgerReader(store), "default")] == [(), (1,)]


def test_a_deadline_that_has_passed(serve: Any) -> None:
    """A request whose deadline passed before it came in is served; the same file again is no error."""
    store = memory_store()
    text = '{"request_id": "a", "target": [0], "deadline": "2020-01-01T00:00:00Z"}'
    assert serve(store, text)[1] == ExitCode.OK
    assert serve(store, text)[1] == ExitCode.OK


def test_a_request_was_received_once(serve: Any) -> None:
    """Every event of a request gives the time at which it was first received, not its own."""
    store = memory_store()
    serve(store, '{"request_id": "a", "target": [0]}')
    events = LedgerReader(store).read("requests").to_pylist()
    assert [e["event"] for e in events] == ["received", "planned", "served"]
    assert {e["received_at"] for e in events} == {events[0]["at"]}


@pytest.mark.slow
def test_every_write_of_a_job_may_be_its_last(serve: Any) -> None:
    """A job killed between the publication and its events is taken in again and ends as served.

    Its class is forgotten by then, which must not make its own request look like a second one.
    """
    text = '{"request_id": "a", "target": [0]}'
    store = Recording()
    serve(store, text)
    expected = [v.version for v in versions(LedgerReader(store), "default")]
    names = [name for name, _ in store.before]
    _, published = [i for i, name in enumerate(names) if name.startswith("create ledger/versions")]
    assert len(names) - published == 12  # the version, the phase, the run's end, the request's end
    for name, files in store.before[published:]:
        resumed = memory_store(files)
        _, code = serve(resumed, text)
        assert code == ExitCode.OK, (name, rejections(resumed))
        assert [v.version for v in versions(LedgerReader(resumed), "default")] == expected, name
        assert statuses(resumed) == {"a": "served"}
        for table in ("requests", "runs"):
            ends = [row for row in rows(resumed, table) if row["event"] in ("served", "published")]
            assert len(ends) == 1, name


def test_a_publication_under_other_settings_is_concluded(serve: Any) -> None:
    """A job killed right after a publication is concluded also by one with other settings, without a run."""
    text = '{"request_id": "a", "target": [0]}'
    store = Recording()
    serve(store, text)
    names = [name for name, _ in store.before]
    _, published = [i for i, name in enumerate(names) if name.startswith("create ledger/versions")]
    resumed = memory_store(store.before[published + 1][1])
    service, code = serve(resumed, text, tiny_recipe("digits", "gated_inversion.cycles=4"))
    assert code == ExitCode.OK and service.context.progress.phases == []
    assert len(rows(resumed, "runs", event="started")) == 1 and statuses(resumed) == {"a": "served"}


def test_a_given_checkpoint_is_the_original(serve: Any, weights_file: Path) -> None:
    """The lineage begins with the given weights, bit for bit; so it does with a torch file of them."""
    spec, weights = original()
    torch_file = weights_file.with_suffix(".pt")
    torch.save(weights, torch_file)
    for path in (weights_file, torch_file):
        store = memory_store()
        serve(store, '{"request_id": "a", "target": [0]}', checkpoint=path)
        first, second = versions(LedgerReader(store), "default")
        assert first.version == version_id(weights) and second.parent == first.version


def test_a_checkpoint_that_is_not_the_lineages_original(serve: Any, weights_file: Path) -> None:
    """Once a lineage has begun its own original may be named again; any other model is refused."""
    store = memory_store()
    serve(store, '{"request_id": "a", "target": [0]}')
    before = store.list()
    text = '{"request_id": "b", "target": [1]}'
    other = weights_file.with_name("other.safetensors")
    other.write_bytes(weights_to_bytes({k: v + 1 for k, v in original()[1].items()}))
    with pytest.raises(BadInput, match="--checkpoint.*the original of lineage 'default'.*--storage"):
        serve(store, text, checkpoint=other)
    assert store.list() == before
    _, code = serve(store, text)
    assert code == ExitCode.OK and statuses(store) == {"a": "served", "b": "served"}


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    """A checkpoint of another shape is refused with the names that do not fit, and nothing is written."""
    spec, weights = original()
    wrong = {k: v for k, v in weights.items() if k != "head.bias"} | {
        "head.weight": torch.zeros(3, 3), "extra": torch.zeros(1)
    }  # fmt: skip
    (tmp_path / "wrong.safetensors").write_bytes(weights_to_bytes(wrong))
    store = memory_store()
    with pytest.raises(BadInput) as caught:
        a_service(store, tiny_recipe(), checkpoint=tmp_path / "wrong.safetensors")
    message = str(caught.value)
    assert all(part in message for part in ("wrong.safetensors", "missing: head.bias", "unexpected: extra"))
    assert "head.weight: [3, 3]" in message
    assert store.list() == []


class Code:
    """Runs a command where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        """The command."""
        import os

        return os.mkdir, (self.path,)


def test_a_checkpoint_with_code(tmp_path: Path) -> None:
    """A pickle with code in it is refused, and its code does not run."""
    torch.save({"head.bias": Code(str(tmp_path / "ran"))}, tmp_path / "evil.pt")
    with pytest.raises(BadInput, match=r"evil\.pt.*weights_only"):
        a_service(memory_store(), tiny_recipe(), checkpoint=tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_method_that_needs_the_training_log(serve: Any, weights_file: Path) -> None:
    """The original is trained with a log, to the same weights; two requests roll back steps of it.

    A given original has no log, and is refused by name before anything is trained.
    """
    store = memory_store()
    recipe = tiny_recipe(
        "digits", "method=amnesiac_rollback", "publish_refused=true", "inversion.iterations=5",
        "amnesiac_rollback.epochs=1", "train.epochs=2",
    )  # fmt: skip
    granted = '"data_access": ["weights", "forget", "retain", "training_log"]'
    text = "".join(f'{{"request_id": "r{c}", "target": [{c}], {granted}}}\n' for c in (0, 2))
    _, code = serve(store, text, recipe, checkpoint=None)
    assert code == ExitCode.OK
    chain = versions(LedgerReader(store), "default")
    assert [v.classes_forgotten for v in chain] == [(), (0,), (0, 2)]
    job = training_job(recipe, original()[0], 0)
    assert {v.data_hash for v in chain} == {data_hash(recipe.data, job.split_seed)}
    assert chain[0].version == version_id(fit(job).state_dict())
    assert store.exists("logs/default.safetensors")
    assert len(load_log(store, "default").updates) < len(fit_logged(job)[1].updates)
    with pytest.raises(BadInput, match="--checkpoint is .*needs the log of the original's training"):
        a_service(memory_store(), recipe, checkpoint=weights_file)


def test_another_seed_does_not_go_on_with_a_run(serve: Any) -> None:
    """A run that one seed began is not gone on with by another, whose draws would mix with its own."""
    store = Recording()
    text = '{"request_id": "a", "target": [0]}'
    serve(store, text)
    middle = next(files for name, files in store.before if "evaluations" in name)
    with pytest.raises(BadInput, match="seed"):
        serve(memory_store(middle), text, seed=1)


def test_the_inbox(weights_file: Path) -> None:
    """What was added is served without any file; what is cancelled before its turn is not.

    A driver killed after it took them in leaves them to the next one.
    """
    store = memory_store()
    for name, target in (("a", 0), ("b", 1), ("c", 99)):
        Inbox(store).add(Request(request_id=name, target=(target,)), now=NOON)
    a_service(store, tiny_recipe(), checkpoint=weights_file).take_in_inbox()
    service = a_service(store, tiny_recipe(), checkpoint=weights_file)
    intake = service.take_in_inbox()
    assert [r.request_id for r in intake.pending] == ["a", "b"]
    Inbox(store).cancel("b", now=NOON)
    outcomes = service.serve(intake)
    assert statuses(store) == {"a": "served", "b": "cancelled"} and rejections(store).keys() == {"c"}
    assert list(outcomes) == ["a"]
    assert service.take_in_inbox().pending == () and Inbox(store).entries() == []


def test_what_is_rejected_while_it_serves(weights_file: Path) -> None:
    """It is said once, though every later look finds it or what it left, and it counts in the exit code."""
    said: list[str] = []

    class Told(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    store = memory_store()
    Inbox(store).add(Request(request_id="a", target=(0,)), now=NOON)
    service = a_service(store, tiny_recipe(), checkpoint=weights_file)
    taken = Taken(Told())
    taken.add(service.take_in_inbox())
    assert said == [] and [r.request_id for r in taken.intake.pending] == ["a"]
    Inbox(store).add(Request(request_id="b", target=(99,)), now=NOON)
    outcomes = service.serve(taken.intake, taken.add)
    assert list(outcomes) == ["a"] and rejections(store).keys() == {"b"}
    (text,) = said
    assert text.startswith("rejected: request 'b': target class is [99]")
    assert [bad.request_id for bad in taken.intake.rejected] == ["b"]
    assert [r.request_id for r in taken.intake.pending] == ["a"]
    assert exit_code(taken.intake, outcomes) == ExitCode.PARTIAL


def test_purge(serve: Any) -> None:
    """After the job only the head's weights are left, loadable; the others and the runs' files are gone.

    Each version that went has its tombstone, once; the chain verifies and the rows stay.
    """
    store = memory_store()
    text = '{"request_id": "a", "target": [0]}\n{"request_id": "b", "target": [1]}'
    service, _ = serve(store, text)
    chain = versions(service.reader, "default")
    purged = service.purge()
    assert purged == [v.version for v in chain[:-1]] and len(purged) == 2
    assert store.list("runs") == [] and store.list("models") == [chain[-1].path]
    assert {row["version"] for row in rows(store, "versions", event="purged")} == set(purged)
    assert versions(service.reader, "default") == chain
    assert service.context.ledger.verify() > 0
    assert service.purge() == [] and len(rows(store, "versions", event="purged")) == 2
    serve(store, '{"request_id": "c", "target": [2]}')
    assert versions(LedgerReader(store), "default")[-1].classes_forgotten == (0, 1, 2)


def test_purge_leaves_what_is_under_way(serve: Any) -> None:
    """The files of a run that is not closed stay, and so does its parent's head."""
    store = Recording()
    serve(store, '{"request_id": "a", "target": [0]}')
    middle = memory_store(next(files for name, files in store.before if "evaluations" in name))
    service = a_service(middle, tiny_recipe())
    before = middle.list("runs") + middle.list("models")
    assert service.purge() == []
    assert middle.list("runs") + middle.list("models") == before


def test_a_purge_cut_short(serve: Any) -> None:
    """A purge killed between a file and its tombstone is completed by the next."""
    store = memory_store()
    service, _ = serve(store, '{"request_id": "a", "target": [0]}')
    first, _ = versions(service.reader, "default")
    store.delete(first.path)
    assert service.purge() == [first.version]


def test_exit_codes() -> None:
    """0 all served, 2 all rejected, 3 all failed, 4 for any mixture with something served."""
    good, bad = parse_requests('{"request_id": "a", "target": [0]}\n{}', "f")
    served = Outcome(requests=(good,), run_id="r", version="v", reason=None, choice=None)
    failed = Outcome(requests=(good,), run_id="r", version=None, reason="why", choice=None)

    def code(outcomes: list[Outcome], rejected: int = 0) -> ExitCode:
        named = {str(number): outcome for number, outcome in enumerate(outcomes)}
        return exit_code(Intake(pending=(), done=(), rejected=(bad,) * rejected), named)

    assert code([served]) == 0 and code([], 1) == 2 and code([failed]) == 3
    assert code([served, failed]) == 4 and code([served], 1) == 4
    assert code([failed], 1) == ExitCode.NOTHING_ADMISSIBLE
