"""A registry with Confluent's REST API: theirs, Karapace, Apicurio Registry.

The client is that of confluent-kafka. It caches every schema without a limit, so it is created for
each call; the codecs have bounded caches (`codec.py`). The password is a separate parameter, so
that no address in a file or log contains it.

Subjects follow the TopicNameStrategy with the topic's name on Kafka, `APPLICATION.TOPIC-value`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast, get_args

from counterfoil.errors import CounterfoilError
from counterfoil.events.errors import EventsError, IncompatibleSchema, RegistryUnavailable
from counterfoil.events.schemas.schema import Schema, SchemaType

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema as Theirs
    from confluent_kafka.schema_registry import SchemaRegistryClient

T = TypeVar("T")
CALL_SECONDS: Final = 5.0
TRIES: Final = 3
WAIT_MS: Final = 100
"""Backoff before the second try, and at most four times as long before the third. Longer waits are
left to the callers, which may have a transaction open."""
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_UNPROCESSABLE: Final = 422
_REFUSED: Final = frozenset({401, 403})
_UNVERIFIED: Final = "CERTIFICATE_VERIFY_FAILED"
"""OpenSSL's error code, by which the client's error message is recognised."""
_AUTHORITY: Final = "set ca of [registry] to the authority that signs its certificate"


class ConfluentRegistry:
    """The registry at `address` (`https://USER@HOST:PORT`), for one application.

    Its certificate must be signed by an authority in the file `ca` or, without one, by those of
    `certifi` or the file that SSL_CERT_FILE names.
    """

    def __init__(
        self, address: str, password: str | None, application: str, *, ca: Path | None = None
    ) -> None:
        scheme, separator, place = address.partition("://")
        user, at, host = place.rpartition("@")
        if not separator or ":" in user:
            raise CounterfoilError(
                "the address of the registry is no URL, or holds a password",
                hint="http://USER@HOST:PORT, and the password in REGISTRY_PASSWORD",
            )
        self._address = f"{scheme}://{host}"
        self._prefix = f"{application}."
        self._settings: dict[str, object] = {
            "url": self._address,
            "timeout": CALL_SECONDS,
            "max.retries": TRIES - 1,
            "retries.wait.ms": WAIT_MS,
            "retries.max.wait.ms": 4 * WAIT_MS,
        }
        if ca is not None:
            self._settings["ssl.ca.location"] = str(ca)
        if at:
            self._settings["basic.auth.user.info"] = f"{user}:{password or ''}"

    def find(self, topic: str, schema: Schema) -> int | None:
        """The id of a schema that is a version of a topic's subject, or None."""
        return self._ask(
            lambda client: client.lookup_schema(self._subject(topic), _theirs(schema)).schema_id
        )

    def latest(self, topic: str) -> Schema | None:
        """The newest version of a topic's subject, or None if it has none."""
        subject = self._subject(topic)
        return self._fetch(lambda client, form: client.get_latest_version(subject, form).schema)

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int:
        """Register a schema as the newest version of a topic's subject, unless it is one already.

        The API has no compare-and-set, so `after` is ignored: callers must be serialised
        (`one_at_a_time.py`), or concurrent schemas are checked by the registry's own compatibility
        level only.
        """
        found = self._ask(
            lambda client: client.register_schema(self._subject(topic), _theirs(schema))
        )
        if found is None:
            raise RegistryUnavailable(f"{self._address} knows no way to register a schema")
        return found

    def schema(self, schema_id: int) -> Schema | None:
        """The schema with an id, or None if there is none."""
        return self._fetch(lambda client, form: client.get_schema(schema_id, fmt=form))

    def _fetch(
        self, fetch: "Callable[[SchemaRegistryClient, str | None], Theirs]"
    ) -> Schema | None:
        """Fetch a schema; for Protobuf, as a descriptor if the registry supports that."""
        found = self._ask(lambda client: fetch(client, None))
        if found is not None and found.schema_type == "PROTOBUF":
            found = self._ask(lambda client: fetch(client, "serialized"))
        return None if found is None else _ours(found)

    def _subject(self, topic: str) -> str:
        return f"{self._prefix}{topic}-value"

    def _ask(self, ask: "Callable[[SchemaRegistryClient], T | None]") -> T | None:
        """The registry's answer; None if it is 404."""
        try:
            from confluent_kafka.schema_registry import (  # noqa: PLC0415 - an extra
                SchemaRegistryClient,
                SchemaRegistryError,
            )
            from httpx2 import HTTPError  # noqa: PLC0415 - what that client speaks with
        except ImportError as error:
            raise EventsError(
                f"the client of the schema registry is missing: {error}",
                hint="install counterfoil[registry]",
            ) from error
        try:
            with SchemaRegistryClient(self._settings) as client:
                return ask(client)
        except SchemaRegistryError as error:
            return self._answered(error.http_status_code, error.error_message)
        except HTTPError as error:
            raise RegistryUnavailable(
                f"the schema registry at {self._address} does not answer: {error}",
                hint=_AUTHORITY if _UNVERIFIED in str(error) else "it is asked again",
            ) from error
        except OSError as error:  # of files; the client converts those of sockets
            raise EventsError(
                f"the authorities of the schema registry can't be read: {error}",
                hint="correct ca of [registry], or SSL_CERT_FILE: PEM files of certificates",
            ) from error

    def _answered(self, status: int, message: str) -> None:
        """Return None for 404, raise for any other error status.

        Raises:
            IncompatibleSchema, EventsError, RegistryUnavailable: by the status.
        """
        said = f"the schema registry at {self._address} answered {status}: {message}"
        if status == _NOT_FOUND:
            return
        if status == _CONFLICT:
            raise IncompatibleSchema(said, hint="its own compatibility level forbids the change")
        if status in _REFUSED:
            hint = "name the user in the address, and set REGISTRY_PASSWORD"
            raise RegistryUnavailable(said, hint=hint)
        if status == _UNPROCESSABLE:
            raise EventsError(said)
        raise RegistryUnavailable(said)


def _theirs(schema: Schema) -> "Theirs":
    from confluent_kafka.schema_registry import Schema as Theirs  # noqa: PLC0415 - an extra

    return Theirs(schema.text, schema.type)


def _ours(schema: "Theirs") -> Schema | None:
    """Convert a schema; None for types that topics don't support."""
    if schema.schema_str is None or schema.schema_type not in get_args(SchemaType):
        return None
    return Schema(cast("SchemaType", schema.schema_type), schema.schema_str)
