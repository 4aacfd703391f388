"""Applications need the public API alone: what the examples import is all that anyone needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import counterfoil
from counterfoil.cli import scaffold

SHOP = Path(__file__).parents[2] / "examples" / "shop"
PUBLIC = {"counterfoil", "counterfoil.testing"}


@pytest.mark.parametrize(
    "path", [*SHOP.rglob("*.py"), *scaffold.TEMPLATE.glob("*.py")], ids=lambda path: path.name
)
def test_an_application_imports_the_public_api_alone(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            imported.add(node.module)
            if node.module == "counterfoil":
                assert {alias.name for alias in node.names} <= set(counterfoil.__all__)
    assert {name for name in imported if name.startswith("counterfoil")} <= PUBLIC


@pytest.mark.parametrize("name", counterfoil.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(counterfoil, name) is not None


def test_help_is_given_without_the_libraries_of_the_parts() -> None:
    code = "import sys, counterfoil.cli.commands; print(*sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"deltalake", "duckdb", "pyarrow", "sqlglot", "starlette", "cryptography"}
    assert heavy.isdisjoint(asked.stdout.split())
