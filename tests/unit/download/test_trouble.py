"""What passes, and what lasts."""

from __future__ import annotations

import pytest

from neoxrun.download.trouble import status_trouble


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_troubles(status: int) -> None:
    assert status_trouble(status, "", None, 60).again


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 405, 410, 451, 501, 505])
def test_lasting_troubles(status: int) -> None:
    assert not status_trouble(status, "", None, 60).again
