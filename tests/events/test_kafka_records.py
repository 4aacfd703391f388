"""What others write to a topic of Kafka does not stop its readers."""

from typing import cast

from confluent_kafka import Message

from counterfoil.events.kafka_client import record_of

Headers = list[tuple[str, bytes | None]]


class Foreign:
    """A message as the client hands it over, of a producer that is not ours."""

    def __init__(self, key: bytes | None, headers: Headers | None) -> None:
        self._key = key
        self._headers = headers

    def key(self) -> bytes | None:
        return self._key

    def headers(self) -> Headers | None:
        return self._headers

    def value(self) -> bytes:
        return b"\xff"

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return 2

    @property
    def message(self) -> Message:
        return cast("Message", self)


def test_a_key_or_header_that_is_no_text_is_read_with_marks_in_its_place() -> None:
    headers = [("trace", b"\x80a"), ("empty", None)]
    record = record_of(Foreign(b"\xffk", headers).message, "sales")
    assert (record.key, record.value) == ("\ufffdk", b"\xff"), "values stay as they are"
    assert record.headers == {"trace": "\ufffda", "empty": ""}


def test_an_id_or_time_that_is_no_number_to_keep_is_none() -> None:
    for given in (b"x", b"\xff", b"", None, b"9" * 5_000, str(1 << 63).encode()):
        headers: Headers = [("counterfoil-event-id", given), ("counterfoil-time-us", given)]
        record = record_of(Foreign(None, headers).message, "sales")
        assert (record.event_id, record.timestamp_us, record.headers) == (0, 0, {})


def test_a_number_counts_however_others_write_it() -> None:
    for given, number in ((b"12", 12), (b"007", 7), (b"+5", 5), (b"-3", -3), (b" 8 ", 8)):
        headers: Headers = [("counterfoil-event-id", given), ("counterfoil-time-us", given)]
        record = record_of(Foreign(None, headers).message, "sales")
        assert (record.event_id, record.timestamp_us) == (number, number)


def test_a_bare_message_is_a_record() -> None:
    record = record_of(Foreign(None, None).message, "sales")
    assert (record.partition, record.offset, record.key, record.event_id) == (1, 2, "", 0)
