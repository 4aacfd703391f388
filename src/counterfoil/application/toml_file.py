"""A TOML file as text, for errors that name the line of a setting.

TOML libraries for Python give no positions, so the line is found by searching.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterfoil.application.configuration import ConfigurationError

Keys = list[str | int]
"""The path of a setting: names, array indices, and `*` for any name."""


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A configuration file and its text."""

    path: Path
    text: str

    def error(self, setting: str, said: str, hint: str = "") -> ConfigurationError:
        """An error about a setting, such as `gateway.routes[0].path`, with its line."""
        return self.error_at(keys_of(setting), said, hint)

    def error_at(self, keys: Keys, said: str, hint: str = "") -> ConfigurationError:
        """As `error`, for the path of a setting."""
        return ConfigurationError(f"{self.path}, line {self._line_of(keys)}: {said}", hint=hint)

    def _line_of(self, keys: Keys) -> int:
        """The line of the key, or else of the last table header on its path."""
        best = 1
        header: Keys = []
        counts: dict[str, int] = {}
        for number, line in enumerate(self.text.splitlines(), start=1):
            stripped = line.strip()
            if match := re.match(r"^(\[\[?)\s*([^\]]+?)\s*\]\]?", stripped):
                name = match.group(2)
                if match.group(1) == "[[":
                    counts[name] = counts.get(name, -1) + 1
                header = _header(name, counts)
                if _leads(header, keys):
                    best = number
            elif _leads(header, keys) and (match := re.match(r"^([\w-]+)\s*=", stripped)):
                rest = keys[len(header) :]
                if rest and match.group(1) == rest[0]:
                    return number
        return best


def keys_of(location: str) -> Keys:
    """The keys of a msgspec path, such as `$.gateway.routes[0].path`."""
    return [
        int(part) if part.isdigit() else part
        for part in re.findall(r"[^.\[\]$`]+", location.replace("[...]", ".*"))
    ]


def _header(name: str, counts: dict[str, int]) -> Keys:
    """The path of the table `name`; a subtable of an array of tables belongs to the last one."""
    header: Keys = []
    parts = name.split(".")
    for place, part in enumerate(parts, start=1):
        header.append(part.strip().strip("\"'"))
        if (outer := ".".join(parts[:place])) in counts:
            header.append(counts[outer])
    return header


def _leads(header: Sequence[str | int], keys: Sequence[str | int]) -> bool:
    """Whether a table header is a prefix of `keys`."""
    return len(header) <= len(keys) and all(
        key in ("*", part) for part, key in zip(header, keys, strict=False)
    )
