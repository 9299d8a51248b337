"""What passes, and what lasts."""

from __future__ import annotations

import pytest

from neoxrun.download.trouble import of_status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_troubles(status: int) -> None:
    assert of_status(status, "", None, 60).again


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 405, 410, 451, 501, 505])
def test_lasting_troubles(status: int) -> None:
    assert not of_status(status, "", None, 60).again
