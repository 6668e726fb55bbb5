"""A given model serves requests that declare no data without a dataset; who declares data is told so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.auditing import labelled, training
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.data import datasets
from rayunlearn.data.datasets import DATA_VARIABLE, load_dataset
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.requested import data_of
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id, weights_to_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import parse_requests
from rayunlearn.serving import originals
from rayunlearn.serving.service import Place, Service, exit_code
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.task import TASKS
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.test_classes_of_data import Said
from tests.serving.tiny import memory_store, rows, stored_original, tiny_context, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster", "few_draws")]

NOT_THERE = "(there is no folder|the environment variable RAYUNLEARN_DATA names no folder)"
"""What the cluster's workers say, as their environment names a folder or none."""
STATED = ModelFlags(
    input="1,8,8", mean="0.3053", std="0.3760", classes=10, class_names="0,1,2,3,4,5,6,7,8,9"
).assignments()
FORGET = '{"request_id": "a", "target": [3]}\n'
ACCESS = '"data_access": ["weights", "retain"]'
BY_RETAIN = f'{{"request_id": "b", "target": [4], "method": "fine_tune", {ACCESS}}}\n'
RECORDED = ClassifierSpec.of_task(TASKS["digits"], "allcnn", 0.125).to_dict()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The tiny original as a file."""
    path = tmp_path / "original.safetensors"
    path.write_bytes(weights_to_bytes(stored_original()[1]))
    return path


def a_service(store: Store, recipe: Recipe, **more: Any) -> tuple[Service, list[str]]:
    """A service whose roles are objects of this process, and what it says."""
    said = Said()
    service = Service(tiny_context(store, recipe, progress=said), Place(), **more)
    service.scheduler.open_executor = InlineExecutor
    return service, said.lines


def serve(service: Service, text: str) -> ExitCode:
    """Serve these requests."""
    intake = service.take_in(parse_requests(text, "requests.jsonl"))
    return exit_code(intake, service.serve(intake))


def opened(*args: Any, **options: Any) -> Any:
    """In the place of every way to a dataset."""
    raise AssertionError("a dataset was asked for")


@pytest.fixture
def no_data(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing where the data should be, and every loader, and every process that has one, raises."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nothing"))
    for module, names in (
        (datasets, ("_load", "load_dataset", "not_there")),
        (labelled, ("load_dataset", "open_data", "data_hash")),
        (training, ("load_dataset", "classifier_spec", "open_data", "data_hash")),
        (originals, ("describe", "not_at_hand", "train_original")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, opened)


@pytest.mark.usefixtures("no_data")
def test_a_given_model_is_served_without_any_dataset(checkpoint: Path) -> None:
    """Two requests one after another; the version's record has what is declared of the data set by name."""
    store, recipe = memory_store(), tiny_recipe("digits", "audit.enabled=false")
    service, _ = a_service(store, recipe, checkpoint=checkpoint)
    assert serve(service, FORGET) == ExitCode.OK
    first, second = versions(LedgerReader(store), "default")
    assert first.version == version_id(stored_original()[1]) and second.classes_forgotten == (3,)
    assert first.model == second.model == RECORDED
    assert first.data_hash is None and not service.audits
    later, _ = a_service(store, recipe)  # nor for a lineage that has begun
    assert serve(later, '{"request_id": "c", "target": [5]}\n') == ExitCode.OK


@pytest.mark.usefixtures("no_data")
def test_who_asks_for_the_dataset_finds_that_it_is_not_there(checkpoint: Path) -> None:
    """The control of the test before: an original to train, an audit and a method with data all ask."""
    quiet = tiny_recipe("digits", "audit.enabled=false")
    for recipe, given in (
        (quiet, None),
        (tiny_recipe("digits"), checkpoint),
        (override(quiet, ["method=fine_tune"]), checkpoint),
    ):
        with pytest.raises(AssertionError, match="a dataset was asked for"):
            a_service(memory_store(), recipe, checkpoint=given)


def test_what_is_stated_stands_for_the_data(checkpoint: Path) -> None:
    """Of a data set that is nowhere: the request is served, and it is said that nothing is audited.

    A request by a method that declares data is refused, in a sentence with the method and what it declares.
    """
    store = memory_store()
    recipe = override(tiny_recipe("digits", "data.dataset=parquet:nowhere"), STATED)
    service, said = a_service(store, recipe, checkpoint=checkpoint)
    assert any(re.search(f"is not audited: {NOT_THERE}", line) and "nowhere" in line for line in said), said
    assert serve(service, FORGET + BY_RETAIN) == ExitCode.PARTIAL and not service.audits
    assert versions(LedgerReader(store), "default")[-1].model == RECORDED
    (refused,) = rows(store, "requests", event="rejected")
    assert "method is 'fine_tune'" in refused["reason"] and "declares retain" in refused["reason"]
    assert "'parquet:nowhere'" in refused["reason"]
    with pytest.raises(BadInput, match=f"method is 'unsir'.*declares retain, and {NOT_THERE}"):
        a_service(memory_store(), override(recipe, ["method=unsir"]), checkpoint=checkpoint)


def test_data_that_are_there_serve_a_method_that_declares_them(checkpoint: Path) -> None:
    """The control: on the digits the same request is taken, and the data are recorded."""
    store = memory_store()
    service, _ = a_service(store, tiny_recipe(), checkpoint=checkpoint)
    intake = service.take_in(parse_requests(BY_RETAIN, "requests.jsonl"), record=False)
    assert not intake.rejected and [r.request_id for r in intake.pending] == ["b"]
    service.begin_lineage("default")
    assert versions(LedgerReader(store), "default")[0].data_hash is not None and service.audits


def test_data_of_another_shape_are_not_the_models(checkpoint: Path) -> None:
    """A model of other images than the recipe's data: it is served, unaudited; to train one is refused."""
    stated = ["model.input.shape=1,8,8", "model.input.mean=0.5", "model.input.std=0.25", "model.classes=10"]
    recipe = override(tiny_recipe("digits"), ["data.dataset=mnist", *stated])
    service, said = a_service(memory_store(), recipe, checkpoint=checkpoint)
    assert said == [
        "what is published is not audited: of data.dataset 'mnist' the shape is (1, 28, 28), and the model "
        "has (1, 8, 8)"
    ]
    assert service.spec.input.mean == (0.5,) and not service.audits
    with pytest.raises(BadInput, match=r"data\.dataset is 'mnist'.*the model has \(1, 8, 8\)"):
        a_service(memory_store(), recipe)


def test_mean_and_std_are_the_models(checkpoint: Path) -> None:
    """Data of the model's shape are audited by what the model states, whatever is declared of the data."""
    stated = ["model.input.shape=1,8,8", "model.input.mean=0.5", "model.input.std=0.25", "model.classes=10"]
    service, said = a_service(memory_store(), tiny_recipe("digits", *stated), checkpoint=checkpoint)
    assert said == [] and service.audits and service.original.data_hash is not None
    own, _ = a_service(memory_store(), tiny_recipe("digits"), checkpoint=checkpoint)
    assert own.original.data_hash == service.original.data_hash  # of the pixels, however they are taken
    service.begin_lineage("default")
    (first,) = versions(LedgerReader(service.context.store), "default")
    data = data_of(service.context.recipe.data, first)
    images = load_dataset("digits", labelled.taken(data)).images[:]
    raw = load_dataset("digits").images[:] * 0.3760 + 0.3053
    assert torch.allclose(images, (raw - 0.5) / 0.25, atol=1e-5)


def test_a_dataset_of_which_nothing_is_known(checkpoint: Path) -> None:
    """Neither declared nor stated nor there: the sentence says what may be stated instead."""
    recipe = tiny_recipe("digits", "data.dataset=parquet:nowhere")
    with pytest.raises(BadInput, match="without data state --input, --mean, --std and --classes"):
        a_service(memory_store(), recipe, checkpoint=checkpoint)


@pytest.mark.parametrize("lacking", range(4))
def test_half_of_a_statement_is_none(lacking: int) -> None:
    """Input, mean, std and classes are stated together; all of them, for control, are the digits' own."""
    assert override(tiny_recipe(), STATED).model.task == TASKS["digits"]
    with pytest.raises(BadInput, match=r"model\.(input|classes|class_names)"):
        override(tiny_recipe(), STATED[:lacking] + STATED[lacking + 1 :])
