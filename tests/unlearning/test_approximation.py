"""D' of a run: the same bits however often it was stopped and wherever its chunks were judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rayunlearn.data.datasets import load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.inversion.filtration import Candidates, Tally
from rayunlearn.inversion.model_inversion import ModelInversionSettings
from rayunlearn.inversion.unlearning_set import Part, UnlearningSet, joined
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier, version_model
from rayunlearn.reports.approximated import threshold_of
from rayunlearn.reports.wording import like_examples
from rayunlearn.roles import Roles
from rayunlearn.storage.store import Store
from rayunlearn.unlearning import approximation, sampling
from rayunlearn.unlearning.approximation import Approximation, filtered_rows
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import Quiet, memory_store, stored_original

ERASED = 9
PARTS: tuple[Part, ...] = ("learn", "stop", "check")
INVERSION = ModelInversionSettings(
    iterations=80, batch_size=64, z_dim=16, width=0.25, entropy_weight=20.0, augmentation_weight=0.0,
    total_variation_weight=0.0, batchnorm_weight=1.0, diversity_weight=0.0, lr=5e-3,
)  # fmt: skip
SETTINGS = FewShotSettings(
    model_inversion=INVERSION, per_class=40, budget=400, chunk_size=50, t_ent=2.0, entropy_under="plain",
    most_of_a_label=0.1,
)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximation, "BLOCK", 30)
    monkeypatch.setattr(sampling, "transformations", lambda names, background: ())


class Failing(InlineExecutor):
    """Loses its processes at the n-th call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def map(self, jobs: Any) -> list[Any]:
        """As ever, until then."""
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("lost")
        return super().map(jobs)


class Backwards(InlineExecutor):
    """Carries the last job out first, as processes that are not equally fast do."""

    def map(self, jobs: Any) -> list[Any]:
        """Results in the order of the jobs."""
        return super().map(list(jobs)[::-1])[::-1]


def examples(digit: int = ERASED, n: int = 5) -> Samples:
    """Real digits of a class, which the original answers as such."""
    data, model = load_dataset("digits"), version_model(*stored_original())
    images = data.images
    with torch.no_grad():
        known = (data.labels == digit) & (model(images).argmax(dim=1) == digit)
    ids = known.nonzero()[:n, 0]
    return Samples(images=images[ids], labels=torch.full((n,), digit), ids=ids)


def begun(
    store: Store, executor: InlineExecutor | None = None, erased: int = ERASED, **more: Any
) -> Approximation:
    """The making of D' from the tiny original."""
    spec, weights = stored_original()
    return Approximation(
        executor or InlineExecutor(), RunFiles(store, "run"), spec=spec, weights=weights,
        roles=Roles(retain=tuple(range(10)), target=(), erased=(erased,)),
        settings=more.pop("settings", SETTINGS), examples=more.pop("examples", examples()), seed=3,
        progress=Quiet(), **more,
    )  # fmt: skip


def whole(made: Approximation) -> UnlearningSet:
    """D' to the end, every part of it."""
    made.train_generator()
    made.sample()
    made.filter()
    return joined([given for part in PARTS for given in made.parts(part)])


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Store, UnlearningSet]:
    """Made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximation, "BLOCK", 30)
        patch.setattr(sampling, "transformations", lambda names, background: ())
        store = memory_store()
        return store, whole(begun(store))


def same(a: UnlearningSet, b: UnlearningSet) -> bool:
    """Whether two sets have the same bits."""
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_a_chunk_is_read_as_it_was_kept() -> None:
    """Images, soft labels, indices and tally, to the bit; a chunk that accepts nothing, too."""
    chunks = RunFiles(memory_store(), "run").chunks
    for n in (0, 3):
        tally = Tally(
            label=7, chunk=n, judged=5, entropy_failed=2, consistency_failed=1, predicted=(7,) * n
        )
        kept = Candidates(
            tally=tally, images=torch.randn(n, 2, 4, 4), soft_labels=torch.rand(n, 10),
            indices=torch.arange(n) + 40,
        )  # fmt: skip
        chunks.put(kept)
        found = chunks.get(7, n)
        assert found.tally == tally
        assert all(
            torch.equal(getattr(found, name), getattr(kept, name))
            for name in ("images", "soft_labels", "indices")
        )
    assert [(tally.label, tally.chunk) for tally in chunks.tallies()] == [(7, 0), (7, 3)]


@pytest.mark.parametrize("calls", [1, 2, 4, 6, 9])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    calls: int, undisturbed: tuple[Store, UnlearningSet]
) -> None:
    """Stopped while the generator is trained, samples are judged or scored."""
    store = memory_store()
    with pytest.raises(ConnectionError):
        whole(begun(store, Failing(calls)))
    assert same(whole(begun(store)), undisturbed[1])


def test_the_order_of_the_work_does_not_matter(undisturbed: tuple[Store, UnlearningSet]) -> None:
    """Whoever judges a chunk first, D' is the same; another seed's is not."""
    assert same(whole(begun(memory_store(), Backwards())), undisturbed[1])


def test_the_parts_are_all_of_it(undisturbed: tuple[Store, UnlearningSet]) -> None:
    """Eight in ten are learned from, one each held out, and none is in two parts."""
    made = begun(undisturbed[0])
    sizes = {part: sum(len(given) for given in made.parts(part)) for part in PARTS}
    samples = filtered_rows(made.filter(), (ERASED,))[0]["count"]
    assert sum(sizes.values()) == samples == len(undisturbed[1])
    assert sizes["stop"] == pytest.approx(samples / 10, abs=10) and sizes["learn"] > 7 * sizes["stop"]


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_share_of_a_label_is_recorded_and_told(
    undisturbed: tuple[Store, UnlearningSet], share: float
) -> None:
    """The sentence of report and terminal is made of the run's own setting, and so is the rule for D'_e."""
    settings = replace(SETTINGS, most_of_a_label=share, whole_by="label")
    row = filtered_rows(begun(undisturbed[0], settings=settings).filter(), (ERASED,))[0]
    found = threshold_of(row)
    assert (found.most_of_a_label, found.whole_by, found.raised) == (share, "similarity", (ERASED,))
    said = f"of those answered {ERASED} the most similar {100 * share:g} %, or one, alone"
    assert said in like_examples(found)
    whole = filtered_rows(begun(undisturbed[0], whole=True, settings=settings).filter(), (ERASED,))[0]
    assert (threshold_of(whole).whole_by, threshold_of(whole).raised) == ("label", ())


@pytest.mark.learned
def test_what_is_like_the_examples_is_relabelled(undisturbed: tuple[Store, UnlearningSet]) -> None:
    """None of it keeps the label; of a class that stays it is the share set, of one that goes most."""
    found = undisturbed[1]
    answered = int((found.answers == ERASED).sum())
    assert int(found.unwanted.sum()) == int(SETTINGS.most_of_a_label * answered)
    assert int(found.unwanted.sum()) > 2
    by_similarity = replace(SETTINGS, whole_by="similarity")
    gone = begun(undisturbed[0], whole=True, settings=by_similarity).filter()
    assert gone.selected > 0.5 * answered
    assert float(found.targets[found.unwanted][:, ERASED].max()) == 0
    assert float(found.targets[~found.unwanted].sum(dim=1).sub(1).abs().max()) < 1e-5


def test_a_class_that_is_to_go_need_not_be_found(undisturbed: tuple[Store, UnlearningSet]) -> None:
    """No sample is answered with the label: an error that names it where the class stays, else D' without."""
    made = {stays: begun(undisturbed[0], whole=not stays) for stays in (True, False)}
    tallies = [tally for tally in made[True].chunks.tallies() if tally.label != ERASED]
    none = [replace(tallies[0], label=ERASED, chunk=chunk, predicted=()) for chunk in range(SETTINGS.chunks)]
    found = [replace(t, predicted=tuple(p if p != ERASED else t.label for p in t.predicted)) for t in tallies]
    for each in made.values():
        each.chunks.tallies = lambda: [*found, *none]  # type: ignore[method-assign]
    with pytest.raises(BadInput, match=rf"classes to retain that no sample is predicted as is \[{ERASED}\]"):
        _ = made[True].composition
    last = made[False].composition.classes[-1]
    assert (last.label, last.found) == (ERASED, 0)


def test_nothing_to_change_is_an_error(undisturbed: tuple[Store, UnlearningSet]) -> None:
    """Examples of one class with the label of another to erase: no sample says what would change."""
    files = undisturbed[0].list("runs/run")
    store = memory_store({name: undisturbed[0].get(name) for name in files if "scores" not in name})
    with pytest.raises(BadInput, match="examples that the version answers with a label to erase is 0"):
        begun(store, erased=1, examples=examples(0)).held("stop")


@pytest.mark.learned
@pytest.mark.parametrize("whole", [True, False])
def test_the_examples_are_judged_by_too(undisturbed: tuple[Store, UnlearningSet], whole: bool) -> None:
    """Each held-out part ends with them, unwanted where the version answers them with the label.

    Where the class stays they are all that is unwanted: of what is like them in D' nothing is judged.
    """
    made = begun(undisturbed[0], whole=whole, settings=replace(SETTINGS, most_of_a_label=1.0))
    for part in ("stop", "check"):
        held, own = made.held(part), joined(list(made.parts(part)))
        like = int(own.unwanted.sum())
        assert like > 0
        assert len(held) == len(own) + len(examples()) - (0 if whole else like)
        assert torch.equal(held.images[-5:], examples().images)
        assert torch.equal(held.unwanted[-5:], held.answers[-5:] == ERASED) and bool(held.unwanted[-5:].any())
        assert int(held.unwanted[:-5].sum()) == (like if whole else 0)


@pytest.mark.learned
@pytest.mark.parametrize("whole", [True, False])
def test_who_learns_from_examples_is_judged_by_others(
    undisturbed: tuple[Store, UnlearningSet], whole: bool
) -> None:
    """Of five that are answered with the label the fourth alone judges."""
    learns = replace(SETTINGS, examples_share=0.1)
    every = begun(undisturbed[0], whole=whole).held("check")
    held = begun(undisturbed[0], whole=whole, settings=learns).held("check")
    assert bool(every.unwanted[-5:].all())
    assert len(held) == len(every) - 4
    assert torch.equal(held.images[-1], every.images[-2]) and bool(held.unwanted[-1])


@pytest.mark.learned
@pytest.mark.parametrize("by", ["similarity", "label", "every"])
def test_what_of_a_whole_class_is_relabelled(by: str, undisturbed: tuple[Store, UnlearningSet]) -> None:
    """By similarity some samples keep the label; by the label those that are answered with it lose it.

    With "every" no sample has any probability of it; where the class stays, similarity decides.
    """
    kept = {n: undisturbed[0].get(n) for n in undisturbed[0].list("runs/run") if "scores" not in n}

    def learned(whole: bool) -> UnlearningSet:
        # zeros, so that no 9 is like them
        settings = replace(SETTINGS, whole_by=by)
        made = begun(memory_store(kept), examples=examples(0), whole=whole, settings=settings)
        return joined(list(made.parts("learn")))

    found, stays = learned(True), learned(False)
    answered = found.answers == ERASED
    assert not bool(stays.unwanted[answered].all())
    assert bool(found.unwanted[answered].all()) == (by != "similarity")
    assert not bool(found.unwanted[~answered].any())
    left = found.targets[~answered, ERASED]
    assert bool((left == 0).all()) == (by == "every")
    assert torch.allclose(found.targets.sum(dim=1), torch.ones(len(found)))


def test_sampling_before_the_generator_is_trained_is_refused() -> None:
    """Half a generator is none."""
    with pytest.raises(BadInput, match="not trained yet"):
        begun(memory_store()).sample()


def test_a_model_without_batchnorm_is_warned_of() -> None:
    """What the generator lacks is said, with what it cost in the paper; nothing where all is there or off."""
    spec, weights = stored_original()
    made = begun(memory_store())
    assert made.warning is None
    made.spec = ClassifierSpec(
        name="lenet", width=0.25, in_channels=1, image_size=28, num_classes=10, mean=spec.mean, std=spec.std
    )
    made.weights = dict(build_classifier(made.spec, 0).state_dict())
    assert "lenet has no BatchNorm" in str(made.warning) and "Table 6" in str(made.warning)
    made.inversion = replace(INVERSION, batchnorm_weight=0.0)
    assert made.warning is None
