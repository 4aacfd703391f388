"""The example of docs/sagas.md is a program, and does what the page says."""

import re
from pathlib import Path
from typing import Any

from counterfoil.events import (
    EmbeddedEvents,
    Message,
    PipelineRunner,
    SagaCoordinator,
    Sagas,
    trial_balance,
)

PAGE = Path(__file__).parents[2] / "docs" / "sagas.md"


def test_the_example_sells_what_there_is_to_those_who_can_pay(embedded: EmbeddedEvents) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    app, orders, order = names["app"], names["orders"], names["Order"]
    log, store = embedded.log(), embedded.pipelines()
    log.declare(app.all_topics())
    appender = log.appender("clients", 1)
    amounts = {1: 500, 2: 5_000, 3: 700, 4: 300}
    appender.append(
        [
            Message(number, "orders", "ada", orders.encode(order(number, "ada", amount)), {}, 1)
            for number, amount in amounts.items()
        ],
        1,
    )
    bank = PipelineRunner(log, store, app.pipelines["bank"], lambda: 1)
    coordinator = SagaCoordinator(log, store, app.sagas["order"], fencing_token=1, now_us=lambda: 1)
    while coordinator.step() + bank.step():
        continue
    found = {each.id: each.status for each in Sagas(store).newest()}
    # Two discs: the first two orders hold them, the second can't pay.
    assert found == {1: "completed", 2: "compensated", 3: "compensated", 4: "compensated"}
    assert trial_balance(store.database) == {"EUR": (500, 500)}
    assert store.database.execute("SELECT value FROM state").fetchall() == [(b"1",)]
