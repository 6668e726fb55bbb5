"""Which part of rayunlearn may import which others."""

from __future__ import annotations

BOTTOM = {
    "balance", "data_root", "errors", "extras", "fields", "held_out", "mislabelling", "roles", "seeds", "task"
}  # fmt: skip
ALGORITHMS = {"models", "inversion", "methods", "evaluation"}
BETWEEN = {"settings", "recipes"}

ALLOWED: dict[str, set[str]] = {
    # rayunlearn/__init__.py: `extras` names the extra of what is missing; the others are imported when used.
    "": {"api", "extras", "task"},
    "__main__": {"runtime"},
    "balance": set(),
    "errors": set(),
    "extras": {"errors"},
    "evidence": {"errors"},  # neither Ray nor torch nor a storage: an auditor runs it alone
    "fields": {"errors"},
    "held_out": set(),
    "roles": set(),
    "mislabelling": {"errors", "fields"},
    "seeds": {"errors"},
    "task": {"errors", "fields"},
    "surrogates": {"errors", "fields", "seeds"},
    "access": {"data_root", "errors"},
    "data_root": {"errors"},
    "models": BOTTOM,
    "data": BOTTOM,
    "inversion": BOTTOM | {"models"},
    "methods": BOTTOM | {"models", "inversion", "surrogates", "variational"},
    "evaluation": BOTTOM | {"models", "inversion"},
    "variational": BOTTOM | {"models", "inversion", "results"},
    "scheduling": {"errors", "fields"},  # not seeds, which is torch's
    "results": {"errors", "evidence", "scheduling"},
    "settings": BOTTOM | ALGORITHMS | {"data", "scheduling"},
    "recipes": BOTTOM | ALGORITHMS | {"data", "scheduling", "settings", "variational"},
    "unlearning": BOTTOM | ALGORITHMS | {"recipes", "scheduling"},  # a run without storage and without Ray
    "reproduction": BOTTOM | BETWEEN | {"methods", "results"},
    "runtime": BOTTOM
    | ALGORITHMS
    | BETWEEN
    | {"access", "data", "evidence", "scheduling", "results", "reproduction", "unlearning", "variational"},
    "api": BOTTOM | ALGORITHMS | BETWEEN | {"results", "runtime", "scheduling", "unlearning"},
}
"""Part -> the other parts that it may import. A part that is not listed is a finding."""
