"""What keeps an application from being imported is said with the line that is to blame."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterfoil.application import ConfigurationError, load_application

Load = Callable[[str], str]


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Load]:
    """Loads an application of the given text, and returns why it can't be."""
    before = list(sys.path)

    def load(text: str, module: str = "till:app") -> str:
        (tmp_path / "till.py").write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            load_application(tmp_path, module)
        return str(caught.value)

    yield load
    sys.path[:] = before
    sys.modules.pop("till", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nraise ValueError((2)\n", r"till\.py, line 2: SyntaxError: '\(' was never closed"),
        ("x = 1\n\nprint(y)\n", r"till\.py, line 3: NameError: name 'y' is not defined"),
        ("import json\njson.loads('{')\n", r"till\.py, line 2: JSONDecodeError: "),
        ("import nowhere_to_be_found\n", r"line 1: ModuleNotFoundError: .*nowhere_to_be_found"),
        ("import json\njson.app\n", r"line 2: AttributeError: module 'json' has no attribute"),
    ],
)
def test_an_error_in_the_application_is_said_with_its_line(
    refused: Load, text: str, said: str
) -> None:
    assert re.search(said, message := refused(text)), message
    assert "[application] module" not in message, "the setting is right"


@pytest.mark.parametrize("module", ["tills:app", "till.counter:app", "till:counter"])
def test_a_module_that_is_not_there_leads_to_the_setting(
    refused: Callable[[str, str], str], module: str
) -> None:
    message = refused("app = None\n", module)
    assert "[application] module" in message
    assert module in message
