"""The example of docs/services.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

from counterfoil.testing import Rehearsal

PAGE = Path(__file__).parents[2] / "docs" / "services.md"


def test_the_example_of_the_page_does_what_the_page_says() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example: dict[str, Any] = {"__name__": "services_page"}
    for block in blocks:
        exec(block, example)
    with Rehearsal(example["app"]) as rehearsal:
        made = rehearsal.post("/deposits", example["Deposit"]("ada", 5), idempotency_key="1")
        assert made.status_code == 201
        nothing = rehearsal.post("/deposits", example["Deposit"]("ada", 0), idempotency_key="2")
        assert (nothing.status_code, nothing.json()["detail"]) == (422, "deposit something")
        rehearsal.run()
        token = made.headers["counterfoil-consistency-token"]
        assert rehearsal.get("/balances/ada", token=token).json() == {"cents": 5, "deposits": 1}
        assert rehearsal.get("/balances/ada", tenant="b").json() == {"cents": 5, "deposits": 0}
        closed = rehearsal.delete("/accounts/ada?reason=moved", idempotency_key="3")
        assert (closed.status_code, closed.content) == (204, b"")
        assert rehearsal.query("notes", "SELECT author FROM notes") == []
        rehearsal.run()
        assert rehearsal.events(example["closed"]) == [example["Closed"]("ada", "moved")]
