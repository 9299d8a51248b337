"""A dialogue at the terminal: prompts from stdin, streamed answers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import IO

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine
from neoxrun.engine.session import Session
from neoxrun.generation.answer import TextGenerator
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.prompts import answers
from neoxrun.terminal.log import log


def converse(
    session: Session,
    options: GenerateOptions,
    params: SamplingParams,
    stdout: IO[str],
    announce: Callable[[], None],
) -> None:
    """Ask for a prompt, stream its answer; Ctrl-C ends the answer, Ctrl-D the dialogue.

    Args:
        session: this rank's part of the model; the rank leads.
        options: how prompts end, and what to do with long ones.
        params: how to sample.
        stdout: where the answers go.
        announce: called when Ctrl-C is taken over.
    """
    engine = Engine(session.runner, slots=1, length=session.max_context, eos=session.tokenizer.eod)
    texts = TextGenerator(
        engine,
        session.tokenizer,
        vocab_size=session.runner.stage.vocab_size,
        truncate=options.truncate,
        weights=session.weights,
    )

    def show(text: str) -> None:
        stdout.write(text)
        stdout.flush()

    number = 0
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    announce()
    asking = Prompter(options.prompt_end)
    while (context := asking.ask()) is not None:
        if not context:
            continue
        (prompt,) = answers(number, number, context, params, 1)
        number += 1
        stop = StopFlag()
        stop.install()
        failed = texts.add(prompt)
        if failed is not None:
            log.warning(failed.message)
        while texts.busy:
            texts.step(show)
            if stop.raised:
                texts.abort(show)
        show("\n")
    engine.close()


class Prompter:
    """Prompts from stdin, each up to ``prompt_end``."""

    def __init__(self, prompt_end: str) -> None:
        self._end = prompt_end
        self._typed = ""

    def ask(self) -> str | None:
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
