"""A dry run reads the files that a start would read, from the configuration's folder."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from counterfoil.certificates import certify
from counterfoil.gateway.config import Certificate, GatewayConfig, Telemetry
from counterfoil.gateway.credentials import Identity, SigningKey
from counterfoil.gateway.data_plane import GatewayError, check

MISSING = "nowhere.pem"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("files")
    certify(found, ["a", "b"], datetime.now(UTC), authority="Test CA")
    (found / "short.key").write_bytes(b"x" * 31)
    (found / "ticket.key").write_bytes(b"x" * 32)
    return found


def certificates(certificate: str, key: str) -> GatewayConfig:
    return GatewayConfig(certificates=(Certificate(certificate=certificate, key=key),))


def issuer(ca_file: str) -> GatewayConfig:
    return GatewayConfig(identity=Identity(issuer="https://i", audience="shop", ca_file=ca_file))


@pytest.mark.parametrize(
    "config",
    [
        certificates("a.pem", "a.key"),
        GatewayConfig(ticket_secret="ticket.key"),
        issuer("ca.pem"),
        GatewayConfig(telemetry=Telemetry(otlp_url="https://c", ca_file="ca.pem")),
    ],
)
def test_files_are_found_beside_the_configuration(folder: Path, config: GatewayConfig) -> None:
    check(config, folder=folder)


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (certificates(MISSING, "a.key"), "certificates[0].certificate"),
        (certificates("a.pem", MISSING), "certificates[0].key"),
        (certificates("a.pem", "b.key"), "certificates[0]"),
        (certificates("a.key", "a.pem"), "certificates[0]"),
        (GatewayConfig(ticket_secret=MISSING), "ticket_secret"),
        (GatewayConfig(ticket_secret="short.key"), "ticket_secret"),
        (issuer(MISSING), "identity.ca_file"),
        (
            GatewayConfig(telemetry=Telemetry(otlp_url="https://c", ca_file=MISSING)),
            "telemetry.ca_file",
        ),
        (
            GatewayConfig(signing_keys={"depot": SigningKey(secret_file=MISSING, tenant="aurora")}),
            "signing_keys.depot.secret_file",
        ),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_by_its_setting(
    folder: Path, config: GatewayConfig, setting: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        check(config, folder=folder)
    assert refused.value.setting == setting
