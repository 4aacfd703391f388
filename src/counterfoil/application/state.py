"""The state folder: everything that an application stores on this machine."""

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from counterfoil.application.configuration import ConfigurationError


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The paths of files and folders; their owners create and read them."""

    root: Path

    @property
    def lock(self) -> Path:
        """Locked by the supervisor while it runs."""
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """The supervisor's report on its processes, as JSON."""
        return self.root / "run.json"

    @property
    def addresses(self) -> Path:
        """The addresses assigned to this run, as JSON."""
        return self.root / "addresses.json"

    @property
    def engines(self) -> Path:
        """The engines that hold this application's data, as JSON."""
        return self.root / "engines.json"

    @property
    def coordination(self) -> Path:
        """The coordination node's database."""
        return self.root / "coordination.db"

    @property
    def log(self) -> Path:
        """The embedded event log."""
        return self.root / "events.db"

    @property
    def access_log(self) -> Path:
        """The gateway's access log, a JSON line for each answer."""
        return self.root / "access.jsonl"

    @property
    def lake(self) -> Path:
        """Delta tables."""
        return self.root / "lake"

    @property
    def reports(self) -> Path:
        """Published reports."""
        return self.root / "reports"

    @property
    def tls(self) -> Path:
        """The development certificate authority and its certificates."""
        return self.root / "tls"

    @property
    def acme(self) -> Path:
        """Certificates from an ACME directory, with their keys and the account's key."""
        return self.root / "acme"

    @property
    def faults(self) -> Path:
        """Armed fault points."""
        return self.root / "faults"

    @property
    def proof(self) -> Path:
        """The verdict of the last proof, as JSON."""
        return self.root / "proof.json"

    def service(self, name: str) -> Path:
        """The database of a service."""
        return self.root / f"service-{name}.db"

    def process_log(self, name: str) -> Path:
        """The output of a process."""
        return self.root / "logs" / f"{name}.log"

    def hot_keys(self, pipeline: str) -> Path:
        """A parallel pipeline's report on its hot keys, as JSON."""
        return self.root / "hot-keys" / f"{pipeline}.json"

    def engine(self, process: str) -> Path:
        """The files of an engine's server started on this machine."""
        return self.root / "engines" / process

    @property
    def credential_file(self) -> Path:
        """The secret shared by the application's processes."""
        return self.root / "credential"

    def credential(self) -> str:
        """The secret shared by the application's processes; created on first use.

        Raises:
            OSError: it can't be written, such as on a full disk; nothing was created.
            ConfigurationError: the file is empty, which would let anybody in.
        """
        path = self.credential_file
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_urlsafe(32))
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):  # another process was first
                    path.hardlink_to(temporary)
            finally:
                temporary.unlink()
        if credential := path.read_text().strip():
            return credential
        raise ConfigurationError(f"{path} is empty", hint="remove it: the next start makes another")


def write_json(path: Path, document: object) -> None:
    """Replace `path` atomically: readers see the old or the new document."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=2))
    temporary.replace(path)
