"""The socket between a program and its ranks."""

from __future__ import annotations

from pathlib import Path

from neoxrun.serving.connection import accept, connect, listen


def test_a_folder_whose_name_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with listen(folder) as server:
        assert accept(server, 0.01) is None, "nobody has come"
        with connect(folder) as there:
            here = accept(server, 5)
            assert here is not None
            with here:
                there.send({"a": [1, 2]})
                assert here.recv() == {"a": [1, 2]}
                here.send(None)
                assert there.recv() is None
