"""The public HTTP cache suite against the gateway, as `make bench-cache` runs it beside nginx."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def test_the_required_tests_of_the_public_cache_suite_pass_or_fail_for_a_reason(
    tmp_path: Path,
) -> None:
    if not (BENCH / "cache-suite" / "node_modules").exists():
        pytest.skip("the suite is not installed: make cache-suite")
    result = tmp_path / "cache.json"
    command = [sys.executable, str(BENCH / "cache.py"), "--peer", "none", "--json-out", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (required,) = [
        case for case in json.loads(result.read_text())["cases"] if "required" in case["name"]
    ]
    assert required["ours"] >= 150
