"""`python -m rayunlearn COMMAND`: what is done with a storage location besides serving requests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from rayunlearn.runtime.audit_command import AuditOptions, run_audit
from rayunlearn.runtime.methods_command import MethodsOptions, run_methods
from rayunlearn.runtime.models_command import ModelsOptions, run_models
from rayunlearn.runtime.report_command import ReportOptions, run_report
from rayunlearn.runtime.request_command import RequestOptions, run_request


def main() -> int:
    """Run one command; returns its exit code."""
    config = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
    )
    commands: dict[str, Callable[..., Any]] = {
        "audit": AuditOptions,
        "methods": MethodsOptions,
        "models": ModelsOptions,
        "report": ReportOptions,
        "request": RequestOptions,
    }
    options = tyro.extras.subcommand_cli_from_dict(commands, config=config, prog="python -m rayunlearn")
    if isinstance(options, ModelsOptions):
        return run_models(options.command)
    if isinstance(options, ReportOptions):
        return run_report(options)
    if isinstance(options, RequestOptions):
        return run_request(options.command)
    return run_methods(options) if isinstance(options, MethodsOptions) else run_audit(options)


if __name__ == "__main__":
    sys.exit(main())
