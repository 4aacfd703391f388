"""Names that would meet are refused where an application is loaded, and told apart where not."""

from collections.abc import Callable

import msgspec
import pytest

from counterfoil import Application, Context
from counterfoil.application import ConfigurationError
from counterfoil.application.names import check_names
from counterfoil.events import StatelessContext, Topic


class Paid(msgspec.Struct, frozen=True):
    id: int


def stateless(app: Application, name: str, source: Topic[Paid]) -> None:
    @app.pipeline(name, source, stateless=True)
    def forward(event: Paid, context: StatelessContext) -> None:  # pyright: ignore[reportUnusedFunction]
        pass


def stateful(app: Application, name: str, source: Topic[Paid]) -> None:
    @app.pipeline(name, source)
    def handle(event: Paid, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        pass


def two_writers_of_positions(app: Application, paid: Topic[Paid]) -> None:
    app.service("payments", schema=[])
    stateless(app, "payments", paid)


def topic_of_retries(app: Application, paid: Topic[Paid]) -> None:
    stateful(app, "payments", paid)
    app.topic("payments.retries", Paid)


def topic_of_positions(app: Application, paid: Topic[Paid]) -> None:
    app.service("payments", schema=[])
    app.topic("payments.positions", Paid)


def reader_of_letters(app: Application, paid: Topic[Paid]) -> None:
    stateful(app, "payments", paid)
    stateful(app, "payments.letters", paid)


def share(app: Application, paid: Topic[Paid]) -> None:
    stateful(app, "payments", paid)
    stateful(app, "payments.0-of-2", paid)


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (two_writers_of_positions, "keep their positions under the name 'payments'"),
        (topic_of_retries, "topics called 'payments.retries'"),
        (topic_of_positions, "'payments.positions' has the name under which positions"),
        (reader_of_letters, "consumers called 'payments.letters'"),
        (share, "name of a share"),
    ],
)
def test_two_things_with_one_name_are_refused(
    declare: Callable[[Application, Topic[Paid]], None], said: str
) -> None:
    app = Application("shop")
    declare(app, app.topic("paid", Paid))
    with pytest.raises(ConfigurationError, match=said):
        check_names(app)


@pytest.mark.parametrize("name", ["a.b", "", "my shop", "x" * 49])
def test_an_application_whose_topics_could_be_another_ones_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be called"):
        check_names(Application(name))


def test_a_service_and_a_pipeline_may_have_one_name() -> None:
    app = Application("shop-2_b")
    app.service("payments", schema=[])
    stateful(app, "payments", app.topic("payments", Paid))
    check_names(app)
