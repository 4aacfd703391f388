"""The folder of a running application: what must be whole or not there at all."""

import os
from pathlib import Path

import pytest

from counterfoil.application import ConfigurationError, StateFolder


def test_a_credential_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    credential = state.credential()
    assert len(credential) >= 32
    assert state.credential() == StateFolder(tmp_path).credential() == credential
    assert state.credential_file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [state.credential_file]


def test_a_disk_that_is_full_leaves_no_empty_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    state = StateFolder(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        state.credential()
    assert list(tmp_path.iterdir()) == []
    assert state.credential()


def test_an_empty_credential_lets_nobody_in(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.credential_file.write_text("")
    with pytest.raises(ConfigurationError, match="is empty"):
        state.credential()
