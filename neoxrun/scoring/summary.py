"""The sums over all documents, at the end of a run. No torch."""

from __future__ import annotations

import json
from typing import IO

from neoxrun.scoring.options import ScoreOptions
from neoxrun.terminal.log import log


def write_summary(options: ScoreOptions, stdout: IO[str]) -> None:
    """Print the sums, where that is asked for, to stdout, or to stderr where stdout has the records."""
    if not options.summary:
        return
    totals = options.totals
    if options.output is None:
        for line in totals.to_table().splitlines():
            log.info(line)
        return
    summary = totals.to_dict() | {"context": options.context, "stride": options.stride, "output": str(options.output)}
    stdout.write(json.dumps(summary, ensure_ascii=False) + "\n" if options.as_json else totals.to_table())
    stdout.flush()
