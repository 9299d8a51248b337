"""A dialogue at the terminal: prompts from stdin, streamed answers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import IO

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.session import Session
from neoxrun.generation.generator import TextGenerator, prompt_encoder
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.prompts import expand_prompt
from neoxrun.terminal.log import log


def converse(
    session: Session,
    options: GenerateOptions,
    params: SamplingParams,
    stdout: IO[str],
    announce: Callable[[], None],
) -> None:
    """Ask for prompts and stream their answers; Ctrl-C ends an answer, Ctrl-D the dialogue.

    Args:
        session: this rank's part of the model; the rank leads.
        options: how prompts end, and what to do with long ones.
        params: how to sample.
        stdout: where the answers go.
        announce: called when Ctrl-C is taken over.
    """
    encoder = prompt_encoder(session, options.truncate)
    engine = session.start_engine(requests=1, length=session.max_context)
    texts = TextGenerator(engine, session.tokenizer, weights=session.weights)

    def show(text: str) -> None:
        stdout.write(text)
        stdout.flush()

    number = 0
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    announce()
    prompter = Prompter(options.prompt_end)
    while (context := prompter.read_prompt()) is not None:
        if not context:
            continue
        stop = StopFlag()
        stop.install()
        encoded = encoder.encode(expand_prompt(number, number, context, params, 1))
        number += 1
        for records in texts.run(encoded, show):
            for record in records:
                if record.finish_reason == "error":
                    log.warning(record.message)
            if stop.raised:
                texts.abort(show)
        show("\n")
    texts.close()
    session.replica.release_followers()


class Prompter:
    """Prompts from stdin, each up to ``prompt_end``."""

    def __init__(self, prompt_end: str) -> None:
        self._end = prompt_end
        self._typed = ""

    def read_prompt(self) -> str | None:
        """The next prompt, without white space around it; None when there are no more.

        Ctrl-C drops what has been typed.
        """
        terminal = sys.stdin.isatty()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        while self._end not in self._typed:
            try:
                if terminal:
                    print("> " if not self._typed else ". ", end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                print(file=sys.stderr)
                self._typed = ""
                continue
            if not line:
                if terminal:
                    print(file=sys.stderr)
                last, self._typed = self._typed.strip(), ""
                return last or None
            self._typed += line
        prompt, _, self._typed = self._typed.partition(self._end)
        if not self._typed.strip():
            self._typed = ""
        return prompt.strip()
