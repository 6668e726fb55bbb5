"""Flags of `rayunlearn verify`: a certificate to check offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check a certificate offline: exit code 0 where what is asked for is true, 8 where something is not."""

    certificate: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CERTIFICATE")]
    """Any of the certificate's files: NAME.evidence.json, or NAME.json or NAME.html with that beside it."""

    key: Annotated[Path, tyro.conf.arg(metavar="PUBKEY")]
    """File of the public key that you were given, such as FILE.pub of `key new`."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A checkpoint of the log that you have kept: was anything rewritten since?"""

    proof: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Proof of `log prove`, where the certificate has none from your checkpoint."""

    witness: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PUBKEY")] = ()
    """Public keys of witnesses, each of which must have cosigned the checkpoint."""

    tsa: Annotated[Path | None, tyro.conf.arg(metavar="CERT")] = None
    """PEM certificates of the time stamping authority, with its root: when was the checkpoint there?"""

    before: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Model file, safetensors, that should be the version before."""

    after: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Model file, safetensors, that should be the version after."""

    json: bool = False
    """As JSON, for programs."""
