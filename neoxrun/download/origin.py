"""Where on the hub a checkpoint came from."""

from __future__ import annotations

from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.download.manifest import read_folder_manifest
from neoxrun.errors import DataError


def origin_of(found: Checkpoint) -> dict[str, str]:
    """The ``repository`` and ``commit`` of a checkpoint that neoxrun has downloaded; empty for any other.

    Files whose sizes have changed since then are another checkpoint.
    """
    try:
        manifest = read_folder_manifest(found.folder)
    except DataError:
        return {}
    if manifest is None or manifest.hub is None or manifest.revision is None:
        return {}
    listed = {name: entry.size for name, entry in manifest.files.items()}
    if any(listed.get(path.name) != path.stat().st_size for path in found.files):
        return {}
    return {"repository": manifest.hub, "commit": manifest.revision}
