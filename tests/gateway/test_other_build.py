"""A native part that is older than the Python beside it: what a start says then."""

import json

import pytest

from counterfoil.gateway import data_plane
from counterfoil.gateway.config import GatewayConfig
from counterfoil.gateway.data_plane import DataPlane, GatewayError


def test_a_field_that_the_native_part_does_not_know_is_told_as_another_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = data_plane._document  # pyright: ignore[reportPrivateUsage]  # what a later Python writes

    def later(*arguments: object) -> str:
        return json.dumps({**json.loads(write(*arguments)), "of_next_year": 1})  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(data_plane, "_document", later)
    config = GatewayConfig(listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off")
    with pytest.raises(GatewayError, match=r"of another build.*of_next_year") as found:
        DataPlane(config, access_log=None, admin_credential="c" * 32)
    assert "make" in found.value.hint
