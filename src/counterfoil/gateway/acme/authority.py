"""Client of an ACME directory: the native client with Python types and errors."""

import base64
import binascii
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from counterfoil import _native
from counterfoil.gateway.acme.errors import DirectoryRefused, DirectoryUnavailable
from counterfoil.gateway.acme.settings import Acme, ExternalAccount

ANSWER_SECONDS: Final = 30.0
"""For a step that the directory answers at once."""
PROOF_SECONDS: Final = 120.0
"""For a step at which it validates or signs: public directories take seconds, and longer under
load."""


class Authority:
    """An account at a directory; `credentials` come from `register`.

    An order is identified by its URL. Each step asks the directory for the order's state, so it can
    be repeated, by another process too.

    Raises (from each step):
        DirectoryUnavailable: no answer in time.
        DirectoryRefused: says why.
    """

    def __init__(self, credentials: str, settings: Acme) -> None:
        self._profile = settings.profile or None
        with _errors(settings.directory):
            self._client = _native.Acme(credentials, settings.ca_file or None, ANSWER_SECONDS)
        self._directory = settings.directory

    @staticmethod
    def register(settings: Acme) -> str:
        """Create an account, agreeing to the directory's terms. The credentials contain its private
        key."""
        external = settings.external_account
        bound = (external.key_id, external_key(external)) if external else None
        with _errors(settings.directory):
            return _native.Acme.register(
                settings.directory,
                settings.ca_file or None,
                settings.email or None,
                bound,
                ANSWER_SECONDS,
            )

    def order(self, host: str, replaces: str) -> str:
        """Order a certificate that replaces `replaces` (PEM; empty for none)."""
        with _errors(self._directory):
            return self._client.order(host, self._profile, replaces or None, ANSWER_SECONDS)

    def challenge(self, order: str) -> bytes | None:
        """The digest for TLS-ALPN-01 (RFC 8737); None if no challenge is pending."""
        with _errors(self._directory):
            return self._client.challenge(order, ANSWER_SECONDS)

    def prove(self, order: str) -> None:
        """Start the directory's validation, and wait for its end."""
        with _errors(self._directory):
            self._client.prove(order, PROOF_SECONDS)

    def certificate(self, order: str, csr: bytes) -> str:
        """The certificate chain in PEM, for a signing request in DER."""
        with _errors(self._directory):
            return self._client.certificate(order, csr, PROOF_SECONDS)

    def renewal(self, certificate: str) -> tuple[tuple[float, float], float] | None:
        """When to renew a certificate (PEM): a window in seconds since 1970, and the seconds until
        the next query. None if the directory doesn't support renewal information."""
        with _errors(self._directory):
            found = self._client.renewal(certificate, ANSWER_SECONDS)
        return None if found is None else ((found[0], found[1]), found[2])


def external_key(external: ExternalAccount) -> bytes:
    """The key of an external account.

    Raises:
        DirectoryRefused: the file can't be read, or is empty.
    """
    try:
        text = Path(external.key_file).read_text(encoding="ascii").strip()
        key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise DirectoryRefused(
            f"external_account: {external.key_file} can't be used: {error}", kind=""
        ) from error
    if not key:
        raise DirectoryRefused(f"external_account: {external.key_file} is empty", kind="")
    return key


@contextmanager
def _errors(directory: str) -> Generator[None, None, None]:
    try:
        yield
    except ConnectionError as error:
        raise DirectoryUnavailable(
            f"{directory}: {error}", hint="it is asked again; see that this machine reaches it"
        ) from error
    except RuntimeError as error:
        detail, kind = error.args
        said = f"{detail} ({kind})" if kind else detail
        raise DirectoryRefused(f"{directory}: {said}", kind=kind) from error
