"""The watermark by itself: what it may say, and what silence means."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import EventsError, EventTime
from counterfoil.events.event_time import LISTENING_US, NEVER, Watermark

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def made(partitions: int = 2, **more: object) -> Watermark:
    event_time = EventTime(int, disorder_seconds=5, **more)  # type: ignore[arg-type]
    return Watermark(event_time, partitions)


def test_the_slowest_partition_decides() -> None:
    watermark = made()
    watermark.observe(0, 100 * SECOND, 0)
    assert watermark.current_us() == NEVER, "nothing is known of the other one"
    watermark.observe(1, 60 * SECOND, 0)
    watermark.observe(0, 90 * SECOND, 0)
    assert watermark.current_us() == 55 * SECOND


def test_a_silent_partition_is_left_out_and_counts_again_once_it_speaks() -> None:
    watermark = made(idle_seconds=60)
    watermark.observe(0, 100 * SECOND, 0)
    watermark.look({0}, 0, exhaustive=True)
    watermark.look({0}, 59 * SECOND, exhaustive=True)
    assert watermark.current_us() == NEVER
    watermark.look({0}, 60 * SECOND, exhaustive=True)
    assert watermark.current_us() == 95 * SECOND
    watermark.value_us = watermark.current_us()
    watermark.look({1}, 61 * SECOND, exhaustive=True)
    watermark.observe(1, 40 * SECOND, 0)
    assert watermark.current_us() == 95 * SECOND, "it never goes back"
    watermark.observe(0, 200 * SECOND, 0)
    assert watermark.current_us() == 95 * SECOND, "and the one that speaks again counts"


def test_silence_counts_only_while_somebody_listens() -> None:
    restarted = made(idle_seconds=60)
    restarted.observe(0, SECOND, 0)
    restarted.look({0}, 1_000 * HOUR, exhaustive=True)
    assert restarted.current_us() == NEVER, "the first look of a process tells of no silence"
    stopped = made(idle_seconds=60)
    stopped.observe(0, SECOND, 0)
    stopped.look({0}, 0, exhaustive=False)
    stopped.look({0}, HOUR, exhaustive=False)
    assert stopped.current_us() == NEVER, "what a fetch did not bring may be under way"
    for number in range(60):
        stopped.look({0}, HOUR + number * LISTENING_US, exhaustive=False)
    assert stopped.current_us() == SECOND - 5 * SECOND


def test_once_all_are_silent_the_furthest_counts_and_goes_on_with_the_clock_if_wanted() -> None:
    for advance, expected in ((False, 95), (True, 95 + 40)):
        watermark = made(idle_seconds=60, advance_when_idle=advance)
        watermark.observe(0, 100 * SECOND, 0)
        watermark.observe(1, 30 * SECOND, 0)
        watermark.look({0, 1}, 0, exhaustive=True)
        watermark.look((), 100 * SECOND, exhaustive=True)
        assert watermark.current_us() == expected * SECOND


def test_without_a_bound_for_silence_a_partition_is_waited_for() -> None:
    watermark = made(idle_seconds=None)
    watermark.observe(0, 100 * SECOND, 0)
    watermark.look((), 0, exhaustive=True)
    watermark.look((), 1_000 * HOUR, exhaustive=True)
    assert watermark.current_us() == NEVER


def test_a_producer_with_a_wrong_clock_does_not_make_everybody_late() -> None:
    watermark = made(partitions=1, ahead_seconds=3_600)
    watermark.observe(0, 10 * SECOND, 10 * SECOND)
    watermark.observe(0, 100 * HOUR, 10 * SECOND)
    assert watermark.current_us() == 5 * SECOND
    everything = made(partitions=1, ahead_seconds=None)
    everything.observe(0, 100 * HOUR, 10 * SECOND)
    assert everything.current_us() == 100 * HOUR - 5 * SECOND


def test_negative_durations_are_refused() -> None:
    with pytest.raises(EventsError, match="disorder_seconds must not be negative"):
        EventTime(int, disorder_seconds=-1)


Step = tuple[int, int, int]


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1_000), st.integers(0, 40))),
    idle=st.sampled_from([None, 30]),
)
def test_it_never_goes_back_and_never_passes_what_an_active_partition_may_still_send(
    steps: list[Step], idle: int | None
) -> None:
    watermark = made(partitions=3, idle_seconds=idle, ahead_seconds=None)
    newest: dict[int, int] = {}
    heard_at = dict.fromkeys(range(3), 0)
    now = 0
    watermark.look((), now, exhaustive=True)
    for partition, time, passed in steps:
        now += passed
        before = watermark.value_us
        watermark.look({partition}, now * SECOND, exhaustive=True)
        heard_at[partition] = now
        watermark.observe(partition, time * SECOND, now * SECOND)
        newest[partition] = max(newest.get(partition, 0), time)
        watermark.value_us = watermark.current_us()
        assert watermark.value_us >= before
        active = [p for p, at in heard_at.items() if idle is None or now - at < idle]
        bound = min((newest.get(p, NEVER) for p in active), default=NEVER)
        if watermark.value_us > before:
            assert watermark.value_us == (bound - 5) * SECOND
