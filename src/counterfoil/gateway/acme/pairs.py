"""Keys and certificates: issued ones, and those for TLS-ALPN-01 challenges."""

import datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from counterfoil.gateway.acme.errors import DirectoryRefused

_PROOF: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""id-pe-acmeIdentifier (RFC 8737, section 6.1)."""
_OCTET_STRING: Final = b"\x04\x20"
"""The DER header of an octet string of 32 bytes."""
_PROOF_DAYS: Final = 7
"""Longer than an order lives; only the directory sees the certificate."""


class Pair(msgspec.Struct, frozen=True):
    """A certificate chain and its private key, in PEM."""

    certificate: str
    key: str


def new_key() -> str:
    """A private key (P-256), in PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def request(host: str, key: str) -> bytes:
    """A certificate signing request (PKCS #10), in DER."""
    # No subject: a common name is limited to 64 characters, and is no longer used.
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(_private(key), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def proof(host: str, digest: bytes, now: float) -> Pair:
    """The challenge certificate for a directory (RFC 8737, section 3), with its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    began = datetime.datetime.fromtimestamp(now, datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began - datetime.timedelta(days=1))
        .not_valid_after(began + datetime.timedelta(days=_PROOF_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_PROOF, _OCTET_STRING + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM).decode(), _pem(key))


def issued(host: str, given: str, key: str, now: float) -> Pair:
    """The certificate chain that a directory issued (PEM) with its key; text between the
    certificates is dropped.

    Raises:
        DirectoryRefused: it isn't a certificate for this host and key, or has expired at `now`.
    """
    try:
        chain = x509.load_pem_x509_certificates(given.encode())
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        public_key = chain[0].public_key()
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise DirectoryRefused(
            f"what the directory gave for {host} is no certificate: {error}", kind=""
        ) from error
    if host not in names.get_values_for_type(x509.DNSName):
        raise DirectoryRefused(f"the directory gave a certificate that isn't for {host}", kind="")
    if public_key != _private(key).public_key():
        raise DirectoryRefused(
            f"the directory gave a certificate for {host} with another key", kind=""
        )
    if chain[0].not_valid_after_utc.timestamp() <= now:
        raise DirectoryRefused(
            f"the directory gave a certificate for {host} that has ended already: see that this "
            "machine's clock is right",
            kind="",
        )
    pem = serialization.Encoding.PEM
    return Pair(b"".join(each.public_bytes(pem) for each in chain).decode(), key)


def lifetime(pair: Pair) -> tuple[float, float]:
    """A certificate's validity, from and until, in seconds since 1970."""
    made = x509.load_pem_x509_certificate(pair.certificate.encode())
    return made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp()


def _private(key: str) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(key.encode(), password=None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
