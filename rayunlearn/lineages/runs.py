"""What a run keeps in storage while it is under way, and how it is thrown away.

Everything is written whole under `runs/<run_id>/` before the ledger or the state speaks of it, so a
killed run goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.lineages.chunks import Chunks
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.storage.store import Store


def kept_runs(store: Store) -> set[str]:
    """Ids of the runs of which anything is still there."""
    return {name.split("/")[1] for name in store.list("runs")}


class States:
    """Plain data and tensors under names, in a storage location or a folder of it."""

    def __init__(self, store: Store, root: str = "") -> None:
        self.store = store
        self.root = root

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Keep plain data and tensors under a name, in the place of what was there."""
        self._save(self._path(name), content)

    def load(self, name: str) -> dict[str, Any] | None:
        """What was kept under a name; None where nothing was."""
        path = self._path(name)
        return self._load(path) if self.store.exists(path) else None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if self.root else name

    def _save(self, name: str, content: dict[str, Any]) -> None:
        self.store.put(name, saved(content))

    def _load(self, name: str) -> dict[str, Any]:
        return loaded(self.store.get(name), name)


class RunFiles(States):
    """The files of one run."""

    def __init__(self, store: Store, run_id: str) -> None:
        super().__init__(store, f"runs/{run_id}")

    @property
    def chunks(self) -> Chunks:
        """Of the approximated dataset."""
        return Chunks(self.store, self.root)

    def synthetic(self) -> dict[str, SyntheticSet] | None:
        """The run's synthetic sets, or None before they were made."""
        name = f"{self.root}/synthetic.pt"
        if not self.store.exists(name):
            return None
        return {key: SyntheticSet(**fields) for key, fields in self._load(name).items()}

    def put_synthetic(self, sets: Mapping[str, SyntheticSet]) -> None:
        """Keep the synthetic sets."""
        self._save(f"{self.root}/synthetic.pt", {key: vars(value) for key, value in sets.items()})

    def kept(self) -> bool:
        """Whether anything of the run is still there."""
        return bool(self.store.list(self.root))

    def state(self) -> dict[str, Any] | None:
        """The run's state and its `step` at the last checkpoint, or None before the first."""
        name = f"{self.root}/state.pt"
        return self._load(name) if self.store.exists(name) else None

    def put_state(self, state: dict[str, Any]) -> None:
        """Keep the state, in the place of the one before."""
        self._save(f"{self.root}/state.pt", state)

    def student_name(self, step: int) -> str:
        """Where the student's weights at a checkpoint are."""
        return f"{self.root}/students/{step:08d}.safetensors"

    def student(self, step: int) -> dict[str, Tensor]:
        """The student's weights at a checkpoint."""
        name = self.student_name(step)
        return weights_from_bytes(self.store.get(name), name)

    def put_student(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the student's weights at a checkpoint."""
        self.store.put(self.student_name(step), weights_to_bytes(weights))

    def purge(self) -> None:
        """Throw everything away: generators, checkpoints and synthetic images still know the classes."""
        for name in self.store.list(self.root):
            self.store.delete(name)


def saved(content: dict[str, Any]) -> bytes:
    """Plain data and tensors as bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loaded(data: bytes, name: str = "a run's file") -> dict[str, Any]:
    """What `saved` made bytes of; nothing but plain data and tensors is read.

    Raises:
        IntegrityError: the bytes hold something else.
    """
    content = torch.load(io.BytesIO(data), weights_only=True)
    if not isinstance(content, dict):
        raise IntegrityError(f"{name} holds {type(content).__name__}, not a run's files")
    return content
