"""Events that are handled each in a savepoint of its own stand on what is still true, too.

On PostgreSQL alone: in SQLite nobody else writes meanwhile.
"""

import uuid
from collections.abc import Callable

from counterfoil.engines import RunningEngine
from counterfoil.events import Context, DeadLetters, KafkaEvents, Message
from counterfoil.kafka_access import KafkaAccess

from .shared_counts import CALLS, Call
from .test_exactly_once import append
from .test_several_processes import _key_of, _send_one, handle_together, make, shares


def test_what_was_only_read_is_compared_though_another_event_has_failed(
    engine: Callable[[str], RunningEngine],
) -> None:
    """One process copies a rate that another sets meanwhile, and has a dead letter beside it."""
    postgres = engine("postgres")
    access = KafkaAccess(engine("kafka").address)
    name = f"alone-{uuid.uuid4().hex}"
    events = KafkaEvents(access, postgres.address, postgres.secret, application=name)
    own, others = shares(2)
    changes: list[int] = []

    def work(event: Call, context: Context) -> None:
        if event.key == _key_of(others):
            context.state.put("rate", str(event.id).encode())
        elif event.id == 1:
            context.state.put("copy", context.state.get("rate") or b"")
        elif event.id == 2:
            context.state.put("copy", b"of poison")
            if copying and not changes:
                changes.append(1)
                _send_one(events, 9, _key_of(others))
                handle_together([setting], 1)
            raise RuntimeError("poison")
        else:
            # The second time it is there already: the commit is undone, and done one by one.
            context.ledger.transfer(id=7, debit="a", credit="b", amount=1, currency="USD", code="c")

    copying = False
    setting, using = make(events, others, work), make(events, own, work, tries=1)
    _send_one(events, 8, _key_of(others))
    handle_together([setting], 1)
    _send_one(events, 0, _key_of(own))
    handle_together([using], 1)
    alone = using._attempt

    def attempt(*arguments: object, **settings: bool) -> int:
        nonlocal copying
        copying = settings["alone"]
        return alone(*arguments, **settings)  # type: ignore[arg-type]

    using._attempt = attempt  # type: ignore[method-assign,assignment]
    key = _key_of(own)
    append(
        events.log(),
        [
            Message(number, "calls", key, CALLS.encode(Call(number, key)), {}, 1)
            for number in (1, 2, 3)
        ],
    )
    handled = using.step()
    while handled < 3:
        handled += using.step()
    assert changes, "the rate has changed between the read and the commit"
    store = events.pipelines()
    kept = dict(store.database.execute("SELECT key, value FROM state").fetchall())
    assert kept == {"rate": b"9", "copy": b"9"}
    assert [letter.record.event_id for letter in DeadLetters(store).list()] == [2]
    store.close()
