"""`rayunlearn`: its commands, their help, completion in a shell, exit codes, and missing packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayunlearn.cli import commands, console
from rayunlearn.cli.commands import NAMES, NEEDS, options_of, run
from rayunlearn.cli.console import at_work, carry_out
from rayunlearn.cli.options.methods import MethodsOptions
from rayunlearn.errors import ExitCode, NotInstalled
from tests.serving.tiny import ROOT, environment
from tests.waiting import HANG_S

HEAVY = ("numpy", "obstore", "pandas", "pyarrow", "ray", "scipy", "sklearn", "torch")
PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text()

CALLS = """
import contextlib, io, json, sys
from rayunlearn.__main__ import main

heavy, calls = json.loads(sys.argv[1])
for call in calls:
    sys.argv = ["rayunlearn", *call]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    print(json.dumps([call, [name for name in heavy if name in sys.modules]]))
"""


def imported(calls: list[list[str]]) -> dict[str, list[str]]:
    """Call -> which of the heavy packages it has brought, one call after another in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps([HEAVY, calls])], cwd=ROOT, text=True, capture_output=True,
        env={**environment(), "PYTHONPATH": str(ROOT)}, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {" ".join(call): brought for call, brought in map(json.loads, done.stdout.splitlines())}


def entered(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m rayunlearn` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rayunlearn", *arguments], cwd=ROOT, env=environment(**more), text=True,
        capture_output=True, timeout=HANG_S, check=False,
    )  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    """Neither of all commands nor of any one; negative control: a command that does something."""
    calls = [["--help"], *([name, "--help"] for name in NAMES), ["request", "add", "--help"], ["methods"]]
    brought = imported(calls)
    assert len(brought) == len(calls)
    assert "torch" in brought.pop("methods")
    assert {call: found for call, found in brought.items() if found} == {}


def test_help_names_every_command_and_exit_code() -> None:
    """With one line for each; of a command it names the flags."""
    done = entered("--help")
    assert done.returncode == ExitCode.OK and done.stderr == ""
    for name in NAMES:
        assert re.search(rf"• {name} +\w", done.stdout), name
        first = str(options_of(name).__doc__).split()[0]
        assert re.search(rf"• {name} +{first}", done.stdout), name
    for code in ExitCode:
        assert f"{code.value}  {code.meaning}" in done.stdout
    assert "--storage" in entered("status", "--help").stdout


def test_an_unknown_command_is_refused() -> None:
    """With the exit code of bad input, and those there are."""
    done = entered("server")
    assert done.returncode == ExitCode.BAD_INPUT and done.stdout == ""
    assert "serve" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_commands_and_flags(shell: str) -> None:
    """The script knows every command and the flags of one; negative control: not any word."""
    done = entered("--tyro-print-completion", shell)
    assert done.returncode == ExitCode.OK and done.stderr == ""
    for word in (*NAMES, "--cpus-per-role", "--inbox-only"):
        assert (word in done.stdout) == (word != "--inbox-only"), word  # that one is of a job alone


def test_the_page_has_every_command_and_exit_code() -> None:
    """A row for each command, and the exit codes as the help has them."""
    for name in NAMES:
        assert re.search(rf"^\| `{name}\b", PAGE, re.MULTILINE), name
    for code in ExitCode:
        assert f"| {code.value} | {code.meaning} |" in PAGE
    listed = re.findall(r"^\| `(\w+)", PAGE.partition("\n## ")[0], re.MULTILINE)
    assert set(listed) == set(NAMES)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_missing_package_ends_a_command_with_its_extra(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the command is imported; exit code 2. With the package the command runs."""

    def require(*packages: str) -> None:
        if packages:
            raise NotInstalled(packages[0], "ray")

    monkeypatch.setattr(commands, "require", require)
    assert run("methods", MethodsOptions(json=as_json)) == ExitCode.OK
    capsys.readouterr()
    monkeypatch.setitem(NEEDS, "methods", ("ray",))
    assert run("methods", MethodsOptions(json=as_json)) == ExitCode.BAD_INPUT
    out, err = capsys.readouterr()
    sentence = "the package ray is not installed; pip install 'rayunlearn[ray]' brings it"
    if as_json:
        assert json.loads(out) == {"error": sentence, "exit_code": 2} and err == f"error: {sentence}\n"
    else:
        assert (out, err) == (f"error: {sentence}\n", "")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int], bool], str]:
    """Carries out a command, standard error on a terminal, standard output as well or not; what it showed."""

    def shown(command: Callable[[], int], both: bool) -> str:
        reader, writer = os.openpty()
        read = bytearray()

        def drain() -> None:
            try:
                while data := os.read(reader, 4096):
                    read.extend(data)
            except OSError:  # the terminal is gone
                pass

        draining = threading.Thread(target=drain)
        draining.start()
        with monkeypatch.context() as patch, open(os.devnull, "w") as nowhere:
            patch.setenv("TERM", "xterm")
            with open(writer, "w", closefd=False) as err, open(writer, "w", closefd=False) as out:
                patch.setattr(sys, "stderr", err)
                patch.setattr(sys, "stdout", out if both else nowhere)
                assert carry_out(command) == ExitCode.OK
        os.close(writer)
        draining.join()
        os.close(reader)
        return read.decode()

    return shown


def slowly(waits_s: float) -> int:
    """A command that is silent for a while."""
    with at_work("rayunlearn methods"):
        time.sleep(waits_s)
        print("the answer", flush=True)
        time.sleep(waits_s)
    return 0


def test_a_terminal_shows_that_a_command_is_at_work(
    terminal: Callable[[Callable[[], int], bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it answers, and the line is erased by then; controls: a quick command, and a pipe."""
    monkeypatch.setattr(console, "WAITS_S", 0.1)
    said = terminal(lambda: slowly(0.5), True)
    before, _, after = said.partition("the answer")
    assert "rayunlearn methods" in before and "rayunlearn methods" not in after
    assert before.endswith("\x1b[2K")  # the line is empty again
    assert terminal(lambda: slowly(0.5), False) == ""
    monkeypatch.setattr(console, "WAITS_S", 10.0)
    assert terminal(lambda: slowly(0.1), True) == "the answer\r\n"


def test_the_scripts_are_the_commands() -> None:
    """They take the flags of `serve` and of `tune`, and go there."""
    from jobs import sequential_unlearn, tune_sweep

    serve, tune = (set(options_of(name).__dataclass_fields__) for name in ("serve", "tune"))
    assert set(sequential_unlearn.Options.__dataclass_fields__) == serve | {"inbox_only"}
    assert set(tune_sweep.Options.__dataclass_fields__) == tune
    for name, job in (("serve", sequential_unlearn), ("tune", tune_sweep)):
        assert f'run("{name}", ' in Path(str(job.__file__)).read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "offered"), [("rayunlearn st", ["status"]), ("rayunlearn status --st", ["--storage"])]
)
def test_bash_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    """What bash offers after these words; negative control: after a word that begins no command."""
    (tmp_path / "script").write_text(entered("--tyro-print-completion", "bash").stdout)

    def asked(words: str) -> list[str]:
        text = f"source {tmp_path}/script; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        text += '_tyro_rayunlearn; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", text], text=True, capture_output=True, check=False)
        return done.stdout.split()

    assert asked(line) == offered
    assert asked("rayunlearn zz") == []
