"""The hook of docs/hooks.md in an application that runs whole."""

import re
from pathlib import Path

from running import running

from counterfoil.cli import scaffold

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
TRANSFER = {"payer": "ada", "payee": "bob", "amount": 5, "currency": "EUR"}


def test_a_declared_hook_is_started_and_asked(tmp_path: Path) -> None:
    folder = tmp_path / "purse"
    scaffold.write_application(folder)
    text = PAGE.read_text()
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (settings,) = re.findall(r"```toml\n(.*?)\[\[", text, re.DOTALL)
    code = folder / "purse.py"
    code.write_text(code.read_text() + python)
    configuration = folder / "counterfoil.toml"
    route = 'methods = ["POST"]\n'
    hooked = configuration.read_text().replace(route, f'{route}hooks = ["screening"]\n')
    configuration.write_text(f"{hooked}\n{settings}")
    with running(folder, tmp_path / "state") as purse, purse.client() as client:
        for country, status in (("XX", 403), ("DE", 201)):
            headers = {
                "authorization": f"Bearer {purse.token()}",
                "idempotency-key": country,
                "x-country": country,
            }
            answer = client.post("/transfers", json=TRANSFER, headers=headers)
            assert answer.status_code == status, answer.text
