"""Errors of certificate orders."""

from types import MappingProxyType
from typing import Final

from counterfoil.errors import CounterfoilError

_REACH: Final = (
    "the directory looks for this name on port 443, by TLS, from wherever it is: see that DNS "
    "leads here, and that the port leads to `listen` with TLS untouched on the way"
)
HINTS: Final = MappingProxyType(
    {
        "accountDoesNotExist": "the directory has forgotten the account: another one is made",
        "badSignatureAlgorithm": "the directory takes no accounts with ES256: choose another one",
        "caa": "let the name's CAA records in DNS name this directory",
        "connection": _REACH,
        "dns": "see that the name has an A or AAAA record that leads here",
        "externalAccountRequired": "set external_account to what the directory's owner gave you",
        "incorrectResponse": _REACH,
        "invalidContact": "correct email, or leave it out",
        "invalidProfile": "correct profile: the directory's document lists those that there are",
        "rateLimited": "the directory takes no more for now; nothing has to be done but to wait",
        "rejectedIdentifier": "the directory makes no certificate for this name: take it out of "
        "hosts, or choose another directory",
        "tls": _REACH,
        "unauthorized": _REACH,
        "unsupportedContact": "correct email, or leave it out",
        "userActionRequired": "the directory's terms have changed: open the address that it names",
    }
)
"""Remedies for the problem types of RFC 8555 (section 6.7) and its extensions."""


class AcmeError(CounterfoilError):
    """The base of ACME's errors."""


class DirectoryUnavailable(AcmeError):
    """The directory did not answer, or reported an error of its own; the request may have taken
    effect."""


class DirectoryRefused(AcmeError):
    """The directory refused with a problem document (RFC 7807)."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message, hint=HINTS.get(kind, ""))
        self.kind = kind
        """The problem type, such as `rejectedIdentifier`; empty without a document."""


class StoreUnavailable(AcmeError):
    """The store can't be read or written."""


class Superseded(AcmeError):
    """Another gateway has written meanwhile, and has taken over."""
