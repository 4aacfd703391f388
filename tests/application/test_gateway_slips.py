"""Settings of the gateway that can be typed but not be meant: refused, with line and remedy."""

from pathlib import Path

import pytest

from counterfoil.application import ConfigurationError, load

GOOD = """\
[application]
module = "shop:app"

[services.payments]

[gateway]
cache_bytes = 67108864

[gateway.api_keys.billing]
sha256 = "1111111111111111111111111111111111111111111111111111111111111111"
tenant = "aurora"

[[gateway.routes]]
path = "/payments"
methods = ["GET", "REPORT", "PURGE"]
service = "payments"
"""
SECOND = """
[[gateway.routes]]
path = "/payments"
methods = ["GET"]
service = "payments"
"""


def read(folder: Path, text: str) -> None:
    (folder / "counterfoil.toml").write_text(text)
    load(folder)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(folder, text)
    return str(refused.value).removeprefix(f"{folder / 'counterfoil.toml'}, ")


def test_what_this_begins_with_is_good(tmp_path: Path) -> None:
    read(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('methods = ["GTE"]', "GTE is no method: did you mean GET?"),
        ('methods = ["POTS"]', "did you mean POST?"),
        ('methods = ["*"]', "name its methods"),
        ('path = "/payments?of=me"', "leave out query"),
        ('path = "/payments/{id}"', "placeholders"),
        ('path = "/a/../b"', ". and .."),
        ('path = "/two words"', "no path of a request"),
        ('path = "/%70ayments"', "write p in place of %70"),
        ('hosts = ["https://shop.example"]', "without scheme"),
        ('hosts = ["shop.example:8443"]', "without scheme, port"),
        ('hosts = ["*shop.example"]', "no name such as"),
        ('hosts = ["*"]', "leave hosts out"),
        ('headers = { "api version" = "2" }', "no name of a header"),
        ('headers = { host = "shop.example" }', "asked for by hosts"),
        ('headers = { api-version = " 2" }', "see to its spaces"),
        ('upgrades = [""]', "no protocol"),
        ('cors = { origins = ["https://shop.example:99999"] }', "no origin"),
        ('redirect = { host = "shop.example:99999" }', "no name or address"),
    ],
)
def test_a_route_that_nobody_could_ask_is_refused(tmp_path: Path, wrong: str, says: str) -> None:
    name = wrong.partition(" ")[0]
    kept = [line for line in GOOD.splitlines() if not line.startswith(f"{name} =")]
    said = refusal(tmp_path, "\n".join([*kept, wrong]))
    assert says in said
    assert said.startswith(("line 12", "line 13", "line 16", "line 17")), said


@pytest.mark.parametrize(
    ("before", "after", "line", "says"),
    [
        ("tenant =", 'tier = "goldd"\ntenant =', 11, "use one of: gold, silver, bronze"),
        ("67108864", "99999999999999999999", 7, "99999999999999999999 is too large"),
        ("cache_bytes", 'tiers = [""]\ncache_bytes', 6, "no name"),
        (
            "[gateway.api_keys",
            '[gateway.identity]\nissuer = "http://i"\naudience = ""\n[gateway.api_keys',
            9,
            "audience is empty",
        ),
        (
            "[gateway.api_keys",
            '[gateway.telemetry]\notlp_url = "http://:4318"\n[gateway.api_keys',
            9,
            "no address",
        ),
        (
            "[gateway.api_keys",
            '[gateway.telemetry]\notlp_url = "http://c:4318/v1/traces"\n[gateway.api_keys',
            9,
            "leave /v1/traces out",
        ),
        (
            "[gateway.api_keys",
            "[gateway.services.payments]\nhedge_after_seconds = 5.0\n[gateway.api_keys",
            9,
            "less than attempt_timeout_seconds",
        ),
    ],
)
def test_a_setting_that_would_mean_something_else_is_refused(
    tmp_path: Path, before: str, after: str, line: int, says: str
) -> None:
    said = refusal(tmp_path, GOOD.replace(before, after, 1))
    assert says in said
    assert said.startswith(f"line {line}: ")


@pytest.mark.parametrize("address", ["localhost:8443", "::1:8443", "[127.0.0.1]:8443", "x:8443"])
@pytest.mark.parametrize("setting", ["listen", "admin"])
def test_the_gateway_listens_on_addresses_of_ip_alone(
    tmp_path: Path, setting: str, address: str
) -> None:
    said = refusal(tmp_path, GOOD.replace("cache_bytes", f'{setting} = "{address}"\ncache_bytes'))
    assert said.startswith(f"line 7: gateway.{setting} = {address!r} is no address of IP")


@pytest.mark.parametrize("address", ["0.0.0.0:443", "[::]:443", "[::1]:8443"])
def test_the_gateway_listens_on_either_ip(tmp_path: Path, address: str) -> None:
    read(tmp_path, GOOD.replace("cache_bytes", f'listen = "{address}"\ncache_bytes'))


def test_a_key_of_two_tenants_is_refused(tmp_path: Path) -> None:
    digest = "1" * 64
    again = f'[gateway.api_keys.again]\nsha256 = "{digest}"\ntenant = "borealis"\n'
    said = refusal(tmp_path, GOOD.replace("[[gateway.routes]]", f"{again}\n[[gateway.routes]]"))
    assert said.startswith("line 14: again and billing are the same key")


@pytest.mark.parametrize("more", ["", 'hosts = ["a.example"]', 'headers = { api-version = "2" }'])
def test_a_route_that_is_never_asked_is_refused(tmp_path: Path, more: str) -> None:
    said = refusal(tmp_path, GOOD + SECOND + more)
    assert said.startswith("line 18: route /payments is never asked")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('hosts = ["a.example"]', ""),
        ('hosts = ["a.example"]', 'hosts = ["*.example"]'),
        ('headers = { api-version = "1" }', 'headers = { api-version = "2" }'),
        ("", 'methods = ["GET", "POST"]'),
    ],
)
def test_routes_that_share_a_path_are_good_where_each_is_asked(
    tmp_path: Path, first: str, second: str
) -> None:
    after = SECOND.replace('methods = ["GET"]\n', "") if "methods" in second else SECOND
    read(tmp_path, "\n".join([GOOD + first, after + second]))


def test_a_name_below_one_that_an_earlier_route_takes_is_never_asked(tmp_path: Path) -> None:
    text = GOOD + 'hosts = ["*.example"]\n' + SECOND + 'hosts = ["a.example"]\n'
    assert "is never asked" in refusal(tmp_path, text)
