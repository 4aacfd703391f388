"""Which processes an application has: of its pipelines, as many as its configuration says."""

import msgspec
import pytest

from counterfoil.application import Application, Configuration, ConfigurationError
from counterfoil.events import Context, EventTime, StatelessContext
from counterfoil.supervisor.plan import plan

app = Application("wallet")


class Paid(msgspec.Struct, frozen=True):
    id: int


class Ordered(msgspec.Struct, frozen=True):
    id: int


paid = app.topic("paid", Paid, partitions=4)


@app.pipeline("enrich", paid, stateless=True)
def enrich(event: Paid, context: StatelessContext) -> None: ...


@app.pipeline("post", paid)
def post(event: Paid, context: Context) -> None: ...


def configuration(events: str, **pipelines: int) -> Configuration:
    document = {
        "application": {"module": "wallet:app"},
        "services": {},
        "engines": {"events": events},
        "pipelines": {name: {"processes": number} for name, number in pipelines.items()},
    }
    return msgspec.convert(document, Configuration)


def pipelines(found: Configuration) -> list[str]:
    return [each.name for each in plan(app, found) if each.kind == "pipeline"]


def test_a_pipeline_has_the_processes_that_are_configured() -> None:
    assert pipelines(configuration("kafka", enrich=3, post=2)) == [
        *(f"pipeline-enrich-{number}" for number in (1, 2, 3)),
        *(f"pipeline-post-{number}" for number in (1, 2)),
    ]
    alone = ["pipeline-enrich", "pipeline-post"]
    assert pipelines(configuration("kafka")) == alone
    assert pipelines(configuration("embedded", enrich=3)) == alone, "one writes at a time"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"post": 5}, "at most 4"),
        ({"enrich": 5}, "at most 4"),
        ({"enrch": 2}, "no pipeline 'enrch'"),
    ],
)
def test_processes_that_could_do_nothing_are_refused(given: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plan(app, configuration("kafka", **given))


def test_a_join_whose_keys_would_not_meet_is_refused_in_several_processes() -> None:
    application = Application("shop")
    orders = application.topic("orders", Ordered, partitions=8)
    payments = application.topic("payments", Paid, partitions=4)

    @application.join(
        "paid", orders, payments, within_seconds=60, event_time=EventTime(lambda each: each.id)
    )
    def pair(order: Ordered, payment: Paid, context: Context) -> None: ...

    assert plan(application, configuration("kafka", paid=1))
    with pytest.raises(ConfigurationError, match="orders with 8 partitions and payments with 4"):
        plan(application, configuration("kafka", paid=2))


def test_a_service_that_nothing_would_run_is_refused() -> None:
    application = Application("shop")
    application.service("payments", schema=[])
    with pytest.raises(ConfigurationError, match=r"add \[services.payments\]"):
        plan(application, configuration("embedded"))
