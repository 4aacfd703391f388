"""House rules that no linter knows."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {"ticket_secret"}
"""Names of files that hold a secret, which are none themselves."""
SECRET_NAMES = r"(?:\w*_)?(?:credential|secret|password|cookie|mac)"


def lines(pattern: str) -> Iterator[tuple[str, str]]:
    """Where each line of the sources stands, and what it says, without comments."""
    for path in sorted(ROOT.glob(pattern)):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            said = re.split(r"//|#(?!\[)", line)[0]
            if said.strip():
                yield f"{path.relative_to(ROOT)}:{number}", said


def test_secrets_are_compared_in_one_place_for_each_language() -> None:
    comparison = re.compile(r"compare_digest|ct_eq|verify_slices_are_equal|constant_time::")
    found = {
        where.partition(":")[0]
        for pattern in ("src/counterfoil/**/*.py", "crates/*/src/**/*.rs")
        for where, line in lines(pattern)
        if comparison.search(line)
    }
    assert found == {"src/counterfoil/secret.py", "crates/gateway/src/secret.rs"}


def test_no_secret_is_compared_by_equality() -> None:
    """`Secret` has a comparison of its own; a secret as text or bytes must not come to `==`."""
    equality = re.compile(
        rf"\b{SECRET_NAMES}\b\s*[!=]=\s*(?!b?\"\"|None)|[!=]=\s*(?:self\.|\w+\.)*_?{SECRET_NAMES}\b(?!\()"
    )
    found = [
        (where, line.strip())
        for pattern in ("src/counterfoil/**/*.py", "crates/gateway/src/**/*.rs")
        for where, line in lines(pattern)
        if equality.search(line) and not any(name in line for name in ("admin_credential", *FILES))
    ]
    assert found == []


def source() -> str:
    return (ROOT / "crates/gateway/src/config/mod.rs").read_text()


def test_secrets_in_the_gateways_configuration_are_of_the_type_for_secrets() -> None:
    field = re.compile(rf"pub ({SECRET_NAMES}): (.+),")
    types = {
        found[1]: found[2]
        for _, line in lines("crates/gateway/src/config/*.rs")
        if (found := field.search(line)) and found[1] not in FILES
    }
    assert types
    hidden = set(re.findall(r'"(\w+)"', re.search(r"const SECRETS.*", source())[0]))  # type: ignore[index]
    assert set(types) <= hidden, "GET /config would show it"
    assert set(types.values()) == {"Secret"}
