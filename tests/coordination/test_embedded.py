"""What is the embedded engine's own."""

import pytest

from counterfoil.coordination import EmbeddedClient, Unavailable


def test_without_the_credential_nothing_is_told(node: str) -> None:
    with pytest.raises(Unavailable):
        EmbeddedClient(node, "guess").range("/")
