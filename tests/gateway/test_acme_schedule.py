"""When certificates are renewed and tried again: what holds whatever directories and chance say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.gateway.acme import Acme, schedule
from counterfoil.gateway.acme.schedule import Allowance, Pace
from counterfoil.gateway.config import GatewayConfig

DAY = 86_400.0
times = st.floats(0, 4e9)
draws = st.floats(0, 1)
lives = st.floats(600, 400 * DAY)


@given(times, lives, draws)
def test_a_certificate_is_renewed_at_two_thirds_of_its_life_at_the_latest(
    begun: float, life: float, draw: float
) -> None:
    at = schedule.by_lifetime(begun, (begun, begun + life), draw)
    assert 0.6 * life < at - begun <= 0.667 * life


@given(times, st.floats(0, 1), times, lives, draws)
def test_a_directory_that_gives_what_is_nearly_over_is_not_asked_at_once_again(
    issued: float, gone: float, start: float, life: float, draw: float
) -> None:
    lifetime = (issued - gone * life, issued + (1 - gone) * life)
    for at in (
        schedule.by_lifetime(issued, lifetime, draw),
        schedule.by_window((start, start), issued, lifetime, draw),
    ):
        assert at - issued > min(3600, life / 3) - 1e-3


def test_a_clock_that_was_set_back_does_not_end_what_may_be_ordered() -> None:
    allowance = Allowance(burst=2, seconds=60.0)
    assert allowance.wait(1e9) == 0
    assert 0 < allowance.wait(0.0) <= 60
    assert allowance.wait(60.0) == 0


@given(times, times, times, lives, draws)
def test_a_directory_renews_neither_at_once_again_nor_too_late(
    start: float, end: float, issued: float, life: float, draw: float
) -> None:
    lifetime = (issued, issued + life)
    at = schedule.by_window((start, end), issued, lifetime, draw)
    rounding = 1e-3  # of times of today as floats
    assert issued + min(3600, life / 3) - rounding <= at <= issued + 0.9 * life + rounding


@given(st.floats(0, 100 * DAY), draws)
def test_a_renewal_is_within_the_window_that_was_suggested(start: float, draw: float) -> None:
    start += DAY
    at = schedule.by_window((start, start + DAY), 0.0, (0.0, 200 * DAY), draw)
    assert start <= at <= start + DAY


@given(draws, st.floats(0, 3600))
def test_a_name_is_refused_less_than_five_times_in_any_hour(draw: float, start: float) -> None:
    pace, now, tries = Pace(), 0.0, list[float]()
    for failures in range(1, 30):
        tries.append(now)
        now += pace.refused(failures, draw)
    for first in tries:
        assert len([each for each in tries if first <= each <= first + 3600]) < 5


def test_a_hundred_names_that_fail_stay_within_three_hundred_orders_in_three_hours() -> None:
    allowance, made = Allowance(), list[float]()
    for second in range(6 * 3600):
        while allowance.wait(float(second)) == 0:
            made.append(second)
    for first in made[:: len(made) // 50]:
        assert len([each for each in made if first <= each < first + 3 * 3600]) < 300


def test_waits_grow_to_their_limits() -> None:
    pace = Pace()
    assert pace.refused(1, 0.0) == 300
    assert pace.refused(1, 0.0, limited=True) == 3600
    assert pace.refused(1_000, 1.0) == pytest.approx(12 * 3600 * 1.1)
    assert pace.unavailable(1, 0.0) == 30
    assert pace.unavailable(1_000, 0.0) == 3600


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hosts": ("shop.example",), "terms_agreed": False}, "terms_agreed = true"),
        ({"hosts": ()}, "1 to 100 names"),
        ({"hosts": ("*.shop.example",)}, "a wildcard takes a proof by DNS"),
        ({"hosts": ("Shop.example",)}, "in lower case"),
        ({"hosts": ("localhost",)}, "no name of a host"),
        ({"hosts": ("10.0.0.1",)}, "no name of a host"),
        ({"hosts": ("../shop.example",)}, "no name of a host"),
        ({"hosts": ("shop.example", "shop.example")}, "different names"),
        ({"hosts": ("shop.example",), "directory": "http://ca"}, "begins with https://"),
        ({"hosts": ("shop.example",), "email": "me"}, "is no address"),
    ],
)
def test_settings_that_cant_be_meant_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Acme(**{"terms_agreed": True, **settings})


def test_certificates_of_a_directory_need_tls() -> None:
    with pytest.raises(ValueError, match="need TLS"):
        GatewayConfig(tls="off", acme=Acme(hosts=("shop.example",), terms_agreed=True))
