"""Settings of response compression (`[gateway.routes.compression]`)."""

import re
from typing import Final, Literal

import msgspec

_COMPRESSED_TYPES: Final = (
    "text/*",
    "application/json",
    "application/*+json",
    "application/xml",
    "application/*+xml",
    "application/javascript",
    "application/x-ndjson",
    "application/wasm",
    "image/svg+xml",
    "font/otf",
    "font/ttf",
)
"""Compressible types: images, audio, video, archives and WOFF are compressed already."""
_TYPE: Final = re.compile(r"[a-z]+/(\*(\+[a-z0-9.-]+)?|[a-z0-9][a-z0-9.+_-]*)")


class Compression(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which answers of a route are compressed. Not for answers that contain both a secret and input
    of the client: see docs/compression.md."""

    encodings: tuple[Literal["zstd", "br", "gzip"], ...] = ("zstd", "gzip", "br")
    """Offered encodings. The client's weights decide; at equal weight, the first one here."""
    types: tuple[str, ...] = _COMPRESSED_TYPES
    """Content types, such as `text/html`, `text/*` or `application/*+json`. Never gRPC."""
    minimum_bytes: int = 1024
    """Smaller answers fit into one packet anyway. Answers of unknown length are compressed."""

    def __post_init__(self) -> None:
        if not self.encodings or len(set(self.encodings)) < len(self.encodings):
            raise ValueError('encodings are one or more of "zstd", "br" and "gzip", each once')
        for each in self.types:
            if not _TYPE.fullmatch(each):
                raise ValueError(
                    f"types: {each!r} is no type: use text/html, text/* or application/*+json"
                )
        if not self.types:
            raise ValueError("types are empty: leave them out, or the whole table")
        if not 1 <= self.minimum_bytes <= 2**30:
            raise ValueError("minimum_bytes is 1 to 1,073,741,824")
