"""What a lineage records of how images are taken, and which data it goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.auditing import auditor as auditor_module
from rayunlearn.auditing.auditor import Auditor
from rayunlearn.auditing.labelled import data_hash, open_data
from rayunlearn.auditing.training import TrainingJob, task_of
from rayunlearn.data.datasets import DATA_VARIABLE, not_there
from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.ledger.schemas import SCHEMAS
from rayunlearn.lineages.fixed_settings import require_fixed
from rayunlearn.lineages.requested import data_of
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import weights_to_bytes
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Rejected, parse_requests
from rayunlearn.seeds import derive_seed
from rayunlearn.serving import grants, originals
from rayunlearn.serving.examples import read_examples
from rayunlearn.serving.originals import Originals
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from tests.data.shards import packed, random_pixels, write_shard
from tests.serving.test_classes_of_data import Said
from tests.serving.tiny import NOON, memory_store, tiny_context, tiny_recipe

HOW = Preprocessing(resize=(8, 8), channels=1)
NAMES = ("cat", "dog")


def spec_of(**more: Any) -> ClassifierSpec:
    """Of a model of two classes that takes 8x8 grey."""
    given: dict[str, Any] = {
        "name": "allcnn", "width": 0.125, "in_channels": 1, "image_size": 8, "num_classes": 2, "mean": (0.5,),
        "std": (0.25,), "class_names": NAMES, "preprocessing": HOW,
    }  # fmt: skip
    return ClassifierSpec(**{**given, **more})


def version_of(spec: ClassifierSpec, data_hash: str | None = None) -> Version:
    """The original of a lineage."""
    return Version(
        version="v" * 64, parent=None, lineage="default", path="p", request_ids=(), run_id=None,
        classes_forgotten=(), model=json.loads(json.dumps(spec.to_dict())), data_hash=data_hash,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of several sizes in Parquet, as data and as examples."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    images = [packed(random_pixels(1, 3, 6 + i, seed=i)[0]) for i in range(8)]
    write_shard(tmp_path / "p" / "train.parquet", images, [i % 2 for i in range(8)], names=NAMES)
    return tmp_path


def test_a_spec_is_read_back_with_its_preprocessing() -> None:
    """And one of before there was any says nothing of it: its record is as it was."""
    spec = spec_of()
    assert ClassifierSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert "preprocessing" not in spec_of(preprocessing=None).to_dict()
    with pytest.raises(BadInput, match="preprocessing"):
        ClassifierSpec.from_dict({**spec.to_dict(), "preprocessing": {"resise": 3}})


def test_audit_and_examples_take_images_alike(folder: Path) -> None:
    """The same images as data of the lineage and as examples of a request: the same tensors.

    For control, without what is recorded neither can be read.
    """
    version = version_of(spec_of())
    data = data_of(DataSettings(dataset="parquet:p", test_fraction=0.5), version)
    dataset, _ = open_data(data, 0)
    examples = read_examples(str(folder / "p"), spec_of(), (0, 1))
    assert torch.equal(dataset.images[:], examples.images) and torch.equal(dataset.labels, examples.labels)
    assert dataset.images.shape == (8, 1, 8, 8) and dataset.mean == (0.5,)
    bare = spec_of(preprocessing=None)
    with pytest.raises(BadInput, match="image in row 1"):
        open_data(data_of(DataSettings(dataset="parquet:p", test_fraction=0.5), version_of(bare)), 0)
    with pytest.raises(BadInput, match="image in row 0"):
        read_examples(str(folder / "p"), bare, (0, 1))


def test_the_order_of_the_classes_is_the_lineages(folder: Path) -> None:
    """Data that name their classes in another order are read by name."""
    version = version_of(spec_of(class_names=NAMES[::-1]))
    data = data_of(DataSettings(dataset="parquet:p", test_fraction=0.5), version)
    with pytest.warns(Warning, match="taken by their names"):
        assert task_of(data).class_names == NAMES[::-1]
    assert open_data(data, 0)[0].labels.tolist() == [1, 0] * 4
    other = data_of(DataSettings(dataset="parquet:p"), version_of(spec_of(class_names=("emu", "owl"))))
    with pytest.raises(BadInput, match="names of classes in train.parquet"):
        open_data(other, 0)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ((), None),
        (("data.preprocessing.resize=[8,8]", "data.preprocessing.channels=1"), None),
        (("data.preprocessing.resize=[8,8]",), "data.preprocessing is"),
        (("data.preprocessing.interpolation=nearest",), "data.preprocessing is"),
        (("data.mean=0.4", "data.std=0.25"), r"data.mean is \[0.4\]; allowed: \[0.5\]"),
        (("data.class_names=dog,cat",), "data.class_names is"),
        (("data.class_names=cat,dog",), None),
    ],
)
def test_what_is_recorded_need_not_be_stated_again(stated: tuple[str, ...], said: str | None) -> None:
    """And cannot be stated otherwise."""
    recipe = override(tiny_recipe("digits", "model.name=allcnn", "model.width=0.125"), list(stated))
    reader = LedgerReader(memory_store())
    if said is None:
        require_fixed(reader, version_of(spec_of()), recipe, spec_of())
        return
    with pytest.raises(BadInput, match=said):
        require_fixed(reader, version_of(spec_of()), recipe, spec_of())


def test_names_of_jobs_outlive_what_is_recorded() -> None:
    """Mean, std and names are the spec's; a preprocessing makes another job."""
    job = TrainingJob(
        excluded=(), data=DataSettings(sha256="0" * 64), split_seed=0, spec=spec_of(),
        train=Recipe(name="r").train, seed=0,
    )  # fmt: skip
    told = replace(job.data, mean=(0.5,), std=(0.25,), class_names=NAMES, granted_per_class=3)
    assert replace(job, data=told).key == job.key
    assert replace(job, data=replace(job.data, preprocessing=HOW)).key != job.key


# a lineage that began without data


def begun(store: Store, spec: ClassifierSpec, named: str) -> None:
    """Record a first run under a recipe that names a data set."""
    config = json.dumps({"data": {"dataset": named}})
    ledger = tiny_context(store, tiny_recipe()).ledger
    row = {
        "run_id": "run-1", "lineage": "default", "request_ids": ["a"], "attempt": 1, "seed": 0,
        "method": "gkt", "placement": "split", "event": "started", "config": config,
        "config_hash": "c", "at": NOON,
        "parent_version": "v",
    }  # fmt: skip
    columns = SCHEMAS["runs"].names
    ledger.append("runs", [{name: value for name, value in row.items() if name in columns}])




@pytest.mark.parametrize(
    ("named", "later", "data_hash", "refused"),
    [
        ("parquet:flowers", "parquet:flowers", None, False),
        ("parquet:flowers", "parquet:cars", None, True),
        ("digits", "parquet:flowers", None, False),  # the recipe's default, which the model contradicts
        ("digits", "parquet:flowers", "0" * 64, True),  # data were there, and recorded
    ],
)
def test_a_lineage_without_data_goes_on_with_the_name_that_was_stated(
    named: str, later: str, data_hash: str | None, refused: bool
) -> None:
    """Another data set's name is refused. A name that never was its data's stands in nobody's way."""
    store, spec = memory_store(), spec_of()
    begun(store, spec, named)
    recipe = tiny_recipe("digits", "model.width=0.125", f"data.dataset={later}")
    config = LedgerReader(store).read("runs").to_pylist()
    assert len(config) == 1
    begun_with = version_of(spec, data_hash)
    if not refused:
        require_fixed(LedgerReader(store), begun_with, recipe, spec)
        return
    with pytest.raises(BadInput, match=f"data.dataset is '{later}'"):
        require_fixed(LedgerReader(store), begun_with, recipe, spec)


def audited(store: Store, dataset: str) -> None:
    """Record a figure of an audit."""
    row = {
        "run_id": "run-1", "lineage": "default", "version": "v" * 64, "subject": "unlearned",
        "dataset": dataset, "dataset_hash": "h", "split": "test", "classes": [0],
        "measure": "forget_accuracy", "parameters": "{}", "value": 0.0, "sum": 0.0, "count": 1, "seed": 0,
        "censored": False, "at": NOON,
    }  # fmt: skip
    tiny_context(store, tiny_recipe()).ledger.append("audits", [row])


@pytest.mark.parametrize(("first", "data_hash", "refused"), [
    (None, None, False), ("parquet:p", None, False), ("parquet:q", None, True),
    ("parquet:q", "0" * 64, False),
])  # fmt: skip
def test_a_later_audit_by_another_data_set_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: str | None, data_hash: str | None, refused: bool
) -> None:
    """By its name: the lineage began without data, so that the first audit's data are its data.

    A lineage that knows its data by their hash is held to that instead.
    """
    monkeypatch.setattr(
        auditor_module, "describe", lambda data, split_seed: (task_of(data), "0" * 64)
    )
    store = memory_store()
    if first is not None:
        audited(store, first)
    recipe = tiny_recipe("digits", "data.dataset=parquet:p", "data.test_fraction=0.5", "model.width=0.125")
    auditor = Auditor(tiny_context(store, recipe), threads=1)
    original = version_of(spec_of(), data_hash)
    if not refused:
        auditor._require_fixed(original)
        return
    with pytest.raises(BadInput, match="data.dataset is 'parquet:p'; allowed: 'parquet:q', by which"):
        auditor._require_fixed(original)


# what a service knows of its data


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service looks at data in this process, without a cluster."""
    monkeypatch.setattr(
        originals, "describe", lambda data, split_seed, say: (task_of(data), data_hash(data, split_seed))
    )
    monkeypatch.setattr(originals, "not_at_hand", lambda data: not_there(data.dataset))


def original_of(
    folder: Path, *stated: str, store: Store | None = None, data: str = "parquet:p"
) -> tuple[Originals, list[str]]:
    """What a service of a given checkpoint knows, and what it says."""
    file = folder / "model.safetensors"
    file.write_bytes(weights_to_bytes(build_classifier(spec_of(), 0).state_dict()))
    said = Said()
    named = f"data.dataset={data}"
    recipe = tiny_recipe("digits", "model.width=0.125", named, "data.test_fraction=0.5", *stated)
    context = tiny_context(store or memory_store(), recipe, progress=said)
    found = Originals(context, LedgerReader(context.store), threads=1, checkpoint=file, generator=False)
    return found, said.lines


STATED = ("model.input.shape=1,8,8", "model.input.mean=0.5", "model.input.std=0.25", "model.classes=2")
PREPARED = ("data.preprocessing.resize=[8,8]", "data.preprocessing.channels=1")


@pytest.mark.usefixtures("here")
def test_a_service_records_what_is_stated_and_needs_it_once(folder: Path) -> None:
    """The spec of a lineage has it; a later service takes it from there. The control states it nowhere."""
    first, _ = original_of(folder, *STATED, *PREPARED)
    assert first.spec.preprocessing == HOW and first.no_data is None and first.data_hash is not None
    store = memory_store()
    row = {
        "version": "v" * 64, "lineage": "default", "parent": None, "request_ids": [], "run_id": None,
        "classes_forgotten": [], "path": "p", "model": json.dumps(first.spec.to_dict()), "event": "published",
        "created_at": NOON, "at": NOON,
    }  # fmt: skip
    tiny_context(store, tiny_recipe()).ledger.append("versions", [row])
    later, _ = original_of(folder, store=store)
    assert later.spec.preprocessing == HOW and later.data_hash == first.data_hash
    assert later.spec.mean == (0.5,) and later.spec.class_names == NAMES
    with pytest.raises(BadInput, match="image in row 1"):
        original_of(folder)


@pytest.mark.usefixtures("here")
def test_data_of_other_classes_serve_no_audit(folder: Path) -> None:
    """Names that are not the model's: it is served all the same, which is said; its own are audited."""
    found, said = original_of(folder, *STATED, *PREPARED, 'model.class_names=["cat","emu"]')
    assert found.no_data is not None and "names of classes in train.parquet" in found.no_data
    assert any("is not audited" in line for line in said)
    own, _ = original_of(folder, *STATED, *PREPARED, 'model.class_names=["cat","dog"]')
    assert own.no_data is None


def test_a_request_names_no_code(folder: Path) -> None:
    """Examples are a path: the name of a function, or of a data set, opens nothing."""
    for place in ("tests.data.test_code:Own", "parquet:p", "digits"):
        with pytest.raises(BadInput, match="examples is"):
            read_examples(place, spec_of(), (0, 1))
    entries = parse_requests('{"request_id": "r", "target": [0], "data": "os:getcwd"}', "f")
    assert isinstance(entries[0], Rejected) and "'data'" in entries[0].reason


# what a method is handed


def test_fewer_of_each_class_are_handed_over_where_that_is_stated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes; samples that a request names are all there. More bytes than are allowed are refused."""
    data = data_of(DataSettings(dataset="parquet:p", test_fraction=0.25), version_of(spec_of()))
    few = replace(data, granted_per_class=1)
    roles = Roles(retain=(1,), target=(0,), forgotten=())
    whole = grants.grant(data, derive_seed(0, "split"), roles, ("forget", "retain"))
    less = grants.grant(few, derive_seed(0, "split"), roles, ("forget", "retain"))
    assert whole.forget is not None and less.forget is not None and less.retain is not None
    assert (len(whole.forget), len(less.forget), len(less.retain)) == (3, 1, 1)
    assert set(less.forget.ids.tolist()) <= set(whole.forget.ids.tolist())
    named = Roles(retain=(0, 1), target=(), forgotten=(), target_samples=tuple(whole.forget.ids.tolist()[:2]))
    both = grants.grant(few, derive_seed(0, "split"), named, ("forget",))
    assert both.forget is not None and len(both.forget) == 2
    monkeypatch.setattr(grants, "MOST_BYTES", 4 * 64 * 3)
    with pytest.raises(BadInput, match="bytes of the 6 images to hand over.*data.granted_per_class"):
        grants.grant(data, derive_seed(0, "split"), roles, ("forget", "retain"))
    assert grants.grant(few, derive_seed(0, "split"), roles, ("forget", "retain")).retain is not None
