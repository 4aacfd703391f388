"""The end of a log: whole lines, bounded, of a file that is written to meanwhile."""

from pathlib import Path

from counterfoil.supervisor.log_tail import TAIL_BYTES, log_tail


def test_the_last_lines_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "ledger.log"
    log.write_bytes(b"one\ntwo\r\xff\nthree\nfou")
    found = log_tail(log, 2)
    assert found.lines == ["two\r\ufffd", "three"]
    assert (found.size, found.end, found.is_whole) == (log.stat().st_size, 16, False)
    log.write_bytes(log.read_bytes() + b"r\n")
    assert log_tail(log, 9).lines[-1] == "four"
    assert log_tail(log, 9).is_whole


def test_of_a_large_log_the_end_alone_is_read(tmp_path: Path) -> None:
    log = tmp_path / "ledger.log"
    log.write_text("".join(f"{number:0100}\n" for number in range(10_000)))
    found = log_tail(log, 1_000_000)
    assert len(found.lines) == TAIL_BYTES // 101
    assert {len(line) for line in found.lines} == {100}
    assert found.lines[-1] == f"{9_999:0100}"
    assert not found.is_whole


def test_a_process_that_has_written_nothing_has_no_lines(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "ledger.log", 5).lines == []
