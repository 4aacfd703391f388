"""Connection and authentication settings of Kafka clients, made in this one place.

Three clients speak with Kafka (librdkafka for events, kafka-python for what librdkafka can't ask,
sockets of our own for what a listener says to strangers), and all are given the same: this. The
name in a broker's certificate is always compared with the host that was asked for; there is no
setting to leave that out. Secrets come from the environment, are in no `repr`, and no client here
puts them into an error or a log.

A password that is not there is missed where a client is made, not before: whoever asks the
databases alone, as those who look after dead letters do, needs none.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from counterfoil.errors import CounterfoilError

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
"""What a listener speaks, in Kafka's words (`security.protocol`)."""
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
PASSWORD: Final = "KAFKA_PASSWORD"  # noqa: S105 - the name of a variable
KEY_PASSWORD: Final = "KAFKA_KEY_PASSWORD"  # noqa: S105


class PasswordMissing(CounterfoilError):
    """The password of Kafka's user is not in the environment."""


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """The brokers at `servers` (`host:port`, with commas between), and what opens them."""

    servers: str
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    """Who signs the brokers' certificates; without it, whom the system trusts (SSL_CERT_FILE)."""
    certificate: Path | None = None
    """The client's own, where brokers ask for one, with `key`."""
    key: Path | None = None
    key_password: str = field(default="", repr=False)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted, and brokers must show a certificate."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        """Whether a user and a password are given."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def require_password(self) -> None:
        """See that the password is there, if one is asked for.

        Raises:
            PasswordMissing: it is not.
        """
        if self.sasl and not self.password:
            raise PasswordMissing(
                f"kafka: {PASSWORD} is not set, needed: the password of {self.user}",
                hint=f"export {PASSWORD}, for every command that looks into the log",
            )

    def librdkafka(self) -> dict[str, Any]:
        """The settings of a client of confluent-kafka.

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
        """The settings of a client of kafka-python.

        Raises:
            OSError: a file of certificates or keys can't be used.
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
        """What a socket needs to speak TLS with a broker: it verifies chain and name.

        Raises:
            OSError: a file is missing, or isn't what it should be (`ssl.SSLError` is one as well).
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            # A password that is not there is given as an empty one: OpenSSL would ask a terminal.
            context.load_cert_chain(self.certificate, self.key, lambda: self.key_password)
        return context


def _system_authorities() -> str:
    """Where OpenSSL looks: librdkafka brings an OpenSSL of its own, which looks elsewhere."""
    found = ssl.get_default_verify_paths()
    return found.cafile or found.capath or "probe"
