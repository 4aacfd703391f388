"""Shows what a reload would change.

The configuration in force comes from the data plane's `GET /config`, the new one is made from the
file in the same shape. The two documents are compared setting by setting, so that new settings need
no code here. Secrets are hidden in both: a changed secret isn't shown, but takes effect all the
same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from counterfoil.gateway.config import GatewayConfig
from counterfoil.gateway.data_plane import document

SECRETS: Final = frozenset({"admin_credential", "password", "secret", "url"})
"""Settings that `GET /config` hides (`SECRETS` in crates/gateway/src/config/mod.rs)."""
SETTLED_AT_START: Final = frozenset(
    {"listen", "admin", "tls", "ticket_secret", "http3", "early_data", "clients", "threads"}
    | {"proxy_protocol"}
)
"""Settings fixed at start: a reload that changes one is refused as a whole."""
NAMES: Final = ("path", "issuer", "certificate")
"""Fields that identify items of a list; indices would shift when an item is inserted."""
VALUE_LIMIT: Final = 200
"""Characters shown of a value, so that a list of a thousand certificates fits on a page."""


class Change(msgspec.Struct, frozen=True):
    """A setting that differs; None where it is unset."""

    setting: str
    """Such as `limits.tenant.rate`, or `routes[/payments].limits`."""
    before: str | None
    after: str | None
    needs_start: bool
    """Whether a running gateway refuses it."""


def changes(shown: Mapping[str, Any], config: GatewayConfig, *, folder: Path) -> list[Change]:
    """The settings in which `config` differs from what is in force, `shown` by `GET /config`.

    Raises:
        GatewayError: a signing key's secret can't be read.
    """
    wanted = document(config, folder=folder)
    before = _settings({name: value for name, value in shown.items() if name in wanted})
    after = _settings(wanted)
    # The data plane's document has no `tls`, but has a certificate if TLS is on.
    before["tls"] = '"off"' if shown.get("certificate") is None else '"development"'
    after["tls"] = _text(config.tls)
    return [
        Change(
            name,
            before.get(name),
            after.get(name),
            name.partition(".")[0] in SETTLED_AT_START,
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _settings(document: Mapping[str, Any]) -> dict[str, str]:
    """Each setting by its full name."""
    found: dict[str, str] = {}

    def walk(name: str, value: object) -> None:
        fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        items = cast("list[object]", value) if isinstance(value, list) else []
        for each, inner in fields.items():
            if name.startswith("hooks.") and each == "addresses":
                continue  # addresses of hooks' processes, which are fixed at start
            hidden = each in SECRETS and isinstance(inner, str)
            walk(f"{name}.{each}" if name else each, "(hidden)" if hidden else inner)
        names = _names(items)
        for number, (each, item) in enumerate(zip(names, items, strict=False)):
            earlier = names[:number].count(each)
            walk(f"{name}[{each}, {earlier + 1}]" if earlier else f"{name}[{each}]", item)
        if not fields and not names:
            found[name] = _text(cast("object", value))

    walk("", document)
    return found


def _names(items: list[object]) -> list[str]:
    """A name for each item of a list of settings; empty for a list of plain values."""
    settings = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
    if len(settings) != len(items):
        return []
    return [next((str(each[name]) for name in NAMES if name in each), "") for each in settings]


def _text(value: object) -> str:
    text = msgspec.json.encode(value, order="sorted").decode()
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 1]}…"
