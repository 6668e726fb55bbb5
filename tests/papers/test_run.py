"""Rows of a reproduction as Ray tasks: shared models, resumed rows, failures that are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from papers import command as reproduce_command
from papers import run as reproduce
from papers import zero_shot
from papers.command import run_reproduction
from papers.results import NAMES
from papers.rows import Page, Row
from papers.run import (
    cut_short,
    inverted,
    measured_seeds,
    results_of,
    row_store,
    run_row,
    run_rows,
    seeds_of_row,
)
from papers.shared_models import forgotten_by_then, request_name, trained
from papers.zero_shot import row
from rayunlearn.auditing.training import classifier_spec, training_job
from rayunlearn.errors import BadInput, ExitCode, Interrupted
from rayunlearn.execution.machine import machine_facts
from rayunlearn.recipes import Recipe
from rayunlearn.storage.store import Store
from rayunlearn.unlearning import judging
from tests.serving.tiny import Quiet, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("few_draws")]


def tiny_row(method: str = "gated_inversion", *settings: str, requests=((0,), (2,)), **fields) -> Row:
    """A row that takes seconds."""
    recipe: Recipe = tiny_recipe("digits", "inversion.iterations=5")
    return row("digits", recipe, recipe, method, requests, *settings, measures="accuracy", **fields)


def inputs(folder: Path, each: Row, seed: int):
    """What a row's task is handed, made in this process."""
    recipe = each.recipe
    spec = classifier_spec(recipe.data, recipe.model.name, recipe.model.width)
    original = trained(str(folder), training_job(recipe, spec, seed), None, 1)
    golds = [
        trained(str(folder), training_job(recipe, spec, seed, excluded=gone, gold=0), original, 1)
        for gone in forgotten_by_then(each)
    ]
    return spec, original, golds


def test_rows_and_their_shared_models(cluster: None, tmp_path: Path) -> None:
    """Two rows and one original: trained once; each request has figures; a second call runs nothing."""
    rows = [tiny_row(), tiny_row("mask_logit", requests=((0,),))]
    assert run_rows(tmp_path, rows, [3], progress=Quiet()) == {}
    assert len(Store.open(tmp_path).list("trained")) == 3  # the original, and gold without 0 and without 0, 2
    first, second = results_of(tmp_path, rows[0], 3)
    assert (first["target"], second["target"]) == ([0], [2])
    for result, gone in ((first, (0,)), (second, (0, 2))):
        subjects = {f["subject"] for f in result["figures"]}
        assert {"original", "gold", "unlearned", "mask_logit"} <= subjects
        wanted = ("gold", "forget_accuracy")
        forget = [f for f in result["figures"] if (f["subject"], f["measure"]) == wanted]
        assert any(tuple(f["classes"]) == gone for f in forget)
        assert result["chosen_step"] in (2, 4, 6) and result["seconds"] > 0 and result["machine"]["python"]
    before = {name: Store.open(tmp_path).get(name) for name in Store.open(tmp_path).list()}
    assert run_rows(tmp_path, rows, [3], progress=Quiet()) == {}
    assert {name: Store.open(tmp_path).get(name) for name in Store.open(tmp_path).list()} == before


def test_a_row_under_way_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the second checkpoint of the second request: what was done is not done again."""
    each = tiny_row()
    spec, original, golds = inputs(tmp_path / "a", each, 0)
    run_row(str(tmp_path / "a"), each, 0, spec, 1, original, *golds)
    expected = results_of(tmp_path / "a", each, 0)

    class Stopping(reproduce.InlineExecutor):
        advanced: list[tuple[int, int]] = []
        stop = True

        def advance(self, first: int, last: int) -> None:
            if self.stop and len(self.advanced) == 4:
                raise Interrupted("stopped by the test")
            self.advanced.append((first, last))
            super().advance(first, last)

    monkeypatch.setattr(reproduce, "InlineExecutor", Stopping)
    with pytest.raises(Interrupted):
        run_row(str(tmp_path / "b"), each, 0, spec, 1, original, *golds)
    assert seeds_of_row(tmp_path / "b", each, [0]) == []
    Stopping.stop, Stopping.advanced = False, []
    run_row(str(tmp_path / "b"), each, 0, spec, 1, original, *golds)
    assert Stopping.advanced == [(3, 4), (5, 6)]
    assert seeds_of_row(tmp_path / "b", each, [0]) == [0]
    found = results_of(tmp_path / "b", each, 0)
    for ours, theirs in zip(found, expected, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_row_that_fails_is_named_and_the_others_are_done(cluster: None, tmp_path: Path) -> None:
    """The reason comes back with the row's name, and stays; its neighbour has its results."""
    bad = tiny_row("gated_inversion", "gated_inversion.inverted_per_class=0")
    good = tiny_row("mask_logit", requests=((0,),))
    done: list[list[int]] = []
    keep = lambda: done.append(seeds_of_row(tmp_path, good, [0]))  # noqa: E731
    failed = run_rows(tmp_path, [bad, good], [0], progress=Quiet(), keep=keep)
    assert list(failed) == [f"{bad.name}, seed 0"] and failed[f"{bad.name}, seed 0"]
    assert len(done) == 2 and done[-1] == [0]  # what is done can be kept before the others are
    (result,) = results_of(tmp_path, bad, 0)
    assert result["failed"] == failed[f"{bad.name}, seed 0"] and "figures" not in result
    assert run_rows(tmp_path, [bad, good], [0], progress=Quiet()) == {}  # it would fail again
    assert measured_seeds(tmp_path, good, [0]) == [0] and measured_seeds(tmp_path, bad, [0]) == []


def test_a_sequence_that_cannot_go_on_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first request has results, the second a reason; the row is done, and not begun again."""
    each, make = tiny_row("mask_logit"), judging.synthesis_jobs

    def no_image(spec, weights, roles, *more):
        if roles.forgotten:
            raise BadInput("classes", [5], "classes that the model can be inverted for")
        return make(spec, weights, roles, *more)

    monkeypatch.setattr(judging, "synthesis_jobs", no_image)
    spec, original, golds = inputs(tmp_path, each, 0)
    run_row(str(tmp_path), each, 0, spec, 1, original, *golds)
    (result,) = results_of(tmp_path, each, 0)
    assert result["target"] == [0] and "classes is [5]" in result["cut_short"]
    request, why = cut_short(Store.open(row_store(tmp_path, each, 0))) or ("", "")
    assert request == "forget-2" and "classes is [5]" in why
    assert seeds_of_row(tmp_path, each, [0]) == [0]


def test_a_trajectory_sets_synthetic_and_real_side_by_side(tmp_path: Path) -> None:
    """Each checkpoint has both accuracies; the run's files, which know the class, are gone."""
    each = tiny_row(requests=((0,),), trajectory=True)
    spec, original, golds = inputs(tmp_path, each, 0)
    run_row(str(tmp_path), each, 0, spec, 1, original, *golds)
    (result,) = results_of(tmp_path, each, 0)
    assert [point["step"] for point in result["curve"]] == [2, 4, 6]
    for point in result["curve"]:
        assert all(0 <= point[k] <= 1 for k in ("retain", "forget", "synthetic_retain", "synthetic_forget"))
    assert Store.open(row_store(tmp_path, each, 0)).list("runs") == []


ATTACK = ("audit.inversion.attacks=2", "audit.inversion.epochs=1", "audit.inversion.steps_per_epoch=2")


def test_images_of_an_attack_are_drawn_again_from_what_is_stored(tmp_path: Path) -> None:
    """The attack's images of original, gold and each row's model, twice the same; none are stored."""
    rows = [tiny_row(method, *ATTACK, requests=((0,),)) for method in ("mask_logit", "delete_head_row")]
    for each in rows:
        spec, original, golds = inputs(tmp_path, each, 0)
        run_row(str(tmp_path), each, 0, spec, 1, original, *golds)
    before = Store.open(tmp_path).list()
    drawn, again = (inverted(str(tmp_path), rows, 0, 1) for _ in range(2))
    assert drawn.class_id == 0
    assert list(drawn.attacks) == ["original", "Retrain (gold)", "masked logit", "deleted row"]
    assert all(images.shape == (2, 1, 8, 8) for images in drawn.attacks.values())
    assert all((again.attacks[name] == images).all() for name, images in drawn.attacks.items())
    assert not (drawn.attacks["original"] == drawn.attacks["Retrain (gold)"]).all()
    assert Store.open(tmp_path).list() == before


def test_the_command_draws_the_attack_unless_it_only_renders(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG beside the page, drawn by a task; a page that is rendered again shows it as it is."""
    rows = (tiny_row("mask_logit", *ATTACK, requests=((0,),)),)
    attacked = Page(name="figure-3", title="An attack", rows=rows, form="inversion")
    monkeypatch.setitem(zero_shot.FIGURES, "3", lambda scale: attacked)
    monkeypatch.setattr(reproduce_command, "connect", lambda address: None)
    flags = dict(
        paper="zero-shot", table=None, figure="3", rows=["*"], scale="cpu", seeds=(0,),
        storage=tmp_path / "kept", out=tmp_path, address=None, cpus_per_row=1.0, gpus_per_row=0.0,
    )  # fmt: skip
    page, picture = (tmp_path / f"zero-shot-figure-3-cpu.{kind}" for kind in ("md", "png"))
    assert run_reproduction(**flags, render_only=True) == ExitCode.OK
    assert "Nothing was run yet" in page.read_text() and not picture.exists()
    assert run_reproduction(**flags, render_only=False) == ExitCode.OK
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG") and f"({picture.name})" in page.read_text()
    assert run_reproduction(**flags, render_only=True) == ExitCode.OK
    assert picture.read_bytes() == drawn and f"({picture.name})" in page.read_text()


def test_table_three_is_written_without_a_cluster(tmp_path: Path) -> None:
    """Nothing is run and no row is asked for; the folder is a storage location all the same."""
    flags = dict(
        paper="zero-shot", table="III", figure=None, scale="cpu", seeds=(0,), storage=tmp_path / "new",
        out=None, address=None, cpus_per_row=1.0, gpus_per_row=0.0, render_only=False,
    )  # fmt: skip
    assert run_reproduction(rows=["*"], **flags) == ExitCode.OK
    assert "yes (paper: no)" in (tmp_path / "new" / "zero-shot-table-III-cpu.md").read_text()
    assert Store.open(tmp_path / "new", create=False).list("rows") == []


def test_the_command_writes_a_page(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Page and figures land in the folder; rows that were not asked for are left out; bad names are named."""
    rows = (tiny_row("mask_logit", requests=((0,),)), tiny_row("delete_head_row", requests=((0,),)))
    monkeypatch.setitem(
        zero_shot.TABLES, "VI", lambda scale: Page(name="table-VI", title="A table", rows=rows)
    )
    monkeypatch.setattr(reproduce_command, "connect", lambda address: None)
    flags = dict(
        paper="zero-shot", table="VI", figure=None, scale="cpu", seeds=(0,), storage=tmp_path, out=None,
        address=None, cpus_per_row=1.0, gpus_per_row=0.0, render_only=False,
    )  # fmt: skip
    assert run_reproduction(rows=["*mask_logit"], **flags) == ExitCode.OK
    text = (tmp_path / "zero-shot-table-VI-cpu.md").read_text()
    assert "# A table" in text and "| masked logit |" in text
    assert text.endswith(f"Not run: `{rows[1].name}`.\n")
    stored = json.loads((tmp_path / "zero-shot-table-VI-cpu.json").read_text())
    assert {r["row"] for r in stored["results"]} == {rows[0].name}
    (shown,) = stored["results"]
    figures = [dict(zip(shown["figures"]["columns"], row, strict=True)) for row in shown["figures"]["rows"]]
    assert figures == results_of(tmp_path, rows[0], 0)[0]["figures"]
    assert run_reproduction(rows=["nothing"], **flags) == ExitCode.BAD_INPUT
    assert rows[1].name in capsys.readouterr().out.replace("\n", "")
    assert run_reproduction(rows=["*"], **flags | {"figure": "3"}) == ExitCode.BAD_INPUT
    assert request_name((1, 2)) == "forget-1-2"


def test_a_page_goes_on_from_what_stands_in_its_folder(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another storage: a row that the page or its neighbour has is not run again, and stays on the page.

    With other settings it is another row: the page names what it had of the former.
    """
    first, second = (tiny_row(m, requests=((0,),)) for m in ("mask_logit", "delete_head_row"))
    monkeypatch.setattr(reproduce_command, "connect", lambda address: None)
    flags = dict(
        paper="zero-shot", table="VI", figure=None, rows=["*"], scale="cpu", seeds=(0,), out=tmp_path / "out",
        address=None, cpus_per_row=1.0, gpus_per_row=0.0, render_only=False,
    )  # fmt: skip

    def run(storage: str, *rows: Row, **more: object) -> list[tuple[str, str]]:
        shown = Page(name="table-VI", title="A table", rows=rows)
        for number in ("VI", "VII"):
            monkeypatch.setitem(
                zero_shot.TABLES, number, lambda scale, n=number: replace(shown, name=f"table-{n}")
            )
        assert run_reproduction(storage=tmp_path / storage, **flags | more) == ExitCode.OK
        name = f"zero-shot-table-{more.get('table', 'VI')}-cpu"
        text = (tmp_path / "out" / f"{name}.md").read_text()
        assert all(NAMES[row.recipe.method] in text for row in rows)
        (again,) = (tmp_path / "out").glob(f"{name}.json")
        return [(r["row"], r["machine"]["ran"]) for r in json.loads(again.read_text())["results"]]

    facts = machine_facts()
    monkeypatch.setattr(
        reproduce_command, "results_of",
        lambda root, row, seed: [
            {**r, "machine": {**facts, "ran": Path(root).name}} for r in results_of(root, row, seed)
        ],
    )  # fmt: skip
    assert run("a", first) == [(first.name, "a")]
    assert f"{first.name}, seed 0: done (1 of 1)" in capsys.readouterr().out
    assert run("b", first, second) == [(first.name, "a"), (second.name, "b")]
    assert run("c", second, table="VII") == [(second.name, "b")]
    assert Store.open(tmp_path / "c").list("rows") == []
    changed = tiny_row("mask_logit", "trivial.offset=7", requests=((0,),))
    assert run("d", changed, second) == [(changed.name, "d"), (second.name, "b")]
    assert f"left out: {first.name}, seed 0" in capsys.readouterr().out.replace("\n", " ")


def test_a_page_that_cannot_be_read_or_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder must be and a folder where a file must be, in a sentence each."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "out" / "zero-shot-table-II-cpu.json").mkdir(parents=True)
    flags = dict(
        paper="zero-shot", table="II", figure=None, scale="cpu", seeds=(0,), storage=tmp_path / "new",
        address=None, cpus_per_row=1.0, gpus_per_row=0.0, render_only=True, rows=["*"],
    )  # fmt: skip
    for out, said in (("file", "--out is"), ("out", "file of a page is")):
        assert run_reproduction(out=tmp_path / out, **flags) == ExitCode.BAD_INPUT
        assert f"error: {said}" in capsys.readouterr().out
    assert run_reproduction(out=tmp_path / "good", **flags) == ExitCode.OK
