"""The one folder that holds everything an application keeps on this machine."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Names of files and folders; creating and reading them is up to their owners."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it runs."""
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """What the supervisor says of its processes, as JSON."""
        return self.root / "run.json"

    @property
    def addresses(self) -> Path:
        """Addresses that this run was given, as JSON."""
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
        """The gateway's stubs, a JSON line for each answer."""
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
        """Where a process's output goes."""
        return self.root / "logs" / f"{name}.log"

    def hot_keys(self, pipeline: str) -> Path:
        """What the process of a parallel pipeline says of its hot keys, as JSON."""
        return self.root / "hot-keys" / f"{pipeline}.json"

    def engine(self, process: str) -> Path:
        """The files of a real engine's server that runs here."""
        return self.root / "engines" / process

    @property
    def credential_file(self) -> Path:
        """Holds the secret that the processes of this application share."""
        return self.root / "credential"

    def credential(self) -> str:
        """The secret that the processes of this application share; made on first use."""
        path = self.credential_file
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        return path.read_text().strip()


def write_json(path: Path, document: object) -> None:
    """Replace `path` in one step, so that a reader sees the old or the new document."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=2))
    temporary.replace(path)
