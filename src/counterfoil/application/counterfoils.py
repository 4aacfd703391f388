"""The workload that `counterfoil prove` sends, and what it reconciles afterwards."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.service import Method
from counterfoil.events import Topic
from counterfoil.reports import Report, Table


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a workload: what a client wants done exactly once."""

    path: str
    body: msgspec.Struct | None
    """None for one without, such as a DELETE."""
    tenant: str
    tier: str
    idempotency_key: str
    amount: int
    """What it is worth, in minor units: the client's own record."""
    method: Method = "POST"
    """Whichever it is, its answer must have the `id` of the effect that is looked for."""


@dataclass(frozen=True, slots=True)
class Counterfoils:
    """What must match what: the same ids and the same sum at every step of the way.

    `proof` reads each of them without the code that wrote them.
    """

    service: str
    rows: str
    """The service's table; `id` and `amount` name its columns."""
    topic: Topic[Any]
    posted: str
    """The code of the ledger transfers."""
    stored: Table[Any]
    report: Report
    section: str
    """The section of the report with a row a day; `count` and `total` name its columns."""
    count: str
    total: str
    id: str = "id"
    amount: str = "amount"
    currency: str = "USD"
    accounts: Callable[[Mapping[str, Any]], tuple[str, str]] | None = None
    """Debit and credit of an event's transfer, by its JSON document; None leaves them unchecked."""

    def check(self, columns: Mapping[str, Mapping[str, Collection[str]]]) -> None:
        """See that names are those of columns; `columns` has those of each report's sections.

        Raises:
            ConfigurationError: says which name is none, and what there is.
        """
        sections = columns.get(self.report.name, {})
        _one_of(self.section, sections, f"section of the report {self.report.name!r}")
        for name in ("day", self.count, self.total):
            _one_of(name, sections[self.section], f"column of its section {self.section!r}")
        for name in (self.id, self.amount):
            _one_of(name, self.stored.columns(), f"column of the table {self.stored.name!r}")


def _one_of(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ConfigurationError(
            f"app.matches(Counterfoils(...)) names {name!r}, which is no {what}",
            hint=f"one of {', '.join(known) or 'none'}",
        )


Workload = Callable[[int, int], Iterator[Request]]
