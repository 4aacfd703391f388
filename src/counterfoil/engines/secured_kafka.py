"""Apache Kafka as in production: TLS, users with passwords, and ACLs.

One broker, for trying out `[kafka]` in `counterfoil.toml`, and for tests. Its listeners:

| name | authentication |
|---|---|
| SASL_SSL | password: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; the engine's address |
| SSL | client certificate; used between brokers |
| SASL_PLAINTEXT | password: SCRAM-SHA-512 only, which doesn't reveal it |

`counterfoil` may do everything, by its password (the engine's secret) or by its certificate. Other
users may do nothing without ACLs. The controller's listener requires a certificate as well.
Listeners' ports and certificates are stored in the folder.
"""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from counterfoil.certificates import certify
from counterfoil.engines.kafka import Kafka, Settings
from counterfoil.engines.ports import free_port
from counterfoil.engines.server import HOST, Place, write_private
from counterfoil.kafka_access import KafkaAccess, Mechanism, Protocol

if TYPE_CHECKING:
    from counterfoil.engines.running import RunningEngine

USER: Final = "counterfoil"
GUEST: Final = "guest"
"""A user with a certificate and no rights."""
_BROKER: Final = "broker"
_SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_JAAS: Final = "org.apache.kafka.common.security"
_SETTINGS: Final[Settings] = (
    (
        "listener.security.protocol.map",
        "CONTROLLER:SSL,SASL_SSL:SASL_SSL,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
    ),
    ("inter.broker.listener.name", "SSL"),
    ("ssl.keystore.type", "PEM"),
    ("ssl.truststore.type", "PEM"),
    ("ssl.principal.mapping.rules", "RULE:^CN=([^,]+)$/$1/"),
    ("listener.name.ssl.ssl.client.auth", "required"),
    ("listener.name.controller.ssl.client.auth", "required"),
    ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
    ("listener.name.sasl_plaintext.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("super.users", f"User:{USER};User:{_BROKER}"),
)


class SecuredKafka(Kafka):
    """A broker that authenticates all clients."""

    kind = "secured-kafka"

    def listeners(self, place: Place) -> Settings:
        certificates = place.folder / "certificates"
        if not (certificates / "ca.pem").exists():
            now = datetime.datetime.now(datetime.UTC)
            certify(certificates, (_BROKER, USER, GUEST), now, authority="Counterfoil engines CA")
        ports = _ports(place.folder, place.port)
        controller = ports.pop("CONTROLLER")
        keystore = write_private(
            place.folder / "broker-keystore.pem",
            "".join((certificates / f"{_BROKER}.{each}").read_text() for each in ("key", "pem")),
        )
        clients = ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
        settings: list[tuple[str, object]] = [
            *_SETTINGS,
            ("controller.quorum.bootstrap.servers", f"{HOST}:{controller}"),
            ("listeners", f"{clients},CONTROLLER://{HOST}:{controller}"),
            ("advertised.listeners", clients),
            ("ssl.keystore.location", keystore),
            ("ssl.truststore.location", certificates / "ca.pem"),
        ]
        # Passwords for PLAIN are configured here, those for SCRAM are in the cluster's metadata.
        plain = f'{_JAAS}.plain.PlainLoginModule required user_{USER}="{place.secret}";'
        settings.append(("listener.name.sasl_ssl.plain.sasl.jaas.config", plain))
        settings += [
            (
                f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config",
                f"{_JAAS}.scram.ScramLoginModule required;",
            )
            for listener in ("sasl_ssl", "sasl_plaintext")
            for mechanism in _SCRAM
        ]
        return settings

    def credentials(self, place: Place) -> list[str]:
        return [
            f"--add-scram={mechanism}=[name={USER},password={place.secret}]" for mechanism in _SCRAM
        ]


def _ports(folder: Path, first: int) -> dict[str, int]:
    """The port of each listener by name; the same across restarts."""
    kept = folder / "ports.json"
    if not kept.exists():
        others = {name: free_port() for name in ("SSL", "SASL_PLAINTEXT", "CONTROLLER")}
        kept.write_text(json.dumps(others))
    found: dict[str, int] = {"SASL_SSL": first, **json.loads(kept.read_text())}
    return found


def access(
    running: "RunningEngine",
    protocol: Protocol = "SASL_SSL",
    mechanism: Mechanism = "SCRAM-SHA-512",
) -> KafkaAccess:
    """How `counterfoil`, which may do everything, connects to a listener."""
    (server,) = running.servers
    certificates = server.folder / "certificates"
    settings: dict[str, Any] = {}
    if protocol in ("SASL_SSL", "SASL_PLAINTEXT"):
        settings |= {"mechanism": mechanism, "user": USER, "password": running.secret}
    if protocol in ("SASL_SSL", "SSL"):
        settings["ca"] = certificates / "ca.pem"
    if protocol == "SSL":
        settings["certificate"] = certificates / f"{USER}.pem"
        settings["key"] = certificates / f"{USER}.key"
    port = _ports(server.folder, server.port)[protocol]
    return KafkaAccess(f"{HOST}:{port}", protocol, **settings)
