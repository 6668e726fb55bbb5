"""Which images of a run the report may show."""

from __future__ import annotations

import pytest
import torch

from rayunlearn.inversion.filtration import Candidates, Tally
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.serving.retention import retain_images
from rayunlearn.storage.store import Store
from tests.reports import demo_ledger as demo
from tests.serving.tiny import memory_store

LABELS = (0, 1, 2)
THRESHOLD = 5.0


def put_chunk(files: RunFiles, label: int, chunk: int, n: int = 20) -> None:
    """A chunk whose images hold 100 times their class and their index; one in four is answered as 1."""
    indices = torch.arange(chunk * n, (chunk + 1) * n)
    images = (100 * label + indices).float()[:, None, None, None]
    answers = torch.where(indices % 4 == 1, 1, label)
    tally = Tally(
        label=label, chunk=chunk, judged=n, entropy_failed=0, consistency_failed=0,
        predicted=tuple(answers.tolist()),
    )  # fmt: skip
    soft_labels = torch.nn.functional.one_hot(answers, len(LABELS)).float()
    files.chunks.put(Candidates(tally=tally, images=images, soft_labels=soft_labels, indices=indices))


def filtered(*, whole: bool) -> Store:
    """A run that asked to erase label 1; of each class the sample of index 9 is like the examples."""
    store = memory_store()
    files, ledger = RunFiles(store, "run"), Ledger(store)
    scores = {}
    for label in LABELS:
        for chunk in (0, 1):
            put_chunk(files, label, chunk)
            scores[label, chunk] = torch.zeros(20 if chunk == 0 else 5)
        scores[label, 0][9] = THRESHOLD
    files.save("scores.pt", {"scores": scores, "width": None})
    told = {"kind": "examples", "target": [1], "examples": "sha256:0", "whole_classes": whole}
    ledger.append("requests", [demo.request_row("r", "planned", run_id="run", **told)])
    ledger.append("evaluations", [demo.threshold_row("run", THRESHOLD)])
    return store


@pytest.mark.parametrize(("whole", "shown"), [(False, [19, 119, 219]), (True, [19, 219])])
def test_what_is_like_the_examples_is_not_shown(whole: bool, shown: list[int]) -> None:
    """Held out for the check are indices 9 and 19 of the first chunk, of which 9 is like the examples.

    What another class gets for its answer is not shown, and nothing of a class that is to be forgotten.
    """
    store = filtered(whole=whole)
    made = retain_images(store, LedgerReader(store), "run")
    assert made is not None
    assert made.images.flatten().tolist() == shown
    assert made.labels.tolist() == [c for c in LABELS if c != 1 or not whole]


def test_nothing_is_shown_of_a_run_that_was_purged() -> None:
    """Nor of one that has no threshold yet."""
    store = filtered(whole=False)
    assert retain_images(store, LedgerReader(store), "another") is None
    RunFiles(store, "run").purge()
    assert retain_images(store, LedgerReader(store), "run") is None
