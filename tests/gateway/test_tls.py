"""TLS towards clients: certificates by name and renewed, sessions resumed at another gateway."""

import asyncio
import datetime
import os
import shutil
import socket
import ssl
from pathlib import Path

import pytest
from clients import Http1, tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from secure import Secure, secure
from upstream import Asked, sized

from counterfoil.gateway.config import Certificate, GatewayConfig
from counterfoil.gateway.data_plane import GatewayError


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"answer"))


def certificate(folder: Path, *names: str) -> Certificate:
    """A certificate for these names that nobody but itself vouches for."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "c.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificate(certificate=str(folder / "c.pem"), key=str(folder / "c.key"))


def spoil(renewed: Certificate) -> None:
    Path(renewed.key).write_text("rubbish")


def shown(gateway: Secure, name: str) -> list[str]:
    """The names of the certificate that a client gets who asks for this one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return names.value.get_values_for_type(x509.DNSName)


def test_a_certificate_is_chosen_by_the_name_asked_for(tmp_path: Path) -> None:
    shop = certificate(tmp_path / "shop", "shop.test", "www.shop.test")
    any_of = certificate(tmp_path / "any", "*.pay.test")
    with secure(tmp_path / "tls", answer, certificates=(shop, any_of)) as gateway:
        assert "www.shop.test" in shown(gateway, "shop.test")
        assert "shop.test" in shown(gateway, "WWW.shop.test")
        assert shown(gateway, "eu.pay.test") == ["*.pay.test"]
        for other in ("pay.test", "a.b.pay.test", "elsewhere.test"):
            assert shown(gateway, other) == ["localhost"]


def test_a_renewed_certificate_serves_the_next_connection_and_leaves_those_before(
    tmp_path: Path,
) -> None:
    renewed = certificate(tmp_path / "shop", "shop.test")

    async def scenario(gateway: Secure, config: GatewayConfig) -> None:
        async with Http1.to(gateway.port, gateway.authority) as before:
            assert (await before.ask("GET", "/s/a")).status == 200
            certificate(tmp_path / "shop", "shop.test", "renewed.test")
            assert shown(gateway, "shop.test") == ["shop.test"]
            gateway.plane.reload(config)
            assert shown(gateway, "shop.test") == ["shop.test", "renewed.test"]
            spoil(renewed)
            with pytest.raises(GatewayError, match=r"c\.key"):
                gateway.plane.reload(config)
            assert shown(gateway, "shop.test") == ["shop.test", "renewed.test"]
            assert (await before.ask("GET", "/s/a")).status == 200

    with secure(tmp_path / "tls", answer, certificates=(renewed,)) as gateway:
        asyncio.run(scenario(gateway, gateway.config))


def ask(gateway: Secure, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    """One request, whose answer brings tickets along."""
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    secured = context.wrap_socket(plain, server_hostname="localhost", session=session)
    secured.sendall(b"GET /s/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
    read = b""
    while not read.endswith(b"answer"):
        read += secured.recv(4096)
    return secured


def test_a_session_is_resumed_at_another_gateway_that_knows_the_secret(tmp_path: Path) -> None:
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_bytes(os.urandom(32))
    other.write_bytes(os.urandom(32))
    authority = tmp_path / "tls"
    with (
        secure(authority, answer, ticket_secret=str(secret)) as first,
        secure(authority, answer, ticket_secret=str(secret)) as second,
        secure(authority, answer, ticket_secret=str(other)) as stranger,
    ):
        context = tls(first.authority, "http/1.1")
        with ask(first, context, None) as begun:
            assert not begun.session_reused
            session = begun.session
        assert session is not None
        with ask(second, context, session) as resumed:
            assert resumed.session_reused
        with ask(stranger, context, session) as afresh:
            assert not afresh.session_reused
    shutil.rmtree(authority)


def test_a_secret_that_is_too_short_is_refused_with_its_remedy(tmp_path: Path) -> None:
    short = tmp_path / "secret"
    short.write_bytes(b"password")
    with (
        pytest.raises(GatewayError, match="32 bytes at least"),
        secure(tmp_path / "tls", answer, ticket_secret=str(short)),
    ):
        pass
