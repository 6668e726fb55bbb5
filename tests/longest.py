"""Which files of tests take longest."""

from __future__ import annotations

LONGEST = (
    "tests/serving/test_chaos.py",
    "tests/tuning/test_sweep.py",
    "tests/cli/test_job_cli.py",
    "tests/cli/test_audit_command.py",
    "tests/storage/test_lease_jobs.py",
    "tests/serving/test_few_shot_digits.py",
    "tests/serving/test_growing.py",
    "tests/papers/test_run.py",
    "tests/serving/test_one_request.py",
    "tests/papers/test_few_shot_run.py",
    "tests/serving/test_service.py",
    "tests/serving/test_resume.py",
    "tests/methods/test_fine_tune.py",
    "tests/cli/test_job_stop.py",
    "tests/serving/test_every_method.py",
    "tests/execution/test_sealed_actors.py",
    "tests/serving/test_examples_on_ray.py",
    "tests/serving/test_gate_subjects.py",
    "tests/ledger/test_compaction.py",
    "tests/serving/test_samples.py",
)
"""Paths from the repository's root, the longest first; all other files take less."""
