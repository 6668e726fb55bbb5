"""What the tests of data share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.data.shards import packed, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """Writes pixels and labels as `tmp_path`/name and gives the folder."""

    def write(name: str, pixels: Tensor, labels: Sequence[int | None], **how: Any) -> Path:
        file = tmp_path / name
        write_shard(file, [packed(p) for p in pixels], labels, **how)
        return file.parent

    return write
