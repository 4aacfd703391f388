"""A corrupt configuration stops with file, line and remedy."""

from pathlib import Path

import pytest

from counterfoil.application import ConfigurationError, load

GOOD = """\
[application]
module = "shop:app"

[services.payments]
instances = 2

[gateway.limits.tenant]
key = "tenant"
rate = 100
burst = 100

[[gateway.routes]]
path = "/payments"
methods = ["POST"]
service = "payments"
limits = ["tenant"]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "counterfoil.toml").write_text(text)
    return folder


def test_a_good_configuration_is_read_with_its_defaults(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, GOOD))
    assert configuration.services["payments"].instances == 2
    assert configuration.engines.events == "embedded"
    assert configuration.issuer is None


@pytest.mark.parametrize(
    ("before", "after", "line", "says"),
    [
        ("instances = 2", "instances = 0", 5, "between 1 and 64"),
        ("instances = 2", 'instances = "two"', 5, "Expected `int`"),
        ("instances = 2", "instnaces = 2", 5, "instnaces"),
        ('service = "payments"', 'service = "payment"', 15, "unknown service"),
        ('limits = ["tenant"]', 'limits = ["tenants"]', 16, "unknown limit"),
        ('limits = ["tenant"]', 'hooks = ["fraud"]', 16, "unknown hook"),
        ('key = "tenant"', 'key = "planet"', 8, "planet"),
        (
            'limits = ["tenant"]',
            '[gateway.routes.cors]\norigins = ["*"]\ncredentials = true',
            16,
            "credentials can't go with *",
        ),
        (
            'limits = ["tenant"]',
            'rewrite = { prefix = "/pay" }',
            12,
            "not all paths of /payments begin with /pay",
        ),
        (
            'limits = ["tenant"]',
            '[gateway.routes.redirect]\npath = "//evil.example"',
            16,
            "no plain path",
        ),
        (
            'limits = ["tenant"]',
            'request_headers = { set = { x-counterfoil-tenant = "t" } }',
            12,
            "gateway's to say",
        ),
        (
            "[gateway.limits",
            '[gateway.services.payments.health]\npath = "healthz"\n[gateway.limits',
            8,
            "such as /healthz",
        ),
        ("[gateway.limits", '[events]\noutbox = "log"\n[gateway.limits', 8, "SQLite has no log"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(
    tmp_path: Path, before: str, after: str, line: int, says: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(write(tmp_path, GOOD.replace(before, after)))
    message = str(refused.value)
    assert "counterfoil.toml" in message
    assert says in message
    # A wrong value in a nested table may be placed at the table's own header.
    assert any(f"line {near}:" in message for near in (line - 1, line)), message


def test_what_is_not_toml_is_refused_with_the_position(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 2"):
        load(write(tmp_path, "[application]\nmodule = \n"))


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="counterfoil new"):
        load(tmp_path)
