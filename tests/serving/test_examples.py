"""Requests that give a few examples of what is to be unlearned, from the file to the published version."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.inversion.model_inversion import ModelInversionSettings
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import version_model
from rayunlearn.models.weights import weights_from_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import Rejected, Request
from rayunlearn.serving.examples import keep_examples, load_examples, read_examples, require_fitting
from rayunlearn.serving.intake import Intake, take_in
from rayunlearn.serving.retention import purge
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.storage.store import Store
from tests.data.shards import packed, write_shard
from tests.serving.tiny import (
    NOON,
    Recording,
    memory_store,
    rows,
    stored_original,
    tiny_recipe,
    tiny_scheduler,
)

ERASED = 9
INVERSION = ModelInversionSettings(
    iterations=80, batch_size=64, z_dim=16, width=0.25, entropy_weight=20.0, augmentation_weight=0.0,
    total_variation_weight=0.0, batchnorm_weight=1.0, diversity_weight=0.0, lr=5e-3, transformations=(),
)  # fmt: skip


def recipe(**few_shot: Any) -> Recipe:
    """Few-shot unlearning in seconds; whatever comes out is published."""
    tiny = tiny_recipe("digits", "method=few_shot", "validation.checkpoint_every=4")
    settings = {
        "model_inversion": INVERSION, "per_class": 40, "budget": 400, "chunk_size": 50, "t_ent": 2.0,
        "entropy_under": "plain", "epochs": 4, "batch_size": 64, "lr": 0.02, "examples_share": 0.2,
    }  # fmt: skip
    return replace(tiny, few_shot=replace(tiny.few_shot, **(settings | few_shot)))


def pixels(digit: int, n: int = 5) -> torch.Tensor:
    """Real digits of a class, [n, 1, 8, 8] uint8 up to 255."""
    bunch = load_digits()
    images = torch.tensor(bunch.images)[torch.tensor(bunch.target == digit)][:n]
    return (images * 255 / 16).round().to(torch.uint8)[:, None]


def shard(folder: Path, images: torch.Tensor, labels: list[int]) -> Path:
    """A Parquet file of examples."""
    file = folder / "examples.parquet"
    write_shard(file, [packed(image) for image in images], labels)
    return file


def asked(examples: str, whole: bool = False, **more: Any) -> Request:
    """A request to unlearn the label of the examples."""
    return Request(
        request_id=more.pop("name", "r1"), kind="examples", target=more.pop("target", (ERASED,)),
        examples=examples, whole_classes=whole, data_access=("few_examples", "weights"), received_at=NOON,
        **more,
    )  # fmt: skip


def given(store: Store, digit: int = ERASED) -> str:
    """Examples in a store."""
    spec, _ = stored_original()
    mean, std = spec.mean[0], spec.std[0]
    images = (pixels(digit) / 255 - mean) / std
    return keep_examples(
        store, Samples(images=images, labels=torch.full((5,), digit), ids=torch.arange(5))
    )


def scheduler_of(store: Store, recipe: Recipe) -> Scheduler:
    """A scheduler of the stored original."""
    return tiny_scheduler(store, recipe, of=stored_original())


def served(store: Store, whole: bool = True, of: Recipe | None = None) -> Outcome:
    """One request, to its end."""
    return scheduler_of(store, of or recipe()).serve(asked(given(store), whole))


def answers(store: Store, version: str, digit: int) -> torch.Tensor:
    """What a version answers to all real digits of a class."""
    (found,) = [v for v in versions(LedgerReader(store), "default") if v.version == version]
    spec, _ = stored_original()
    images = (pixels(digit, 200) / 255 - spec.mean[0]) / spec.std[0]
    with torch.no_grad():
        return version_model(spec, load_version(store, found))(images).argmax(dim=1)


@pytest.mark.learned
def test_what_is_like_the_examples_gets_another_label() -> None:
    """The class of the examples is answered with others, these mostly as before; the version says it is gone.

    Over seven root seeds the others are answered right 89 +- 6 % of the time, the class never.
    """
    store = memory_store()
    outcome = served(store)
    assert outcome.version is not None, outcome.reason
    found = versions(LedgerReader(store), "default")[-1]
    assert found.classes_forgotten == (ERASED,)
    pair = str(found.parent), found.version
    before, after = ((answers(store, v, ERASED) == ERASED).float().mean() for v in pair)
    assert before > 0.8 and after < 0.2
    others = torch.cat([answers(store, found.version, d) == d for d in range(9)]).float().mean()
    assert others > 0.6


def test_all_of_it_is_recorded() -> None:
    """Phases in order, the threshold with its curve, what each class gave, and what the gate saw."""
    store = memory_store()
    served(store)
    phases = [row["phase"] for row in rows(store, "runs", event="phase")]
    assert phases == ["generator", "sample", "filter", "prepare", "unlearn", "gate", "publish"]
    evaluations = rows(store, "evaluations")
    measures = [row["measure"] for row in evaluations]
    assert measures[0] == "threshold" and measures.count("yield") == 10
    assert {"chosen_step", "retain_accuracy", "forget_accuracy"} <= set(measures)
    assert not any("probe_recall" in measure for measure in measures)
    (asked_for,) = {row["examples"] for row in rows(store, "requests")}
    assert asked_for.startswith("sha256:") and rows(store, "requests")[0]["whole_classes"] is True


@pytest.mark.learned
def test_labels_may_be_erased_without_their_class() -> None:
    """Where no class is named nothing counts as forgotten, and later requests may name the class."""
    store = memory_store()
    outcome = served(store, whole=False)
    assert outcome.version is not None
    assert versions(LedgerReader(store), "default")[-1].classes_forgotten == ()


def test_a_killed_run_goes_on_to_the_same_bits() -> None:
    """From whatever of its files was there last: another process publishes the same version."""
    store = Recording()
    whole = served(store)
    kept = [i for i, (change, _) in enumerate(store.before) if "/runs/" in f"/{change}" or "ledger" in change]
    for moment in kept[:: len(kept) // 6]:
        change, files = store.before[moment]
        if not any(name.startswith("examples/") for name in files):
            continue
        again = served(memory_store(files))
        assert again.version == whole.version, change


def test_a_generator_is_handed_on_while_no_class_is_forgotten() -> None:
    """The next request begins with it and trains none; after a class was erased it is not there."""
    # so little is relearned that the next request finds all classes there
    keeping = replace(recipe(keep_generator=True, lr=1e-6), publish_refused=True)
    store = memory_store()
    served(store, whole=False, of=keeping)
    (kept,) = store.list("generators/default")
    scheduler = scheduler_of(store, keeping)
    outcome = scheduler.serve(asked(given(store, 4), name="r2", target=(4,)))
    assert outcome.version is not None, outcome.reason
    states = [RunFiles(store, run).load("generator.pt") for run in runs(store)]
    assert [state["taken"] for state in states if state] == [INVERSION.iterations, 0]  # taken as it is
    purge(store, scheduler.context.ledger, scheduler.context.clock)
    assert kept not in store.list() and len(store.list("generators/default")) == 1

    forgetful = memory_store()
    served(forgetful, whole=True, of=keeping)
    assert forgetful.list("generators") == []
    served(without := memory_store(), whole=False)
    assert without.list("generators") == []


def runs(store: Store) -> list[str]:
    """Runs that were started, in order."""
    return [row["run_id"] for row in rows(store, "runs", event="started")]


def test_a_pretrained_generator_is_handed_to_who_declares_it() -> None:
    """ "Ours+" takes it as it is; without one it is refused, and so is one of another shape."""
    store = memory_store()
    served(store, whole=False, of=recipe(keep_generator=True))
    generator = load_generator(store)
    plus = replace(recipe(), method="few_shot_pretrained")

    def serve(weights: dict[str, torch.Tensor] | None, of: Recipe = plus) -> Outcome:
        scheduler = scheduler_of(fresh := memory_store(), of)
        scheduler.pretrained = None if weights is None else (lambda parent: weights)
        access = ("few_examples", "pretrained_generator", "weights")
        return scheduler.serve(replace(asked(given(fresh), whole=True), data_access=access))

    outcome = serve(generator)
    assert outcome.version is not None, outcome.reason
    assert "pretrained generator" in str(serve(None).reason)
    shape = replace(INVERSION, z_dim=8)
    other = replace(recipe(model_inversion=shape), method="few_shot_pretrained")
    assert "generator weights" in str(serve(generator, other).reason)
    with pytest.raises(BadInput, match="pretrained_generator"):
        scheduler_of(memory_store(), plus).serve(asked("sha256:0"))


def load_generator(store: Store) -> dict[str, torch.Tensor]:
    """What the only version of a lineage handed on."""
    (name,) = store.list("generators/default")
    return weights_from_bytes(store.get(name))


def test_examples_that_say_nothing_fail_the_request_and_not_the_job() -> None:
    """A reason is recorded where nothing of D' is like them, or where they are gone."""
    store = memory_store()
    scheduler = scheduler_of(store, recipe())
    gone = scheduler.serve(asked("sha256:abc"))
    assert gone.version is None and "examples is 'sha256:abc'" in str(gone.reason)
    spec, _ = stored_original()
    noise = Samples(images=torch.zeros(3, 1, 8, 8), labels=torch.full((3,), 4), ids=torch.arange(3))
    strict = replace(recipe(t_ent=1e-9, budget=50, per_class=10))
    short = scheduler_of(memory := memory_store(), strict).serve(
        asked(keep_examples(memory, noise), name="r3", target=(4,))
    )
    assert short.version is None and "classes to retain that no sample is predicted as" in str(short.reason)
    (row,) = [r for r in rows(memory, "requests") if r["event"] == "failed"]
    assert row["reason"] == short.reason


def test_purging_leaves_nothing_of_the_examples() -> None:
    """Examples of an open request stay; once it is served they go, with D' and the generator."""
    store = memory_store()
    said = given(store)
    take(store, [asked(said, whole=True)])
    scheduler = scheduler_of(store, recipe())
    purge(store, scheduler.context.ledger, scheduler.context.clock)
    assert load_examples(store, said)
    scheduler.serve(asked(said, whole=True))
    purge(store, scheduler.context.ledger, scheduler.context.clock)
    assert not [name for name in store.list() if name.startswith(("examples/", "runs/", "generators/"))]


def take(
    store: Store, entries: list[Request | Rejected], method: str = "few_shot", **read: Any
) -> Intake:
    """Requests taken in, and recorded."""
    scheduler = scheduler_of(store, recipe())
    spec, _ = stored_original()

    def kept(request: Request) -> str:
        said = str(request.examples)
        if said.startswith("sha256:"):
            load_examples(store, said)
            return said
        return keep_examples(store, read_examples(said, spec, request.target))

    intake, found = take_in(
        scheduler.reader, entries, method=method, num_classes=10, check_samples=lambda roles, head: None,
        read_examples=kept, config_hash=scheduler.config_hash, now=NOON,
    )  # fmt: skip
    scheduler.context.ledger.append("requests", found)
    return intake


def test_files_are_read_once(tmp_path: Path) -> None:
    """A request carries the digest of its examples; when the files are gone it is still known and served."""
    store = memory_store()
    file = shard(tmp_path, pixels(ERASED), [ERASED] * 5)
    entry = asked(str(file), whole=True)
    (pending,) = take(store, [entry]).pending
    assert str(pending.examples).startswith("sha256:")
    assert len(load_examples(store, str(pending.examples))) == 5
    file.unlink()
    assert take(store, [entry]).pending == (pending,)
    assert scheduler_of(store, recipe()).serve(pending).version is not None
    assert [r.request_id for r in take(store, [entry]).done] == ["r1"]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (pixels(9).repeat(1, 3, 1, 1), [9] * 5, r"\[3, 8, 8\]; allowed: \[1, 8, 8\]"),
        (pixels(9).repeat(1, 1, 2, 2), [9] * 5, r"\[1, 16, 16\]; allowed: \[1, 8, 8\]"),
        (pixels(9), [9, 9, 9, 9, 11], r"label in row 4 .* 11; allowed: a whole number in 0..9"),
        (pixels(9), [9, 9, 9, 9, 4], r"labels of the examples is \[4\]; allowed: .* \[9\]"),
        (pixels(9)[:0], [], "number of rows"),
    ],
)  # fmt: skip
def test_examples_that_do_not_fit_are_refused(
    tmp_path: Path, images: torch.Tensor, labels: list[int], said: str
) -> None:
    """The reason names the thing, the value and what is allowed, and no other request is touched."""
    file = shard(tmp_path, images, labels)
    intake = take(memory_store(), [asked(str(file)), asked(str(tmp_path / "none"), name="r2")])
    assert not intake.pending
    assert re.search(said, intake.rejected[0].reason), intake.rejected[0].reason
    assert "examples of" in intake.rejected[1].reason or "examples is" in intake.rejected[1].reason


def folder_of(given: Path, images: torch.Tensor, *names: str) -> Path:
    """Image files by these names."""
    for name, image in zip(names, images, strict=True):
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_bytes(packed(image))
    return given


def test_examples_are_read_whatever_their_files_are_called(tmp_path: Path) -> None:
    """Eight of eight: without a suffix, deeper, a hidden file beside them; the pixels are those given."""
    spec, images = stored_original()[0], pixels(9, 8)
    names = ("9/a.png", "9/b", "9/c.jfif", "9/d.webp", "9/more/e.png", "9/more/f", "9/g.tif", "9/h.bmp")
    folder = folder_of(tmp_path / "given", images, *names)
    folder_of(folder, pixels(4, 1), "9/.hidden.png")
    found = read_examples(str(folder), spec, (9,))
    assert found.labels.tolist() == [9] * 8 and found.ids.tolist() == list(range(8))
    order = sorted(range(8), key=lambda i: names[i])
    expected = (images[order] / 255 - spec.mean[0]) / spec.std[0]
    assert torch.equal(found.images, expected)


def test_what_of_a_folder_is_no_example_is_told_or_refused(tmp_path: Path) -> None:
    """Beside Parquet shards: counted; Parquet beside folders of labels: refused, one of both is meant."""
    spec, images = stored_original()[0], pixels(9)
    shard(tmp_path / "a", images, [9] * 5)
    folder_of(tmp_path / "a", images[:1], "picture")
    with pytest.warns(DataWarning, match=r"examples: not read were files that are no Parquet \(1: picture\)"):
        assert len(read_examples(str(tmp_path / "a"), spec, (9,)).labels) == 5
    folder_of(tmp_path / "a", images[:1], "9/a.png")
    with pytest.raises(BadInput, match="Parquet files in the folder is 'examples.parquet'; allowed: none be"):
        read_examples(str(tmp_path / "a"), spec, (9,))
    named = folder_of(tmp_path / "b", images[:2], "nine/a.png", "nine/b.png")
    with pytest.raises(BadInput, match=r"number of images is 0; .*no folder of a label \(2: nine/a\.png, "):
        read_examples(str(named), spec, (9,))


def test_examples_go_by_the_names_of_the_classes(tmp_path: Path) -> None:
    """Shards in another order and folders with names, for a model that has them; other names are refused."""
    named = replace(stored_original()[0], class_names=tuple("abcdefghij"))
    file = tmp_path / "examples.parquet"
    write_shard(file, [packed(image) for image in pixels(9)], [0] * 5, names=list("jihgfedcba"))
    with pytest.warns(DataWarning, match="another order; its labels were taken by their names"):
        assert read_examples(str(file), named, (9,)).labels.tolist() == [9] * 5
    folder = folder_of(tmp_path / "given", pixels(9, 2), "j/a.png", "9/b.png")
    assert read_examples(str(folder), named, (9,)).labels.tolist() == [9, 9]
    other = replace(named, class_names=tuple("ABCDEFGHIJ"))
    with pytest.raises(BadInput, match="names of classes in examples.parquet"):
        read_examples(str(file), other, (9,))


def test_an_example_that_is_given_twice_is_counted(tmp_path: Path) -> None:
    """It is taken as often as it is given; of a numbered series no shard may be missing."""
    spec, images = stored_original()[0], pixels(9).repeat(2, 1, 1, 1)
    with pytest.warns(DataWarning, match="10 images of the examples are only 5 different ones$"):
        assert len(read_examples(str(shard(tmp_path, images, [9] * 10)), spec, (9,)).labels) == 10
    (tmp_path / "examples.parquet").rename(tmp_path / "nines-00000-of-00002-0a1b.parquet")
    with pytest.raises(BadInput, match="1 is missing"):
        read_examples(str(tmp_path), spec, (9,))


ZEROS = Samples(images=torch.zeros(2, 1, 8, 8), labels=torch.tensor([9, 9]), ids=torch.arange(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": torch.zeros(2, 1, 9, 8)}, r"\[2, 1, 9, 8\].*allowed: finite images \[n, 1, 8, 8\]"),
        ({"images": torch.zeros(3, 1, 8, 8)}, "with a label each"),
        ({"images": torch.zeros(2, 1, 8, 8).double()}, "torch.float64"),
        ({"images": torch.full((2, 1, 8, 8), torch.nan)}, "finite"),
        ({"labels": torch.tensor(9)}, "with a label each"),
        ({"labels": torch.tensor([9.0, 9.0])}, "torch.float32 labels"),
        ({"labels": torch.tensor([9, 8])}, r"labels of the examples is \[8\]; allowed: .*\[9\]"),
        ({"ids": torch.arange(3)}, "with a label each"),
    ],
)
def test_what_was_handed_over_must_fit_the_model(change: dict[str, torch.Tensor], said: str) -> None:
    """Whoever writes into the inbox need not have read the examples as the command does."""
    spec = stored_original()[0]
    require_fitting(ZEROS, spec, (9,))
    with pytest.raises(BadInput, match=said):
        require_fitting(replace(ZEROS, **change), spec, (9,))


def test_a_method_that_takes_no_examples_refuses_them() -> None:
    """And one that takes nothing else says so."""
    store = memory_store()
    (refused,) = take(store, [asked(given(store))], method="gkt").rejected
    assert "examples are forgotten by few_shot, few_shot_pretrained" in refused.reason
    (refused,) = take(store, [Request(request_id="r4", target=(1,), received_at=NOON)]).rejected
    assert "examples, for 'few_shot'" in refused.reason
