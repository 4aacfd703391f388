"""Consistency tokens: name the events of a write, so that a later read can wait for them.

The answer to a write carries a token that names the events it has published; a read that is given
the token can wait until a read model has them (`read_model.py`).
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
"""Events of one token: more would make a header that proxies refuse."""
TOKEN_LIMIT: Final = 8_192
"""Characters of a token that are looked at: it comes from outside."""
LATEST_US: Final = 1 << 62
"""Later than any event's time; what is reckoned from it stays within 64 bits."""


class Write(msgspec.Struct, frozen=True, array_like=True):
    """An event that a write has left."""

    topic: str
    key: str
    event_id: Annotated[int, msgspec.Meta(ge=0)]
    at_us: Annotated[int, msgspec.Meta(ge=0, le=LATEST_US)]


_DECODER: Final = msgspec.json.Decoder(
    Annotated[list[Write], msgspec.Meta(max_length=WRITES_LIMIT)]
)


def token_of(published: Iterable[Message]) -> str:
    """The token of a write, for its answer; empty if it left no events or too many.

    Events of one topic and key keep their order, so the last of them stands for all.
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
