"""The Python API on two pipeline stages, of which only rank 0's processor has bf16. Argument: folder to save in."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from neoxrun import LLM, SamplingParams
from neoxrun.planning.devices import cpu_device
from neoxrun.serving import local


def main() -> None:
    (folder,) = sys.argv[1:]
    rank = os.environ["RANK"]
    local.cpu_device = lambda: replace(cpu_device(), native_bf16=rank == "0")  # type: ignore[attr-defined]
    with LLM("demo", pp=2, device="cpu") as model:
        (record,) = model.generate(["import os"], SamplingParams(temperature=0, maximum_tokens=8))
        session = model._backend._session  # type: ignore[attr-defined]
        found = {"weights": session.replica.stage.precisions.weights, "text": record.text}
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
