"""Few-shot unlearning on digits, from end to end: both of the paper's tasks move to where retraining is.

What is compared is the accuracy on D_e, which is to fall to 0 for a class and to rise to 1 for mislabelled
samples. Oracle, the original fine-tuned on all of D_r, is no yardstick: it leaves samples that are known by
heart as they are (docs/log.md, 78).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayunlearn.auditing.labelled import mislabelled, open_data
from rayunlearn.auditing.training import classifier_spec, fit, training_job
from rayunlearn.data.mislabelling import Mislabelling
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.published import load_version
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec, version_model
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.scheduling.requests import Request
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.examples import keep_examples
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import NOON, memory_store, tiny_context

SMALLER = (
    "model.width=0.125", "few_shot.model_inversion.iterations=400", "few_shot.per_class=100",
    "few_shot.budget=2000", "few_shot.t_ent=1.0",
)  # fmt: skip
SEVENS = Mislabelling(of=7, to=(2, 3, 7), share=0.2)
EXAMPLES = 8

Weights = dict[str, Tensor]
Images = tuple[Tensor, Tensor]
"""Images and what is to be compared with the answers to them."""


def published(
    recipe: Recipe, seed: int, original: Weights, request: Request, given: Samples
) -> Store:
    """A store in which one request was served."""
    store = memory_store()
    scheduler = Scheduler(
        tiny_context(store, replace(recipe, publish_refused=True), seed=seed),
        open_executor=InlineExecutor, placement="inline", grant=grant,
    )  # fmt: skip
    spec = spec_of(recipe)
    scheduler.publish(
        lineage="default", weights=original, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    request = replace(request, examples=keep_examples(store, given))
    assert scheduler.serve(request).version is not None
    return store


def spec_of(recipe: Recipe) -> ClassifierSpec:
    """The recipe's classifier."""
    return classifier_spec(recipe.data, recipe.model.name, recipe.model.width)


def accuracies(store: Store, recipe: Recipe, *sets: Images) -> list[list[float]]:
    """Original and result -> accuracy on each set."""
    spec = spec_of(recipe)
    found = []
    for version in versions(LedgerReader(store), "default"):
        model = version_model(spec, load_version(store, version))
        with torch.no_grad():
            found.append([float((model(x).argmax(dim=1) == y).float().mean()) for x, y in sets])
    return found


def accuracies_of(task: str, seed: int) -> list[list[float]]:
    """Accuracy on D_r and on D_e of the original and of what few-shot unlearning publishes."""
    recipe = override(load_recipe("digits_few_shot"), SMALLER)
    if task == "mislabelled":
        wrong = replace(recipe, data=replace(recipe.data, mislabelling=SEVENS))
        recipe = override(wrong, ["train.epochs=60", "few_shot.epochs=24"])
    split_seed = derive_seed(seed, "split")
    dataset, parts = open_data(recipe.data, split_seed)
    train, test = parts.train_ids, parts.test_ids
    if task == "class":
        erased: tuple[int, ...] = (9,)
        ids = train[dataset.labels[train] == 9]
        kept, gone = (test[dataset.labels[test] != 9], test[dataset.labels[test] == 9])
        d_r, d_e = ((dataset.images[i], dataset.labels[i]) for i in (kept, gone))
    else:
        found = mislabelled(recipe.data, split_seed)
        assert found is not None
        erased, ids = SEVENS.erased, found.changed_ids
        d_r = (dataset.images[test], dataset.labels[test])
        d_e = (dataset.images[ids], found.right_labels)
    shown = ids[:EXAMPLES]
    given = Samples(images=dataset.images[shown], labels=dataset.labels[shown], ids=shown)
    ours = Request(
        request_id="r", kind="examples", target=erased, examples="here", whole_classes=task == "class",
        data_access=("few_examples", "weights"), received_at=NOON,
    )  # fmt: skip
    original = dict(fit(training_job(recipe, spec_of(recipe), seed)).state_dict())
    return accuracies(published(recipe, seed, original, ours, given), recipe, d_r, d_e)


@pytest.mark.slow
@pytest.mark.learned
@pytest.mark.parametrize(("task", "retrained"), [("class", 0.0), ("mislabelled", 1.0)])
def test_accuracy_on_d_e_moves_to_where_retraining_is(task: str, retrained: float) -> None:
    """At least a fifth of the way, and D_r keeps within seven points of the original's.

    Over eleven seeds D_e of a class falls from 98 to 0 %, of twelve mislabelled samples it rises from 0 to 77
    +- 15 % (once 42); D_r falls by 0.7 +- 0.6 and 1.8 +- 1.1 points. So one seed is three deviations from the
    bounds at least.
    """
    before, after = accuracies_of(task, seed=0)
    start, left = (abs(found[1] - retrained) for found in (before, after))
    assert start > 0.8, "the original has not learned what is to be unlearned"
    assert left < 0.8 * start
    assert before[0] - after[0] < 0.07
