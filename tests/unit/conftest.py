"""For unit tests: what `tests/conftest.py` sets for servers in processes of their own is not seen here."""

import pytest


@pytest.fixture(autouse=True)
def no_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults are the defaults."""
    monkeypatch.delenv("OPSIN_DETECTORS__RUNTIME", raising=False)
