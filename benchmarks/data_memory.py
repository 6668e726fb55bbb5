"""What memory a large data set takes: `python -m benchmarks.data_memory`.

Parquet folders of small synthetic images, as many as CIFAR-10's and ten times as many, are opened by fresh
processes one after another. Each hashes and splits its set, measures a network's accuracy on the test part
and trains it for some steps, as an audit and the training of a gold model do. The largest resident memory
of the processes is compared. The stated bound is `MOST_MB` and `MOST_RATIO`; the exit code is 1 where it
does not hold. About 2.3 GB of disk are used below `--folder` and freed at the end.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from rayunlearn.data_root import DATA_VARIABLE
from rayunlearn.execution.machine import machine_facts

TRAIN, TEST, SIDE, CLASSES = 50_000, 10_000, 32, 10
"""CIFAR-10's."""
MOST_MB, MOST_RATIO = 1500.0, 1.1
STEPS, BATCH = 50, 128
ROWS = 10_000
STARTER = """
import json, os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""
"""A small process that starts another: what the starter holds counts as a peak of the one that it starts."""


def image(number: int) -> bytes:
    """A PNG that no other number has: two stripes and the number's bits."""
    from PIL import Image

    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[: 1 + number % SIDE, :, number % 3] = 40 + number % 200
    pixels[SIDE - 1, :24, 0] = [255 * (number >> bit & 1) for bit in range(24)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write(folder: Path, times: int) -> None:
    """A Parquet folder of so many times CIFAR-10's images."""
    folder.mkdir()
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    first = 0
    for part, count in (("train", TRAIN), ("test", TEST)):
        with pq.ParquetWriter(folder / f"{part}.parquet", schema) as writer:
            for at in range(first, first + times * count, ROWS):
                numbers = range(at, min(at + ROWS, first + times * count))
                images = pa.array([image(n) for n in numbers], pa.binary())
                labels = pa.array([n % CLASSES for n in numbers], pa.int64())
                writer.write_batch(pa.record_batch([images, labels], schema=schema), ROWS)
        first += times * count


def opened(name: str, steps: int) -> dict[str, float]:
    """What a process does with a data set; gives how large it is."""
    import torch

    from rayunlearn.data.datasets import load_dataset
    from rayunlearn.data.splits import split
    from rayunlearn.evaluation.accuracy import class_counts
    from rayunlearn.methods.training import TrainSettings, TrainState, train_steps
    from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
    from rayunlearn.task import Input, Task

    torch.set_num_threads(1)
    dataset = load_dataset(name)
    parts = split(dataset, None, 0)
    images, labels = dataset.at(parts.test_ids)
    task = Task(
        input=Input(shape=(3, SIDE, SIDE), mean=dataset.mean, std=dataset.std), num_classes=CLASSES
    )
    model = build_classifier(ClassifierSpec.of_task(task, "allcnn", 0.125), 0)
    counts = class_counts(model, images, labels, CLASSES)
    settings = TrainSettings(epochs=1, batch_size=BATCH)
    state = TrainState(model, settings)
    with closing(train_steps(state, *dataset.at(parts.train_ids), settings, 0)) as taken:
        for _ in islice(taken, steps):
            pass
    return {"images": len(dataset.labels), "shown": int(counts.total.sum()), "steps": state.step}


def measured(folder: Path, times: int) -> dict[str, float]:
    """Largest resident memory, MB, and seconds of a process that opens a set of so many times CIFAR-10's."""
    command = [sys.executable, "-c", STARTER, sys.executable, "-m", "benchmarks.data_memory"]
    environment = {**os.environ, DATA_VARIABLE: str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    began = perf_counter()
    said = subprocess.check_output([*command, "--worker", f"parquet:{times}x"], text=True, env=environment)
    *_, facts, ended = said.strip().splitlines()
    code, peak_kib = json.loads(ended)
    assert code == 0, said
    return {**json.loads(facts), "peak_mb": peak_kib * 1024 / 1e6, "seconds": perf_counter() - began}


def main(
    folder: Path | None = None,
    times: int = 10,
    out: Path | None = Path("docs/results/data_memory.json"),
    worker: str | None = None,
) -> int:
    """Measure both, print the memory and its ratio; the exit code is 1 where the bound does not hold.

    Args:
        folder: for the images; None takes a temporary one.
        times: how many times CIFAR-10's images the large set has.
        out: where the figures are stored; None stores none.
        worker: of a process that is measured: the data set that it opens.
    """
    if worker is not None:
        print(json.dumps(opened(worker, STEPS)))
        return 0
    place = Path(tempfile.mkdtemp(prefix="rayunlearn-memory-", dir=folder))
    try:
        found = {}
        for n in (1, times):
            write(place / f"{n}x", n)
            found[f"{n}x"] = measured(place, n)
            shutil.rmtree(place / f"{n}x")
    finally:
        shutil.rmtree(place)
    for name, figures in found.items():
        size, peak, took = (figures[name] for name in ("images", "peak_mb", "seconds"))
        print(f"{name}: {size:.0f} images, peak {peak:.0f} MB, {took:.0f} s")
    small, large = found["1x"]["peak_mb"], found[f"{times}x"]["peak_mb"]
    holds = large <= MOST_MB and large / small <= MOST_RATIO
    said = "holds" if holds else "is broken"
    print(f"ratio {large / small:.2f}; the bound of {MOST_MB:.0f} MB and a ratio of {MOST_RATIO} {said}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": machine_facts(), "sets": found, "ratio": large / small, "holds": holds}
        out.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
