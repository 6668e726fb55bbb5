"""The audit of weights: relearning in its own process and by a worker, and the images of an attack."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rayunlearn.auditing.audit import INVERTED, AuditInputs, audit, audit_task, inverted_images
from rayunlearn.auditing.training import fit
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.anamnesis import RelearnSettings
from rayunlearn.methods.trivial import gaussian_head
from rayunlearn.models.classifiers import version_model
from rayunlearn.recipes import AuditSettings
from rayunlearn.roles import Roles
from tests.serving.tiny import original, original_job, tiny_recipe

FORGET = 3


@functools.cache
def inputs() -> AuditInputs:
    """The tiny original, a gold model of two epochs, and a head that was drawn anew, to be audited."""
    spec, weights = original()
    job = original_job()
    retain = tuple(c for c in range(10) if c != FORGET)
    gold = fit(replace(job, excluded=(FORGET,), train=replace(job.train, epochs=2)))
    return AuditInputs(
        spec=spec,
        roles=Roles(retain=retain, target=(FORGET,)),
        original=weights,
        unlearned=dict(gaussian_head(version_model(spec, weights), retain=retain, seed=1).state_dict()),
        golds=[dict(gold.state_dict())],
        data=tiny_recipe().data,
        split_seed=job.split_seed,
        settings=AuditSettings(
            measures=("anamnesis", "relearning"), relearn=RelearnSettings(batch_size=64, max_steps=8)
        ),
        seed=5,
    )


def rows(inputs: AuditInputs) -> list[dict[str, Any]]:
    """What the audit finds, in a process of its own."""
    found: list[dict[str, Any]] = ray.get(audit_task.remote(inputs, 1))
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_relearning_by_a_worker_gives_the_same_rows(tmp_path: Path) -> None:
    """One worker, started from the audit's process: every row is the one without it, curves
    and all. Negative control: other mini-batches give other rows."""
    here = rows(inputs())
    settings = replace(inputs().settings, relearn_workers=1)
    assert rows(replace(inputs(), settings=settings, scratch=str(tmp_path))) == here
    assert list(tmp_path.iterdir()) == []
    assert {row["measure"] for row in here} == {
        "relearn_steps", "anamnesis_index", "relearn_retain_peak", "relearn_few_steps"
    }  # fmt: skip
    other = replace(settings, relearn=RelearnSettings(batch_size=32, max_steps=8), relearn_workers=0)
    curves = [
        [json.loads(row["parameters"]).get("curve") for row in found]
        for found in (here, rows(replace(inputs(), settings=other)))
    ]
    assert curves[0] != curves[1]


def test_inverted_images_are_those_that_were_scored() -> None:
    """Twelve of each of three models, and the mean: their correlation with it is the audit's figure.

    In the rows is no image; one would have 64 numbers.
    """
    given = replace(inputs(), settings=AuditSettings(measures=("inversion",)))
    (found,) = inverted_images(given)
    assert found.class_id == FORGET and found.mean.shape == (1, 8, 8)
    assert {s: images.shape for s, images in found.attacks.items()} == dict.fromkeys(INVERTED, (12, 1, 8, 8))
    assert all(0 <= images.min() and images.max() <= 1 for images in (found.mean, *found.attacks.values()))
    rows = audit(given)
    for subject, images in found.attacks.items():
        (row,) = (r for r in rows if (r["subject"], r["measure"]) == (subject, "inversion_correlation"))
        correlations = [np.corrcoef(image.ravel(), found.mean.ravel())[0, 1] for image in images]
        assert np.mean(correlations) == pytest.approx(row["value"], abs=1e-5)
    assert max(len(row["parameters"].split(",")) for row in rows) < 20


def test_relearning_by_workers_needs_a_place() -> None:
    """Workers without a folder that they reach are refused, and so is a number of them below 0."""
    settings = replace(inputs().settings, relearn_workers=2)
    with pytest.raises(BadInput, match=r"audit.relearn_workers is 2; allowed: 0, or a scratch folder"):
        replace(inputs(), settings=settings)
    with pytest.raises(BadInput, match=r"audit.relearn_workers is -1; allowed: a whole number >= 0"):
        replace(settings, relearn_workers=-1)
