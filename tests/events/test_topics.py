"""Names of topics: what both engines take, and what no two of them can be joined to alike."""

import pytest

from counterfoil.events import EventsError, Topic
from counterfoil.events.rows import _place
from counterfoil.events.shares import ALL, Share

from .test_exactly_once import Paid


@pytest.mark.parametrize("name", ["", "price eu", "price/eu", "price\0", "preis.größe", "a" * 201])
def test_a_topic_is_called_what_both_engines_take(name: str) -> None:
    with pytest.raises(EventsError, match="can't be called"):
        Topic(name, Paid)


def test_rows_of_two_tables_are_never_kept_under_one_key() -> None:
    names = ["price", "price.eu", "price-eu", "price_eu", "price.eu-7"]
    keys, copies = ("7", "eu 7", ".eu 7"), (ALL, Share(0, 2), Share(1, 2))
    places = {
        _place(Topic(name, Paid), key, copy) for name in names for key in keys for copy in copies
    }
    assert len(places) == len(names) * len(keys) * len(copies)
