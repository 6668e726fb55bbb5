"""The rooms of rayunlearn: which may import which others, and which import Ray."""

from __future__ import annotations

BOTTOM = {
    "balance", "data_root", "declared", "errors", "extras", "fields", "held_out", "mislabelling",
    "preprocessing", "roles", "seeds", "streamed", "task", "tensor_digest",
}  # fmt: skip
ALGORITHMS = {"evaluation", "inversion", "methods", "models"}
SETTINGS = {"recipes", "scheduling", "settings"}
STORED = {"ledger", "storage"}

ALLOWED: dict[str, set[str]] = {
    # rayunlearn/__init__.py: `extras` names the extra of what is missing; the others are imported when used.
    "": {"api", "extras", "task"},
    "__main__": {"cli"},
    "balance": set(),
    "declared": {"errors"},
    "errors": set(),
    "extras": {"errors"},
    "evidence": {"errors"},  # neither Ray nor torch nor a storage: an auditor runs it alone
    "fields": {"errors"},
    "held_out": set(),
    "preprocessing": {"errors", "fields"},
    "roles": set(),
    "streamed": set(),
    "mislabelling": {"errors", "fields"},
    "seeds": {"errors"},
    "tensor_digest": set(),
    "task": {"errors", "fields"},
    "surrogates": {"errors", "fields", "seeds"},
    "access": {"data_root", "errors"},
    "data_root": {"errors"},
    "models": BOTTOM,
    "data": BOTTOM,
    "inversion": BOTTOM | {"models"},
    "methods": BOTTOM | {"inversion", "models", "surrogates"},
    "evaluation": BOTTOM | {"inversion", "models"},
    "scheduling": {"errors", "fields"},  # not seeds, which is torch's
    "settings": BOTTOM,
    "recipes": BOTTOM | ALGORITHMS | {"scheduling", "settings"},
    "unlearning": BOTTOM | ALGORITHMS | {"recipes", "scheduling"},  # a run without storage and without Ray
    "storage": {"errors", "scheduling"},
    "ledger": {"declared", "errors", "evidence", "scheduling", "storage"},
    "reports": STORED | {"errors", "evidence", "scheduling"},
    # neither Ray nor torch
    "http": STORED | {"declared", "errors", "extras", "reports", "scheduling", "tensor_digest"},
    "lineages": BOTTOM | ALGORITHMS | SETTINGS | STORED | {"unlearning"},
    "execution": BOTTOM | ALGORITHMS | {"access", "storage", "unlearning"},
    "auditing": BOTTOM | ALGORITHMS | SETTINGS | STORED | {"data", "execution", "lineages", "reports"},
    "serving": BOTTOM
    | ALGORITHMS
    | SETTINGS
    | STORED
    | {"auditing", "data", "execution", "lineages", "reports", "unlearning"},
    "tuning": BOTTOM
    | ALGORITHMS
    | SETTINGS
    | STORED
    | {"auditing", "execution", "lineages", "serving", "unlearning"},  # no data: its scores are synthetic
    "cli": BOTTOM
    | ALGORITHMS
    | SETTINGS
    | STORED
    | {"access", "auditing", "evidence", "execution", "http", "lineages"}
    | {"reports", "serving", "tuning", "unlearning"},
    "api": BOTTOM | ALGORITHMS | SETTINGS | STORED | {"execution", "lineages", "reports", "unlearning"},
}
"""Room -> the other rooms that it may import. A room that is not listed is a finding."""

RAY_IS_IMPORTED_IN = {"auditing", "execution", "serving", "tuning"}
"""`execution` knows actors; the others run tasks, and Tune."""

WITHOUT_RAY = set(ALLOWED) - RAY_IS_IMPORTED_IN - {"", "cli"}
"""Rooms whose modules all import where Ray is not installed; tests/test_extras.py says which of `cli` do."""

LONG_FUNCTIONS = {
    "benchmarks/digits.py:sequence",
    "benchmarks/measures.py:main",
    "rayunlearn/cli/job.py:run_job",
    "rayunlearn/cli/tune_command.py:run_sweep",
    "rayunlearn/http/app.py:make_app",
    "rayunlearn/inversion/deep_inversion.py:_optimised",
    "rayunlearn/reports/certificate.py:certificate",
    "rayunlearn/scheduling/plan.py:plan",
    "rayunlearn/serving/intake.py:take_in",
}
"""Functions of more than 60 lines that were looked at twice: each is one sequence, clearest in one piece."""
