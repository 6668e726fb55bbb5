"""`python -m rayunlearn COMMAND`: what is done with a storage location besides serving requests."""

from __future__ import annotations

import sys

import tyro

from rayunlearn.runtime.audit_command import AuditOptions, run_audit
from rayunlearn.runtime.methods_command import MethodsOptions, run_methods


def main() -> int:
    """Run one command; returns its exit code."""
    config = (tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff)
    options = tyro.extras.subcommand_cli_from_dict(
        {"audit": AuditOptions, "methods": MethodsOptions}, config=config, prog="python -m rayunlearn"
    )
    return run_methods(options) if isinstance(options, MethodsOptions) else run_audit(options)


if __name__ == "__main__":
    sys.exit(main())
