"""The console's answers on a running shop: the line, a trace, a dead letter, reports, no guests."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from running import COUNTERFOIL, SHOP, RunningShop

from counterfoil.console.way import STUCK_SECONDS, judge
from counterfoil.events import EmbeddedEvents, Message
from counterfoil.proof.reconcile import Sum


@pytest.fixture
def console(shop: RunningShop) -> httpx2.Client:
    client = httpx2.Client(base_url=shop.console)
    assert client.post("/api/session", json={"key": shop.key}).status_code == 204
    return client


def eventually(read: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not holds(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_nothing_is_told_without_the_key(shop: RunningShop) -> None:
    with httpx2.Client(base_url=shop.console) as guest:
        for path in ("/api/overview", "/api/dead-letters", "/reports/daily/totals.csv"):
            assert guest.get(path).status_code == 401
        assert guest.post("/api/dead-letters/1/replay").status_code == 401
        assert guest.post("/api/session", json={"key": "guess"}).status_code == 401
        assert guest.post("/api/session", content=b"{").status_code == 400
        for path in ("/", "/..%2f..%2fcredential", "/static/..%2f..%2f__main__.py"):
            assert shop.key not in guest.get(path).text
            assert "import" not in guest.get(path).text


def test_a_payment_shows_on_the_line_in_its_trace_and_in_the_report(
    shop: RunningShop, console: httpx2.Client
) -> None:
    paid = shop.pay("console-1")
    stations = ["request", "row", "outbox", "log", "ledger", "lake", "report"]
    for identity in (paid["id"], "console-1"):
        eventually(
            lambda identity=identity: [
                step["name"] for step in console.get(f"/api/trace/{identity}").json()["steps"]
            ],
            lambda names: names == stations,
        )
    overview = eventually(
        lambda: console.get("/api/overview").json(),
        lambda found: found["state"] == "equal" and found["way"] and found["way"][0]["count"] > 0,
    )
    assert [step["step"] for step in overview["way"]] == [
        "accepted",
        "posted",
        "stored",
        "reported",
    ]
    assert len({(step["count"], step["amount"]) for step in overview["way"]}) == 1
    assert {each["state"] for each in overview["processes"]} == {"ready"}
    assert console.get("/api/trace/unknown").json()["steps"] == []
    assert console.get("/api/reports").json()[0]["name"] == "daily"
    totals = console.get("/api/reports/daily").json()["sections"][0]
    assert totals["name"] == "totals"
    assert "1997-03-01" in [row[0] for row in totals["rows"]]
    assert "1997-03-01" in console.get("/reports/daily/totals.csv").text
    assert console.get("/reports/daily/report.json").status_code == 404
    assert shop.key not in console.get("/reports/daily/..%2f..%2fcredential").text


def test_a_trace_is_whole_from_a_folder_named_as_people_do(shop: RunningShop) -> None:
    shop.pay("relative-1")
    root = shop.state.root
    command = [COUNTERFOIL, "trace", "relative-1", str(SHOP), "--state", root.name, "--json"]

    def stations() -> set[str]:
        ran = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, check=True)
        return {step["name"] for step in json.loads(ran.stdout)}

    assert "report" in eventually(stations, lambda found: "report" in found)


def test_a_late_purchase_corrects_its_day_and_only_that(
    shop: RunningShop, console: httpx2.Client
) -> None:
    def days() -> dict[str, list[object]]:
        section = console.get("/api/reports/daily").json()["sections"][0]
        return {row[0]: row for row in section["rows"]}

    shop.pay("late-1", purchased_on="1997-05-01")
    shop.pay("late-2", purchased_on="1997-05-02")
    before = eventually(days, lambda found: {"1997-05-01", "1997-05-02"} <= found.keys())
    shop.pay("late-3", purchased_on="1997-05-01", amount=1)
    after = eventually(days, lambda found: found["1997-05-01"] != before["1997-05-01"])
    assert {day for day in after if after[day] != before.get(day)} == {"1997-05-01"}
    assert after["1997-05-01"][1:3] == [2, 2000]
    corrected = console.get("/api/reports/daily").json()["corrected"]
    assert "1997-05-01" in corrected
    assert "1997-05-02" not in corrected


def test_a_dead_letter_is_shown_and_replayed_once(
    shop: RunningShop, console: httpx2.Client
) -> None:
    appender = EmbeddedEvents(shop.state.root).log().appender("test", 1)
    appender.append([Message(7, "ledger.retries", "k", b"{poison", {}, 0)], 1)
    letter = eventually(
        lambda: console.get("/api/dead-letters?pipeline=ledger&key=k").json(), lambda found: found
    )[0]
    assert letter["value"] == "{poison"
    assert "DecodeError" in letter["error"]
    assert console.post(f"/api/dead-letters/{letter['id']}/replay").status_code == 200
    path = f"/api/dead-letters/{letter['id']}/replay"
    elsewhere = {"origin": "http://127.0.0.1:1"}
    assert console.post(path, headers=elsewhere).status_code == 403
    again = console.post(path, headers={"origin": shop.console})
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    # It can't be read the second time either: it is buried again, and nothing was posted.
    letters = eventually(
        lambda: console.get("/api/dead-letters?key=k").json(), lambda found: len(found) == 2
    )
    assert letters[1]["replayed_us"] is not None


def test_gateway_and_coordination_are_shown(console: httpx2.Client) -> None:
    gateway = console.get("/api/gateway").json()
    assert [limit["name"] for limit in gateway["limits"]] == ["address", "tenant"]
    assert len(gateway["services"][0]["endpoints"]) == 2
    coordination = console.get("/api/coordination").json()
    assert [leader["name"] for leader in coordination["leaders"]] == ["relay/payments"]
    assert {each["service"] for each in coordination["instances"]} == {"payments"}
    assert console.get("/api/lag").json()[0]["lag"] == 0


def test_what_is_under_way_is_told_from_what_is_lost() -> None:
    two, one = Sum(2, 20), Sum(1, 10)
    assert judge([two, two, two, two], 99.0) == "equal"
    assert judge([two, two, one, one], 1.0) == "under way"
    assert judge([two, two, one, one], STUCK_SECONDS + 1) == "broken"
    assert judge([one, two, one, one], 0.0) == "broken", "posted more than was accepted"
    assert judge([two, Sum(2, 21), two, two], 0.0) == "broken", "posted something else"
