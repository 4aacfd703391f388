"""Connection and authentication settings of all Kafka clients.

There are three clients (librdkafka for events, kafka-python for what librdkafka doesn't offer, and
plain sockets to check a listener), all configured from here. Brokers' host names are always
verified in their certificates; no setting disables that. Secrets come from the environment, are in
no `repr`, and no client here puts them into an error or a log.

A missing password is an error only where a client is created: commands that use only the databases,
such as those for dead letters, need none.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from counterfoil.errors import CounterfoilError

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
"""Kafka's `security.protocol` of a listener."""
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
PASSWORD: Final = "KAFKA_PASSWORD"  # noqa: S105 - the name of a variable
KEY_PASSWORD: Final = "KAFKA_KEY_PASSWORD"  # noqa: S105


class PasswordMissing(CounterfoilError):
    """The password of Kafka's user is not in the environment."""


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """The brokers at `servers` (`host:port`, comma-separated), and how to connect to them."""

    servers: str
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    """The CA of the brokers' certificates; by default the system's CAs (SSL_CERT_FILE)."""
    certificate: Path | None = None
    """The client certificate, if brokers require one; needs `key`."""
    key: Path | None = None
    key_password: str = field(default="", repr=False)

    @property
    def tls(self) -> bool:
        """Whether connections use TLS."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        """Whether clients authenticate with a user and a password."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def require_password(self) -> None:
        """Check that the password is set, if one is needed.

        Raises:
            PasswordMissing: it is not.
        """
        if self.sasl and not self.password:
            raise PasswordMissing(
                f"kafka: {PASSWORD} is not set, needed: the password of {self.user}",
                hint=f"export {PASSWORD}, for every command that looks into the log",
            )

    def librdkafka(self) -> dict[str, Any]:
        """The settings for confluent-kafka.

        Raises:
            PasswordMissing: it is needed, and not set.
        """
        self.require_password()
        settings: dict[str, Any] = {
            "bootstrap.servers": self.servers,
            "security.protocol": self.protocol,
        }
        if self.tls:
            settings["ssl.ca.location"] = str(self.ca or _system_authorities())
            settings["enable.ssl.certificate.verification"] = True
            settings["ssl.endpoint.identification.algorithm"] = "https"
            if self.certificate is not None:
                settings["ssl.certificate.location"] = str(self.certificate)
                settings["ssl.key.location"] = str(self.key)
                settings["ssl.key.password"] = self.key_password
        if self.sasl:
            settings["sasl.mechanism"] = self.mechanism
            settings["sasl.username"] = self.user
            settings["sasl.password"] = self.password
        return settings

    def kafka_python(self) -> dict[str, Any]:
        """The settings for kafka-python.

        Raises:
            OSError: a certificate or key file can't be used.
            PasswordMissing: it is needed, and not set.
        """
        self.require_password()
        settings: dict[str, Any] = {
            "bootstrap_servers": self.servers.split(","),
            "security_protocol": self.protocol,
        }
        if self.tls:
            settings["ssl_context"] = self.context()
        if self.sasl:
            settings["sasl_mechanism"] = self.mechanism
            settings["sasl_plain_username"] = self.user
            settings["sasl_plain_password"] = self.password
        return settings

    def context(self) -> ssl.SSLContext:
        """The TLS context for a socket; it verifies chain and name.

        Raises:
            OSError: a file is missing or invalid (`ssl.SSLError` is a subclass).
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            # A missing password is passed as an empty one: OpenSSL would prompt on the terminal.
            context.load_cert_chain(self.certificate, self.key, lambda: self.key_password)
        return context


def _system_authorities() -> str:
    """OpenSSL's default location: librdkafka bundles an OpenSSL that looks elsewhere."""
    found = ssl.get_default_verify_paths()
    return found.cafile or found.capath or "probe"
