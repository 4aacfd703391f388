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
        ("instances = 2", "instnaces = 2", 5, "did you mean instances?"),
        ("rate = 100", "per_second = 100", 9, "known here: algorithm, burst"),
        ("rate = 100", 'rate = "100"', 9, "hint: write a number"),
        ("rate = 100", "rate = 100\nalgorithm = 'leaky'", 10, '"gcra", "sliding_counter"'),
        ('methods = ["POST"]', "", 12, "`methods` is missing"),
        ('methods = ["POST"]', "methods = []", 12, "lets nothing in"),
        ('methods = ["POST"]', 'methods = ["post"]', 12, "in capitals"),
        ('methods = ["POST"]', 'methods = "POST"', 14, "write an array"),
        ('path = "/payments"', 'path = "payments"', 12, "begin it with a slash"),
        ('path = "/payments"', 'path = "/payments/*/refund"', 12, "at the end alone"),
        ("[gateway.limits", '[gateway]\nlisten = "8443"\n[gateway.limits', 8, "no address"),
        (
            "[gateway.limits",
            '[gateway]\nadmin = "127.0.0.1:8443"\n[gateway.limits',
            8,
            "are both 127.0.0.1:8443",
        ),
        (
            "[gateway.limits",
            '[gateway.identity]\nissuer = "http://i"\naudience = ["shop"]\n[gateway.limits',
            9,
            "write text in quotes",
        ),
        ("[gateway.limits", "[gateway.services.payment]\n[gateway.limits", 7, "no service"),
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
        (
            'limits = ["tenant"]',
            'limits = ["tenant"]\n[gateway.routes.compression]\nencodings = ["deflate"]',
            18,
            "deflate",
        ),
        (
            'limits = ["tenant"]',
            'limits = ["tenant"]\n[gateway.routes.compression]\ntypes = ["text"]',
            18,
            "use text/html",
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


@pytest.mark.parametrize(
    ("settings", "says", "remedy"),
    [
        ('protocol = "SASL_SSL"', "SASL_SSL asks for a user", "set user"),
        ('user = "shop"', "PLAINTEXT tells brokers no user", 'protocol = "SASL_SSL"'),
        ('protocol = "SSL"\nuser = "shop"', "SSL tells brokers no user", "take user out"),
        ('ca = "ca.pem"', "PLAINTEXT has no use for ca", 'protocol = "SASL_SSL"'),
        ('protocol = "SSL"\nca = "nowhere.pem"', "there is no file", "correct ca"),
        ('protocol = "SSL"\nkey = "ca.pem"', "a key without its certificate", "set certificate"),
        ('protocol = "SSL"\ncertificate = "ca.pem"', "without its key", "set key"),
        ('protocol = "TLS"', "Invalid enum value 'TLS'", ""),
        ('protocol = "SASL_SSL"\nmechanism = "GSSAPI"', "Invalid enum value 'GSSAPI'", ""),
        ('password = "hush"', "no setting `password`", ""),
    ],
)
def test_access_to_kafka_that_can_not_work_or_is_less_than_was_meant_is_refused(
    tmp_path: Path, settings: str, says: str, remedy: str
) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ConfigurationError) as refused:
        load(write(tmp_path, f"{GOOD}\n[kafka]\n{settings}\n"))
    assert says in str(refused.value)
    assert remedy in str(refused.value)
    line = len(f"{GOOD}\n[kafka]\n{settings}\n".splitlines())
    assert any(f"line {near}:" in str(refused.value) for near in (line - 1, line))


def test_paths_of_certificates_hold_wherever_a_process_stands(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    found = load(write(tmp_path, f'{GOOD}\n[kafka]\nprotocol = "SSL"\nca = "ca.pem"\n'))
    assert found.kafka.ca == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("address", "ca", "says"),
    [
        ("", "ca.pem", "a registry that is started here has no use for ca"),
        ("http://shop@10.0.0.4:8081", "ca.pem", "has no use for ca"),
        ("https://shop@10.0.0.4:8081", "nowhere.pem", "there is no file"),
    ],
)
def test_an_authority_that_would_vouch_for_no_registry_is_refused(
    tmp_path: Path, address: str, ca: str, says: str
) -> None:
    (tmp_path / "ca.pem").touch()
    settings = f'\n[addresses]\nregistry = "{address}"\n[registry]\nca = "{ca}"\n'
    with pytest.raises(ConfigurationError) as refused:
        load(write(tmp_path, GOOD + settings))
    assert says in str(refused.value)
    assert f"line {len((GOOD + settings).splitlines())}:" in str(refused.value)


def test_the_authority_of_a_registry_is_a_path_that_holds_anywhere(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    settings = '\n[addresses]\nregistry = "https://r:8081"\n[registry]\nca = "ca.pem"\n'
    assert load(write(tmp_path, GOOD + settings)).registry.ca == str(tmp_path / "ca.pem")
