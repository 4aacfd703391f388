"""Checks of a route's conditions: refuses those that no request could ever meet.

A route that never matches would otherwise go unnoticed.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import unquote

TOKEN: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""The name of a method or a header: a token (RFC 9110, section 5.6.2)."""
_PATH: Final = re.compile(r"/(?:[\w!$&'()+,./:;=@\[\]|~-]|%[0-9A-Fa-f]{2})*\*?", re.ASCII)
_CLIMBS: Final = re.compile(r"/\.{1,2}(?:[;/]|$)")
_UNRESERVED: Final = re.compile(r"[\w.~-]", re.ASCII)
_HOST: Final = re.compile(r"(?:\*\.)?[\w-]+(?:\.[\w-]+)*\.?", re.ASCII)
_USUAL: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SLIP: Final = 0.65
"""Above this similarity to a usual method, a typo is assumed: for GTE and POTS, not for REPORT."""


def check_path(path: str) -> None:
    """Raises:
    ValueError: no request has such a path.
    """
    if not path.startswith("/") or "*" in path[:-1]:
        raise ValueError(
            f"path {path!r}: begin it with a slash; a star stands at the end alone, for "
            "whatever follows"
        )
    if not _PATH.fullmatch(path) or _CLIMBS.search(path):
        raise ValueError(
            f"path {path!r} is no path of a request: leave out query, fragment, placeholders, . "
            "and .., and write what isn't ASCII in percent-encoding"
        )
    for encoded in re.findall(r"%..", path):
        if _UNRESERVED.fullmatch(letter := unquote(encoded, "latin-1")):
            raise ValueError(f"path {path!r}: write {letter} in place of {encoded}, as it is read")


def check_methods(path: str, methods: Iterable[str]) -> None:
    """Raises:
    ValueError: one is not a method, or a likely typo.
    """
    for method in methods:
        if not TOKEN.fullmatch(method) or method != method.upper():
            raise ValueError(f'method {method!r}: use one in capitals, such as "POST"')
        if method == "*":
            raise ValueError(f'route {path}: name its methods, as ["GET", "POST"]: * is none')
        near = difflib.get_close_matches(method, _USUAL, n=1, cutoff=_SLIP)
        if near and method not in _USUAL:
            raise ValueError(f"route {path}: {method} is no method: did you mean {near[0]}?")


def check_hosts(hosts: Iterable[str]) -> None:
    """Raises:
    ValueError: no request can have such a host.
    """
    for host in hosts:
        if not _HOST.fullmatch(host) and not _is_ipv6(host):
            raise ValueError(
                f"hosts: {host!r} is no name such as api.example.com or *.example.com: write it "
                "without scheme, port and path, or leave hosts out for all names"
            )


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises:
    ValueError: no request has such a header.
    """
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise ValueError(f"headers: {name!r} is no name of a header")
        if name.lower() == "host":
            raise ValueError("headers: host is asked for by hosts: name it there")
        if value != value.strip() or not value.isprintable():
            raise ValueError(f"headers: {value!r} can't be what {name} says: see to its spaces")


def has_port(address: str) -> bool:
    """Whether the port at the end of `address` is valid; true if there is none."""
    found = re.search(r":(\d+)$", address, re.ASCII)
    return found is None or 0 < int(found[1]) < 65_536


def _is_ipv6(host: str) -> bool:
    try:
        return host[:1] == "[" and host[-1:] == "]" and bool(IPv6Address(host[1:-1]))
    except ValueError:
        return False
