"""What `rayunlearn replay` runs: a certified request once more; do the same bits come out?"""

from __future__ import annotations

from rich.text import Text

from rayunlearn.cli.console import say_error
from rayunlearn.cli.options.replay import ReplayOptions
from rayunlearn.cli.verify_command import read
from rayunlearn.errors import ExitCode, NotVerified, RayUnlearnError
from rayunlearn.evidence.envelope import read_json
from rayunlearn.execution.machine import machine_facts
from rayunlearn.reports.terminal import JobProgress, open_console
from rayunlearn.serving.replay import Replayed, replay
from rayunlearn.storage.store import Store


def run_replay(options: ReplayOptions) -> int:
    """Run it again and say what came out; returns the exit code."""
    console = open_console()
    try:
        certificate = read_json(read(options.certificate, "CERTIFICATE"), "CERTIFICATE")
        store = Store.open(options.storage, create=False)
        with JobProgress(console) as progress:
            done = replay(
                store, certificate, seed=options.seed, threads=options.threads, progress=progress
            )
        for said in _said(done):
            console.print(Text(said), soft_wrap=True)
        if not done.is_same:
            came = f"version {done.version}" if done.version else f"no version ({done.reason})"
            raise NotVerified("replay", f"{came} came out; the certificate has {done.expected}")
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code)
    console.print(Text(f"The same bits came out: version {done.expected}"), soft_wrap=True)
    return ExitCode.OK


def _said(done: Replayed) -> list[str]:
    """What was repeated, and what may make a difference."""
    then, now = done.code
    facts = machine_facts()
    told = [f"Run {done.run} from version {done.before}, with its settings and its seed."]
    if then != now:
        told.append(f"The software differs: {then or 'not known'} then, {now} now.")
    machine = f"{facts['cpu']}, {facts['instruction_set']}, torch {facts['torch']}"
    told.append(f"Here: {machine}. The ledger does not tell the machine of then; other CPUs round otherwise.")
    return told
