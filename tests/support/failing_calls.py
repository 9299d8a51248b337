"""Calls of the Python API that fail under torchrun, each followed by others. Arguments: tp, pp, folder to save in."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from neoxrun import LLM
from neoxrun.engine import session
from neoxrun.engine.runner import Runner
from neoxrun.errors import NeoxrunError
from neoxrun.generation.answer import TextStream

CACHE_BYTES = 300 * 4608  # 300 tokens: the demo needs 6 layers x 192 numbers x 2 x 4 bytes a token, a rank half of it


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the code of its error."""
    try:
        return call()
    except NeoxrunError as error:
        return error.code


def calls(llm: LLM) -> dict[str, Any]:
    """What the calls give, by name, in their order."""
    score = Runner.score
    generate, pair = llm.generate, [("import", " os")]
    greedy: dict[str, Any] = {"temperature": 0, "ignore_eos": True}

    def nan(self: Runner, *given: Any) -> Any:
        return [replace(one, logprob=math.nan) for one in score(self, *given)]

    def text() -> str | None:
        return generate("import os", max_tokens=4, **greedy).text

    found = {"text": text()}
    found["prompt_too_long"] = generate("x" * 9000, max_tokens=4).code
    found["none_left"] = [one.code for one in generate(["x" * 9000], max_tokens=4)]
    found["out_of_memory"] = outcome(lambda: generate(["import os", "x"], [{"max_tokens": 400}, {"max_tokens": 4}]))
    found["text after it"] = text()
    with patch.object(Runner, "score", nan):
        found["nonfinite_output"] = outcome(lambda: llm.score(pair))
        found["of a prompt"] = outcome(lambda: generate("import os", max_tokens=4, prompt_logprobs=1))
    found["score"] = round(llm.score(pair)[0].logprob, 3)
    with patch.object(TextStream, "push", side_effect=MemoryError):  # on rank 0, which alone makes texts of tokens
        found["between steps"] = outcome(text)
    found["text at the end"] = text()
    if os.environ["RANK"] == "1":
        with patch.object(Runner, "execute", side_effect=MemoryError):
            found["in a step"] = outcome(text)
    else:
        found["in a step"] = outcome(text)
    found["later"] = [outcome(text), outcome(lambda: llm.score(pair))]
    return found


def main() -> None:
    tp, pp, folder = sys.argv[1:]
    session._cache_bytes = lambda *_: CACHE_BYTES
    with LLM("demo", tp=int(tp), pp=int(pp), device="cpu", dtype="fp32") as llm:
        found = calls(llm)
    (Path(folder) / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
