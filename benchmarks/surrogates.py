"""What stands in for training data, to look at, and how fast it is made: `python -m benchmarks.surrogates`.

A contact sheet of every family and of crops of scikit-learn's two sample photographs: in colour at 32x32 and
96x96, in grey at 28x28 and 8x8.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from rayunlearn.surrogates.photographs import crops
from rayunlearn.surrogates.procedural import FAMILIES, ProceduralSettings, procedural_images

SHAPES = ((3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 96, 96))
CELL = 96
"""Pixels of a picture's side on the sheet, and a few between pictures."""
TIMED = 200
"""Pictures."""


def sample_photographs() -> list[Tensor]:
    """A temple and a flower, each `[3, 427, 640]`."""
    return [torch.tensor(image).permute(2, 0, 1) / 255 for image in load_sample_images().images]


def only(family: str) -> ProceduralSettings:
    """Settings that draw one family."""
    return ProceduralSettings(**{name: float(name == family) for name in FAMILIES})


def made(family: str, count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """So many pictures of a family, or `crops`."""
    if family == "crops":
        return crops(sample_photographs(), count, shape=shape, seed=seed)
    return procedural_images(count, shape=shape, seed=seed, settings=only(family))


def row(pictures: Tensor) -> np.ndarray:
    """Pictures `[N, C, H, W]` side by side, uint8 `[CELL + 4, N * (CELL + 4), 3]`, each pixel as a square."""
    cells = []
    for picture in (pictures.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        cell = np.full((CELL + 4, CELL + 4, 3), 90, dtype=np.uint8)
        cell[2:-2, 2:-2] = np.asarray(image.resize((CELL, CELL), Image.Resampling.NEAREST))
        cells.append(cell)
    return np.concatenate(cells, axis=1)


def main(out: Path = Path("surrogates.png"), columns: int = 20, seed: int = 0) -> None:
    """Write the sheet and print pictures per second.

    Args:
        out: the sheet's file.
        columns: pictures of a row.
        seed: of the pictures.
    """
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        for family in (*FAMILIES, "crops"):
            rows.append(row(made(family, columns, shape, seed)))
            began = time.process_time()
            made(family, TIMED, shape, seed + 1)
            speed = TIMED / (time.process_time() - began)
            print(f"{'x'.join(map(str, shape)):>8} {family:16} {speed:6.0f} pictures per CPU second")
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out)
    print(f"{out}: each shape's rows are {', '.join((*FAMILIES, 'crops'))}")


if __name__ == "__main__":
    tyro.cli(main)
