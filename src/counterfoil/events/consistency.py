"""Consistency tokens: name the events of a write, so that a later read can wait for them.

The response to a write has a token that names the events which it published. A read with the token
can wait until a read model includes them (`read_model.py`).
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from counterfoil.events.errors import BadToken
from counterfoil.events.messages import Message

HEADER: Final = "counterfoil-consistency-token"
WRITES_LIMIT: Final = 16
"""Maximum events of one token: with more, proxies would reject the header."""
TOKEN_LIMIT: Final = 8_192
"""Maximum characters of a token, which is untrusted input."""
LATEST_US: Final = 1 << 62
"""Later than any event's time; arithmetic on it stays within 64 bits."""


class Write(msgspec.Struct, frozen=True, array_like=True):
    """An event that a write has published."""

    topic: str
    key: str
    event_id: Annotated[int, msgspec.Meta(ge=0)]
    at_us: Annotated[int, msgspec.Meta(ge=0, le=LATEST_US)]


_DECODER: Final = msgspec.json.Decoder(
    Annotated[list[Write], msgspec.Meta(max_length=WRITES_LIMIT)]
)


def token_of(published: Iterable[Message]) -> str:
    """The token of a write, for its response; empty if it published no events, or too many.

    Events of one topic and key stay in order, so the last of them represents all.
    """
    last = {(each.topic, each.key): each for each in published}
    writes = [
        Write(each.topic, each.key, each.event_id, each.timestamp_us) for each in last.values()
    ]
    if not writes or len(writes) > WRITES_LIMIT:
        return ""
    return base64.urlsafe_b64encode(msgspec.json.encode(writes)).decode()


def writes_of(token: str) -> list[Write]:
    """The events that a token names.

    Raises:
        BadToken: it is not a token of a write.
    """
    try:
        if len(token) > TOKEN_LIMIT:
            raise BadToken(f"a token has {TOKEN_LIMIT} characters at most")
        content = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        return _DECODER.decode(content)
    except (binascii.Error, UnicodeError, msgspec.DecodeError) as error:
        raise BadToken(
            "not a consistency token", hint=f"hand in the header {HEADER} of a write's answer"
        ) from error
