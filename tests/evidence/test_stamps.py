"""Time stamps: a local authority's, taken and checked; others' and changed ones refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayunlearn.cli.log_command import StampOptions, run_log
from rayunlearn.errors import BadInput, ExitCode, NotVerified
from rayunlearn.evidence.stamps import stamp, stamped_at
from rayunlearn.evidence.statement import Evidence, Statement
from tests.evidence.authority import AT, Authority, AuthorityServer
from tests.evidence.bundles import given, served, shown

pytest.importorskip("rfc3161_client", reason="needs the extra evidence: rfc3161-client")
TEXT = b"log.example.org/ledger\n8\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    """The one that is trusted."""
    return Authority("time.example.org", AT)


@pytest.fixture
def url(authority: Authority) -> Iterator[str]:
    """Where it answers."""
    server = AuthorityServer(authority)
    yield server.url
    server.stop()


def test_a_stamp_tells_when_a_text_was_there(authority: Authority, url: str) -> None:
    """Asked over HTTP, with a nonce; checked by the root alone. A changed text and response are refused."""
    response = stamp(TEXT, url)
    assert stamped_at(response, TEXT, authority.root) == AT
    assert stamped_at(response, TEXT, authority.leaf + authority.root) == AT
    with pytest.raises(NotVerified, match="stamp"):
        stamped_at(response, TEXT + b"x", authority.root)
    for at in (len(response) // 4, len(response) // 2, len(response) - 10):
        changed = response[:at] + bytes([response[at] ^ 1]) + response[at + 1 :]
        with pytest.raises(NotVerified, match="stamp"):
            stamped_at(changed, TEXT, authority.root)
    with pytest.raises(NotVerified, match="stamp"):
        stamped_at(b"", TEXT, authority.root)


def test_only_the_trusted_authority_counts(authority: Authority, url: str) -> None:
    """Another root of the same name, and a certificate that is not for stamps."""
    response = stamp(TEXT, url)
    with pytest.raises(NotVerified, match="stamp"):
        stamped_at(response, TEXT, Authority("time.example.org", AT).root)
    wrong = Authority("code.example.org", AT, may_stamp=False)
    server = AuthorityServer(wrong)
    other = stamp(TEXT, server.url)
    server.stop()
    with pytest.raises(NotVerified, match="stamp"):
        stamped_at(other, TEXT, wrong.root)
    with pytest.raises(BadInput, match="root"):
        stamped_at(response, TEXT, authority.leaf)
    with pytest.raises(BadInput, match="PEM"):
        stamped_at(response, TEXT, b"nothing")


def test_openssl_takes_the_same_stamp(authority: Authority, url: str, tmp_path: Path) -> None:
    """The local authority is one by an independent implementation, too."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    files = {"text": TEXT, "response": stamp(TEXT, url), "root": authority.root}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def taken() -> bool:
        command = ["openssl", "ts", "-verify", "-data", "text", "-in", "response", "-CAfile", "root"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert taken()
    (tmp_path / "text").write_bytes(TEXT + b"x")
    assert not taken()


def test_who_does_not_answer_is_named() -> None:
    """A closed port, another scheme, and a server that is no authority."""
    with pytest.raises(BadInput, match="http://"):
        stamp(TEXT, "file:///etc/hostname")
    with pytest.raises(BadInput, match="answers"):
        stamp(TEXT, "http://127.0.0.1:1/")


def test_a_certificate_is_stamped_by_the_command(authority: Authority, url: str, tmp_path: Path) -> None:
    """`log stamp` adds it and `verify` tells its time; without one, or by another authority, it is false."""
    evidence, files = served()
    path, root = tmp_path / "certificate-r0.evidence.json", tmp_path / "root.pem"
    path.write_bytes(evidence.to_json())
    root.write_bytes(authority.root)
    held = given(files, authority=authority.root)
    with pytest.raises(NotVerified, match="stamp.*no time stamp"):
        shown(evidence, held)
    assert run_log(StampOptions(file=path, url=url, tsa=root)) == ExitCode.OK
    assert any(str(AT) in line for line in shown(path.read_bytes(), held))
    root.write_bytes(Authority("other.example.org", AT).root)
    with pytest.raises(NotVerified, match="stamp"):
        shown(path.read_bytes(), given(files, authority=root.read_bytes()))
    before = path.read_bytes()
    assert run_log(StampOptions(file=path, url=url, tsa=root)) == ExitCode.NOT_VERIFIED
    assert path.read_bytes() == before, "a stamp that is not its own is not added"


def test_a_stamp_of_another_checkpoint_is_refused(authority: Authority, url: str) -> None:
    """Swapped between two certificates of one log at different sizes it stands for neither."""
    evidence, files = served()
    text = Statement.from_payload(evidence.envelope.payload).checkpoint.text.encode()
    held = given(files, authority=authority.root)
    own: Evidence = replace(evidence, stamps=(stamp(text, url),))
    assert shown(own, held)
    for others in ((stamp(text.replace(b"\n19\n", b"\n18\n"), url),), (*own.stamps, stamp(TEXT, url))):
        with pytest.raises(NotVerified, match="stamp"):
            shown(replace(evidence, stamps=others), held)
