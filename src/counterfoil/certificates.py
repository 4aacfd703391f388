"""A certificate authority for servers on this machine.

Its key is discarded after signing: no certificate can be added later to those made together. The
gateway's development CA and the engines' CA are both made here, in separate folders, so that
trusting one doesn't imply trusting the other.
"""

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS: Final = 365
_HOSTS: Final = ("127.0.0.1", "::1")
_USAGES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def certify(folder: Path, names: Iterable[str], now: datetime.datetime, *, authority: str) -> Path:
    """Make `ca.pem`, and a `NAME.pem` with `NAME.key` for each name; returns the path of `ca.pem`.

    Each certificate is for servers on this machine and for clients, identified by its common name.
    `ca.pem`, issued by `authority`, is written last: if it exists, all files do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    signing = ec.generate_private_key(ec.SECP256R1())
    issuer = _named(authority)

    def sign(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, extensions: list[x509.ExtensionType]
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(signing, hashes.SHA256())

    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[x509.ExtensionType] = [
            x509.BasicConstraints(ca=False, path_length=None),
            x509.ExtendedKeyUsage(_USAGES),
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    *(x509.IPAddress(ipaddress.ip_address(host)) for host in _HOSTS),
                ]
            ),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
        ]
        certificate = sign(_named(name), key.public_key(), extensions)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        opened = os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(private)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    own: list[x509.ExtensionType] = [
        x509.BasicConstraints(ca=True, path_length=0),
        x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        ),
        x509.SubjectKeyIdentifier.from_public_key(signing.public_key()),
    ]
    root = sign(issuer, signing.public_key(), own)
    path = folder / "ca.pem"
    path.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
