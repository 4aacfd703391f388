"""Certificate store of a single gateway: files in its state folder."""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from counterfoil.gateway.acme.errors import StoreUnavailable
from counterfoil.gateway.acme.pairs import Pair
from counterfoil.gateway.acme.store import Account, Held, Record, Store, View

_ONLY: Final = 0
"""The revision of every record: there are no other writers."""
Document = TypeVar("Document", Account, Record)


class _Turn:
    """The term of the only gateway."""

    def held(self) -> bool:
        return True

    def resign(self) -> None:
        pass


class FolderStore(Store):
    """A store in the folder `root`, created on the first write: `account.json`, and a file per host
    below `hosts`. Only one process may use it at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._challenges: dict[str, Pair] = {}
        self._changed: Callable[[View], None] = lambda _: None

    def load(self) -> View:
        """Read all files."""
        try:
            files = sorted((self._root / "hosts").glob("*.json"))
        except OSError as error:
            raise StoreUnavailable(f"{self._root} can't be read: {error}") from error
        with self._lock:
            challenges = dict(self._challenges)
        held = {
            file.name.removesuffix(".json"): Held(record, _ONLY)
            for file in files
            if (record := _read(file, Record)) is not None
        }
        return View(held, challenges)

    def listen(self, changed: Callable[[View], None]) -> None:
        """Called by each write."""
        self._changed = changed

    def follow(self, stop: threading.Event) -> None:
        """Does nothing: there are no other gateways."""

    def campaign(self, stop: threading.Event) -> _Turn | None:
        """Returns at once: there are no other candidates."""
        return None if stop.is_set() else _Turn()

    def keep(self, host: str, record: Record, after: Held | None) -> Held:
        """Replace the host's file."""
        self._write(self._root / "hosts" / f"{host}.json", record)
        self._changed(self.load())
        return Held(record, _ONLY)

    def account(self) -> Account | None:
        """Read the account's file."""
        return _read(self._root / "account.json", Account)

    def keep_account(self, account: Account) -> None:
        """Replace the account's file."""
        self._write(self._root / "account.json", account)

    @contextmanager
    def shown(self, host: str, proof: Pair) -> Generator[None, None, None]:
        """Published by this gateway, the only one."""
        with self._lock:
            self._challenges[host] = proof
        self._changed(self.load())
        try:
            yield
        finally:
            with self._lock:
                del self._challenges[host]
            self._changed(self.load())

    def _write(self, path: Path, document: Account | Record) -> None:
        """Replace a file atomically, so that a crash leaves the old one or the new one."""
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(document))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # else a power failure may lose the new name
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreUnavailable(f"{path} can't be written: {error}") from error


def _read(path: Path, kind: type[Document]) -> Document | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreUnavailable(
            f"{path} can't be read: {error}",
            hint="mend it, or remove it: then another is made, and its certificate ordered anew",
        ) from error
