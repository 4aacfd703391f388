"""h2spec, the conformance suite of HTTP/2 and HPACK, against the gateway: all of it."""

import socket
import subprocess
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest
from secure import secure
from upstream import Asked, sized

from counterfoil.engines import packages
from counterfoil.engines.errors import NotInstalled

SUITE: Final = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
CASES: Final = 145


def test_every_case_of_h2spec_passes(tmp_path: Path) -> None:
    try:
        program = packages.go("h2spec-2.2.1", SUITE, print)
    except NotInstalled as error:
        pytest.skip(f"h2spec can't be had: {error}")

    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(b"" if asked.line.startswith("HEAD") else b"answer"))

    report = tmp_path / "report.xml"
    with secure(tmp_path, answer) as gateway:
        options = ["-t", "-k", "-h", "127.0.0.1", "-p", str(gateway.port), "-P", "/s/a"]
        subprocess.run(
            [program, *options, "-j", report], check=False, stdout=subprocess.PIPE, timeout=120
        )
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if any(child.tag in ("failure", "error", "skipped") for child in case)
    ]
    assert (len(cases), failed) == (CASES, [])
