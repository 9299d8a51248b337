"""What ``neoxrun download`` prints: text for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neoxrun.download.catalog import Catalog
from neoxrun.download.order import Downloaded, Order
from neoxrun.download.urls import shown_url
from neoxrun.download.verify import Verdict
from neoxrun.terminal.words import counted, human_bytes


def human_size(size: int | None) -> str:
    """A number of bytes for people; ``?`` if it is not known."""
    return "?" if size is None else human_bytes(size)


def text_table(rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns of text, two spaces apart; those at the indices in ``right`` are flush right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def catalog_table(catalog: Catalog) -> str:
    """Everything that can be downloaded by name."""
    models = [("MODEL", "SIZE", "FOLDER", "LICENCE", "DESCRIPTION")]
    for model in catalog.models.values():
        size = "?" if model.size is None else "~ " + human_size(model.size)
        models.append((model.name, size, model.folder, model.licence or "?", model.about))
    tasks = [("DATA OF TASK", "SIZE", "DESCRIPTION")]
    for task in catalog.tasks.values():
        tasks.append((task.name, human_size(total_size(file.size for file in task.files)), task.about))
    text = text_table(models, (1,)) + "\n" + text_table(tasks, (1,))
    revised = {model.revisions for model in catalog.models.values() if model.revisions != "main"}
    for revisions in sorted(revised):
        names = [model.name for model in catalog.models.values() if model.revisions == revisions]
        text += f"\n--revision for {names[0]} and {len(names) - 1} others: {revisions}\n"
    return text + "Any other repository with GPT-NeoX weights on the Hugging Face hub: OWNER/NAME.\n"


def catalog_json(catalog: Catalog) -> dict[str, Any]:
    """The catalog for programs."""
    models = [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "size": model.size,
            "folder": model.folder,
            "config": model.config,
            "hub": model.hub,
            "revisions": model.revisions,
            "mirrors": [shown_url(url) for url in model.mirrors],
            "files": len(model.files) or None,
        }
        for model in catalog.models.values()
    ]
    tasks = [
        {"name": task.name, "about": task.about, "files": [file.name for file in task.files]}
        for task in catalog.tasks.values()
    ]
    return {"models": models, "tasks": tasks}


def total_size(sizes: Iterable[int | None]) -> int | None:
    """The sum of sizes in bytes; None if one of them is not known."""
    known = list(sizes)
    return None if None in known else sum(size or 0 for size in known)


def order_table(order: Order, sizes: Mapping[str, int | None]) -> str:
    """What would be fetched, and from where; ``sizes`` by name, None if not known."""
    rows = [("FILE", "SIZE", "HERE", "FROM")]
    for file in order.files:
        size = sizes[file.name]
        rows.append((file.name, human_size(size), _here(order, file.name, size), shown_url(file.urls[0])))
    whole = total_size(sizes.values())
    size_text = f"about {human_size(order.size)}" if order.size else "size not known"
    size_text = size_text if whole is None else human_size(whole)
    text = text_table(rows, (1,)) + f"\n{counted(len(order.files), 'file')}, {size_text}, into {order.folder}\n"
    mirrors = dict.fromkeys(_folder(url, file.name) for file in order.files for url in file.urls[1:])
    return text + "".join(f"if that fails: {mirror}\n" for mirror in mirrors)


def _folder(url: str, name: str) -> str:
    """The folder of a mirror, or the whole address if the mirror's file has another name."""
    return shown_url(url).removesuffix(name)


def _here(order: Order, name: str, size: int | None) -> str:
    """Whether a file is present; only its size is compared."""
    path = order.folder / name
    if not path.is_file():
        return "no"
    return "yes" if size in (None, path.stat().st_size) else "differs"


def order_json(order: Order, sizes: Mapping[str, int | None]) -> dict[str, Any]:
    """What would be fetched, for programs."""
    files = [
        {
            "name": file.name,
            "size": sizes[file.name],
            "sha256": file.sha256,
            "here": _here(order, file.name, sizes[file.name]),
            "urls": [shown_url(url) for url in file.urls],
        }
        for file in order.files
    ]
    return {
        "name": order.name,
        "folder": str(order.folder),
        "revision": order.source.revision,
        "size": total_size(sizes.values()),
        "files": files,
    }


def done_json(order: Order, done: Downloaded, following: str | None) -> dict[str, Any]:
    """The result of a download, for programs."""
    files = [
        {
            "name": arrival.name,
            "size": arrival.size,
            "sha256": arrival.sha256,
            "url": arrival.url,
            "seconds": round(arrival.seconds, 3),
        }
        for arrival in done.arrivals
    ]
    return {
        "name": order.name,
        "folder": str(order.folder),
        "revision": order.source.revision,
        "size": sum(arrival.size for arrival in done.arrivals),
        "fetched_files": len(done.fetched),
        "fetched_bytes": sum(arrival.size for arrival in done.fetched),
        "seconds": round(done.seconds, 3),
        "manifest": str(done.manifest),
        "next": following,
        "files": files,
    }


def verdict_table(verdict: Verdict) -> str:
    """The files that are wrong, and why."""
    return text_table((name, why) for name, why in verdict.wrong.items()) if verdict.wrong else ""


def verdict_json(verdict: Verdict, repaired: Sequence[str] | None = None) -> dict[str, Any]:
    """The result of a check, for programs."""
    content: dict[str, Any] = {
        "folder": str(verdict.folder),
        "right": list(verdict.right),
        "unrecorded": list(verdict.unrecorded),
        "wrong": dict(verdict.wrong),
    }
    if repaired is not None:
        content["repaired"] = list(repaired)
    return content


def size_on_disk(folder: Path, names: Iterable[str]) -> int:
    """The total bytes of some files in a folder."""
    return sum((folder / name).stat().st_size for name in names)
