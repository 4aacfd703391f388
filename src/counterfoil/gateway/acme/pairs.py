"""Keys and certificates: ordered ones, and those for TLS-ALPN-01 challenges."""

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
"""In DER, of 32 bytes."""
_PROOF_DAYS: Final = 7
"""Longer than an order lives; nobody but the directory looks at it."""


class Pair(msgspec.Struct, frozen=True):
    """A certificate, with those that vouch for it, and its private key, in PEM."""

    certificate: str
    key: str


def new_key() -> str:
    """A private key (P-256), in PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def request(host: str, key: str) -> bytes:
    """What asks for a certificate (PKCS #10), in DER; the same names and key ask for the same."""
    # Without a subject: a common name has room for 64 letters, and nobody reads it any more.
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(_private(key), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def proof(host: str, digest: bytes, now: float) -> Pair:
    """What a directory looks for (RFC 8737, section 3), with a key of its own."""
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
    """What a directory `given` (PEM) for a name and the key that was asked with, without what else
    stands between its certificates.

    Raises:
        DirectoryRefused: it isn't a certificate for this name and key, or has ended at `now`.
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
    """From when until when a certificate is good, in seconds since 1970."""
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
