"""A time stamping authority of one's own (RFC 3161), on this machine and for a test.

Its responses are built by `asn1crypto` and signed by `cryptography`; `rfc3161-client`, which is what is
tested, has no part in them.
"""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = timedelta(days=365)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A root, and a certificate for stamps that it has issued.

    Args:
        name: of the root.
        at: the time that it stamps.
        may_stamp: whether the certificate says that it is for time stamps.
    """

    def __init__(self, name: str, at: datetime, *, may_stamp: bool = True) -> None:
        self.at = at
        self._root_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._root = self._issued(name, self._root_key.public_key(), name, ca=True, eku=None)
        eku = ExtendedKeyUsageOID.TIME_STAMPING if may_stamp else ExtendedKeyUsageOID.CODE_SIGNING
        self._leaf = self._issued(f"{name} stamps", self._key.public_key(), name, ca=False, eku=eku)
        self.root = self._root.public_bytes(Encoding.PEM)
        self.leaf = self._leaf.public_bytes(Encoding.PEM)

    def _issued(
        self, name: str, key: rsa.RSAPublicKey, issuer: str, *, ca: bool, eku: x509.ObjectIdentifier | None
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.at - YEAR)
            .not_valid_after(self.at + YEAR)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if eku is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([eku]), critical=True)
        return builder.sign(self._root_key, hashes.SHA256())

    def stamp(self, request: bytes) -> bytes:
        """The response to a request (RFC 3161, section 2.4.2)."""
        asked = tsp.TimeStampReq.load(request)
        info = {
            "version": "v1", "policy": "1.3.6.1.4.1.99999.1", "message_imprint": asked["message_imprint"],
            "serial_number": 1, "gen_time": self.at.replace(microsecond=0), "nonce": asked["nonce"].native,
        }  # fmt: skip
        content = tsp.TSTInfo(info).dump()
        leaf = asn1_x509.Certificate.load(self._leaf.public_bytes(Encoding.DER))
        digest = algos.DigestAlgorithm({"algorithm": "sha256"})
        told = tsp.ESSCertIDv2({"cert_hash": hashlib.sha256(leaf.dump()).digest()})
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {"type": "signing_certificate_v2", "values": [tsp.SigningCertificateV2({"certs": [told]})]},
            ]
        )
        signature = self._key.sign(attributes.dump(), padding.PKCS1v15(), hashes.SHA256())
        signer = {
            "version": "v1",
            "sid": cms.IssuerAndSerialNumber({"issuer": leaf.issuer, "serial_number": leaf.serial_number}),
            "digest_algorithm": digest,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_rsa"},
            "signature": signature,
        }
        signed = {
            "version": "v3",
            "digest_algorithms": [digest],
            "encap_content_info": {
                "content_type": "tst_info", "content": core.ParsableOctetString(content)
            },
            "certificates": [leaf],
            "signer_infos": [signer],
        }  # fmt: skip
        token = cms.ContentInfo({"content_type": "signed_data", "content": cms.SignedData(signed)})
        return tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump()


class AuthorityServer:
    """The same behind HTTP (RFC 3161, section 3.4), at `url`."""

    def __init__(self, authority: Authority) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                """Stamp what is asked."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = authority.stamp(body)
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When the authorities of the tests stamp."""
