"""Samples of a run in storage: read as they were kept, or named where they are damaged."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rayunlearn.errors import IntegrityError
from rayunlearn.inversion.filtration import Candidates, Tally
from rayunlearn.lineages.chunks import Chunks
from tests.serving.tiny import memory_store

NAME = "runs/r/samples/0003-000000.parquet"


def kept() -> tuple[Chunks, Candidates]:
    """Two samples of class 3."""
    tally = Tally(label=3, chunk=0, judged=4, entropy_failed=2, consistency_failed=1, predicted=(3, 1))
    candidates = Candidates(
        tally=tally, images=torch.rand(2, 1, 4, 5), soft_labels=torch.rand(2, 4), indices=torch.tensor([0, 3])
    )
    chunks = Chunks(memory_store(), "runs/r")
    chunks.put(candidates)
    return chunks, candidates


def test_a_chunk_is_read_as_it_was_kept() -> None:
    """Images, soft labels, indices and the tally, to the bit."""
    chunks, candidates = kept()
    again = chunks.get(3, 0)
    assert chunks.tallies() == [candidates.tally] == [again.tally]
    for name in ("images", "soft_labels", "indices"):
        assert torch.equal(getattr(again, name), getattr(candidates, name))


def other_table() -> bytes:
    """A Parquet file of somebody else."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"index": [1]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: other_table()])
def test_a_damaged_chunk_is_named(damage) -> None:
    """Emptied, cut short, or another file under its name."""
    chunks, _ = kept()
    chunks.store.put(NAME, damage(chunks.store.get(NAME)))
    for read in (lambda: chunks.get(3, 0), chunks.tallies):
        with pytest.raises(IntegrityError, match=rf"{NAME}, samples of this run, is damaged"):
            read()
