"""The workload that `counterfoil prove` sends, and what the proof reconciles."""

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
    """One request of a workload, to take effect exactly once."""

    path: str
    body: msgspec.Struct | None
    """None for a request without a body, such as a DELETE."""
    tenant: str
    tier: str
    idempotency_key: str
    amount: int
    """The request's amount in minor units, as recorded by the client."""
    method: Method = "POST"
    """With any method, the answer must contain the `id` of the effect."""


@dataclass(frozen=True, slots=True)
class Counterfoils:
    """What the proof reconciles: the same ids and the same sum at every stage.

    `proof` reads each stage without the code that wrote it.
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
    """The report's section with a row per day; `count` and `total` name its columns."""
    count: str
    total: str
    id: str = "id"
    amount: str = "amount"
    currency: str = "USD"
    accounts: Callable[[Mapping[str, Any]], tuple[str, str]] | None = None
    """The debit and credit accounts of an event, from its JSON document; None skips this check."""

    def check(self, columns: Mapping[str, Mapping[str, Collection[str]]]) -> None:
        """Check that all names exist; `columns` has the columns of each report's sections.

        Raises:
            ConfigurationError: says which name doesn't, and what there is.
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
