"""The approximated dataset D' of a run in storage: a Parquet file a chunk, beside what it tells of itself.

A chunk is written whole before anything counts on it, so that a killed run samples on from those it has.
Only one chunk at a time is in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.inversion.filtration import Candidates, Tally
from rayunlearn.storage.store import Store


class Chunks:
    """Chunks of accepted candidates, by class and number, in a run's folder of a storage location."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.root = f"{folder}/samples"

    def put(self, candidates: Candidates) -> None:
        """Keep a chunk."""
        tally = candidates.tally
        table = pa.table(
            {
                "index": pa.array(candidates.indices.numpy()),
                "soft_label": _rows(candidates.soft_labels),
                "image": _rows(candidates.images),
            },
            metadata={
                "tally": json.dumps(asdict(tally)),
                "shapes": json.dumps([list(candidates.images.shape), list(candidates.soft_labels.shape)]),
            },
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.store.put(self._name(tally.label, tally.chunk), buffer.getvalue())

    def tallies(self) -> list[Tally]:
        """What became of the candidates of every chunk that is kept; no image is read.

        Raises:
            IntegrityError: a chunk is no such file any more.
        """
        found = []
        for name in self.store.list(self.root):
            data = self._open(name)
            with _undamaged(name):
                found.append(_tally(pq.read_schema(data)))
        return found

    def get(self, label: int, chunk: int) -> Candidates:
        """A chunk, as it was kept.

        Raises:
            IntegrityError: it is no such file any more.
        """
        name = self._name(label, chunk)
        data = self._open(name)
        with _undamaged(name):
            table = pq.read_table(data)
            images, soft_labels = json.loads(table.schema.metadata[b"shapes"])
            return Candidates(
                tally=_tally(table.schema),
                images=_tensor(table.column("image")).reshape(images),
                soft_labels=_tensor(table.column("soft_label")).reshape(soft_labels),
                indices=torch.tensor(table.column("index").to_numpy()),
            )

    def _open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.store.get(name))

    def _name(self, label: int, chunk: int) -> str:
        return f"{self.root}/{label:04d}-{chunk:06d}.parquet"


@contextmanager
def _undamaged(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{name}, samples of this run, is damaged ({why})") from error


def _rows(values: Tensor) -> pa.Array:
    """A tensor `[n, ...]` as n rows of numbers."""
    flat = values.flatten(1).contiguous().numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def _tensor(column: pa.ChunkedArray) -> Tensor:
    """The numbers of all rows, one after another."""
    parts = [np.asarray(part.flatten()) for part in column.chunks]
    return torch.tensor(np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32))


def _tally(schema: pa.Schema) -> Tally:
    fields = json.loads(schema.metadata[b"tally"])
    return Tally(**fields | {"predicted": tuple(fields["predicted"])})
