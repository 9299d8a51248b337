"""A dialogue: prompts that are typed or come through a pipe, streamed answers, and commands such as ``/more``."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from typing import IO, Final

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.config.sampling_names import own_names
from neoxrun.config.yaml_source import read_override
from neoxrun.engine.session import Session
from neoxrun.errors import NeoxrunError
from neoxrun.generation.encoding import PromptEncoder
from neoxrun.generation.generator import TextGenerator, prompt_encoder
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.prompter import TerminalPrompter, prompter
from neoxrun.generation.prompts import expand_prompt
from neoxrun.terminal.log import log
from neoxrun.terminal.words import did_you_mean

_COMMAND: Final = re.compile(r"/[a-z?]+(\s|$)")  # and not a path
_OPENING: Final = "Enter sends a prompt, Ctrl-C stops an answer, Ctrl-D leaves. /help shows the commands."
_COMMANDS: Final = {
    "/more": "continue the last answer",
    "/set NAME VALUE": "change a sampling parameter, for example /set temperature 0.8; /set alone shows all",
    "/reset": "undo every /set, and forget the last answer",
    "/help": "show this",
    "/exit": "leave, as Ctrl-D does",
}
_NAMES: Final = [usage.split()[0] for usage in _COMMANDS]


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
        options: how prompts end, what to do with long ones, and whether to remember them.
        params: how to sample.
        stdout: where the answers go.
        announce: called when Ctrl-C is taken over.
    """
    encoder = prompt_encoder(session, options.truncate)
    engine = session.start_engine(requests=1, length=session.max_context)
    texts = TextGenerator(engine, session.tokenizer, weights=session.weights)
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    announce()
    source = prompter(options.prompt_end, keep_history=options.keep_history)
    typed = isinstance(source, TerminalPrompter)
    if typed:
        log.info(_OPENING)
    dialogue = Dialogue(encoder, texts, params, stdout)
    while (prompt := source.read_prompt()) is not None:
        # Through a pipe every text is a prompt.
        if typed and _COMMAND.match(prompt):
            if not dialogue.obey(prompt):
                break
        elif prompt:
            dialogue.answer(prompt)
    texts.close()
    session.replica.release_followers()


class Dialogue:
    """What is remembered from one prompt to the next.

    Args:
        encoder: of the prompts.
        texts: answers them.
        params: how to sample, until the user changes it.
        stdout: where the answers go.
    """

    def __init__(self, encoder: PromptEncoder, texts: TextGenerator, params: SamplingParams, stdout: IO[str]) -> None:
        self._encoder, self._texts, self._stdout = encoder, texts, stdout
        self._first = self._params = params
        self._number = 0
        self._told = ""  # the last prompt and its answer

    def answer(self, prompt: str) -> None:
        """Stream the answer to a prompt; Ctrl-C ends it."""
        stop = StopFlag()
        stop.install()
        encoded = self._encoder.encode(expand_prompt(self._number, self._number, prompt, self._params, 1))
        self._number += 1
        self._told = prompt
        for records in self._texts.run(encoded, self._show):
            for record in records:
                if record.finish_reason == "error":
                    log.warning(record.message)
            if stop.raised:
                self._texts.abort(self._show)
        self._stdout.write("\n")
        self._stdout.flush()

    def obey(self, line: str) -> bool:
        """Carry out a command; returns whether the dialogue continues after it."""
        name, *words = line.split(maxsplit=2)
        match name:
            case "/exit" | "/quit":
                return False
            case "/help" | "/?":
                log.info("\n".join(f"{usage}: {meaning}" for usage, meaning in _COMMANDS.items()))
            case "/reset":
                self._params, self._told = self._first, ""
            case "/set":
                self._set(words)
            case "/more" if self._told:
                self.answer(self._told)
            case "/more":
                log.warning("there is no answer yet")
            case _:
                near = did_you_mean(name, _NAMES, 1)
                log.warning(f"there is no command {name}. {near or 'The command /help shows them all.'}")
        return True

    def _set(self, words: list[str]) -> None:
        name = words[0].replace("-", "_") if words else ""
        try:
            (name,) = own_names({name: None}, SAMPLING_NAMES) if words else [name]
            if len(words) == 2:
                self._params = update_sampling(self._params, {name: read_override(f"{name}={words[1]}").value})
        except NeoxrunError as error:
            log.warning(f"{error.message}. {error.hint or ''}".rstrip())
            return
        shown = [name] if words else SAMPLING_NAMES
        log.info("\n".join(f"{each} {getattr(self._params, each)!r}" for each in shown))

    def _show(self, text: str) -> None:
        self._told += text
        self._stdout.write(text)
        self._stdout.flush()
