"""The prompts and parameters of a call as people write them, checked, and turned into what the engine is given."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.config.sampling_names import own_names
from neoxrun.engine.scoring import ScoreRequest
from neoxrun.errors import DataError, UsageError
from neoxrun.generation.encoding import EncodedPrompt, PromptEncoder
from neoxrun.generation.prompts import check_count, expand_prompt
from neoxrun.serving.arguments import whole
from neoxrun.terminal.words import check_unicode, counted
from neoxrun.tokenizer import Tokenizer
from neoxrun.tokenizer.ids import ids_of, is_whole, plain

Ids = Sequence[int]
Params = SamplingParams | Mapping[str, Any]

_PROMPTS: Final = (
    "A prompt is a text or a list of token ids, and prompts are a list of these; "
    "{'prompt': text} and {'prompt_token_ids': ids} also stand for one."
)
_SAMPLES: Final = ("n", "num_return_sequences")


@dataclass(frozen=True)
class Asked:
    """What a call asks for.

    Attributes:
        answers: one for each sample of each prompt, in order.
        single: one prompt was given by itself, and one sample of it.
    """

    answers: list[EncodedPrompt]
    single: bool


class PromptReader:
    """Reads what calls are given.

    Args:
        tokenizer: the model's.
        configured: how to sample where a call does not say.
        vocab_size: rows of the model's vocabulary.
        max_context: most tokens of prompt and answer together.
    """

    def __init__(self, tokenizer: Tokenizer, configured: SamplingParams, vocab_size: int, max_context: int) -> None:
        self._tokenizer, self._configured = tokenizer, configured
        self._vocab_size, self._max_context = vocab_size, max_context

    def read(
        self,
        prompts: object,
        params: Params | Sequence[Params] | None,
        n: int | None,
        truncate: object,
        sampling: Mapping[str, Any],
    ) -> Asked:
        """What ``LLM.generate`` is asked for; its arguments.

        Raises:
            UsageError: an argument is not possible.
            DataError: a prompt is not valid Unicode.
        """
        if truncate not in (None, "left", "right"):
            raise UsageError(f"truncate must be left, right or None, not {truncate!r}", code="invalid_value")
        contents, single = _separate(prompts)
        encoder = PromptEncoder(
            self._tokenizer,
            vocab_size=self._vocab_size,
            max_context=self._max_context,
            truncate=truncate,
        )
        answers: list[EncodedPrompt] = []
        for index, (content, own) in enumerate(zip(contents, _params_of_each(params, len(contents)), strict=True)):
            sampled, count, seeded = self._params(own, sampling)
            samples = whole("n", n if n is not None else count)
            check_count(len(answers) + samples, "Lower n")
            text, ids = self._encode(content, index)
            for prompt in expand_prompt(index, 0 if seeded else index, text, sampled, samples):
                answers.append(encoder.fit(prompt, ids))
        return Asked(answers, single and n is None and len(answers) == 1)

    def pair(self, context: str, continuation: str) -> ScoreRequest:
        """What ``LLM.score`` is asked for, once for each pair.

        Raises:
            DataError: a text is not valid Unicode, has no tokens of its own, or is too long for the context.
        """
        check_unicode(context + continuation)
        tokenizer, longest = self._tokenizer, self._max_context + 1
        before, both = tokenizer.encode(context), tokenizer.encode(context + continuation)
        if not before and tokenizer.start is not None:
            before, both = [tokenizer.start], [tokenizer.start, *both]
        what = reprlib.repr(context + continuation)
        if not 0 < len(before) < len(both):
            raise DataError(f"the context or the continuation has no tokens of its own: {what}", code="no_tokens")
        if len(both) > longest:
            raise DataError(
                f"the text has {len(both)} tokens, and at most {longest} can be scored: {what}", code="too_long"
            )
        return ScoreRequest(tuple(both[: len(before)]), tuple(both[len(before) :]))

    def _params(self, own: Params | None, sampling: Mapping[str, Any]) -> tuple[SamplingParams, int, bool]:
        """How to sample, how often, and whether the prompt has a seed of its own."""
        if own is None or isinstance(own, SamplingParams):
            params, count, seeded = own or self._configured, 1, False
            params = update_sampling(params, vars(params))  # checks them
        elif isinstance(own, Mapping):
            counts = [own[name] for name in _SAMPLES if own.get(name) is not None]
            if len(counts) > 1:
                raise UsageError(
                    f"{_SAMPLES[1]} is another name of {_SAMPLES[0]}, which is given too",
                    code="conflicting_options",
                    hint="Leave one of them out.",
                )
            count = counts[0] if counts else 1
            given = _given({name: value for name, value in own.items() if name not in _SAMPLES})
            params, seeded = update_sampling(self._configured, given), "seed" in given
        else:
            raise UsageError(
                f"parameters are SamplingParams or a dict, not {reprlib.repr(own)}",
                code="invalid_value",
                hint="For example SamplingParams(maximum_tokens=20), or {'maximum_tokens': 20}.",
            )
        return update_sampling(params, _given(sampling)), count, seeded

    def _encode(self, content: str | Ids, index: int) -> tuple[str, Ids]:
        """The text of a prompt, and its ids."""
        if isinstance(content, str):
            check_unicode(content)
            return content, self._tokenizer.encode(content)
        wrong = next((token for token in content if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            raise UsageError(
                f"prompt {index} has the token id {wrong}, and the model has only ids 0 to {self._vocab_size - 1}",
                code="invalid_value",
            )
        return self._tokenizer.decode(list(content)), content


def _given(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are given, under our own names.

    None leaves one as it is, which other tools' signatures have as a default; for ``logprobs`` it is a value.
    """
    named = own_names(sampling, SAMPLING_NAMES)
    return {name: value for name, value in named.items() if value is not None or name == "logprobs"}


def pairs_of(pairs: object) -> list[tuple[str, str]]:
    """The pairs of texts that are to be scored.

    Raises:
        UsageError: they are not pairs of texts.
    """
    found: list[Any] = list(pairs) if isinstance(pairs, Iterable) else [pairs]
    for pair in found:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise UsageError(
                f"pairs of texts are scored, and {reprlib.repr(pair)} is not one",
                code="invalid_value",
                hint='For example llm.score([("import", " os")]).',
            )
    return found


def _separate(prompts: object) -> tuple[list[str | Ids], bool]:
    """The prompts of a call, and whether it is one by itself."""
    prompts = plain(prompts)
    if isinstance(prompts, str | Mapping):
        return [_content(prompts)], True
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise _wrong(prompts)
    several = list(prompts)
    if several and all(map(is_whole, several)):
        return [_content(several)], True
    return [_content(one) for one in several], False


def _content(prompt: Any) -> str | Ids:
    prompt = plain(prompt)
    if isinstance(prompt, Mapping):
        known = [name for name in ("prompt", "prompt_token_ids") if name in prompt]
        if len(known) != 1 or len(prompt) != 1:
            raise _wrong(prompt)
        prompt = prompt[known[0]]
    if isinstance(prompt, str):
        return prompt
    if ids := ids_of(prompt):
        return ids
    raise _wrong(prompt)


def _wrong(prompt: object) -> UsageError:
    return UsageError(f"{reprlib.repr(prompt)} is not a prompt", code="invalid_value", hint=_PROMPTS)


def _params_of_each(params: Params | Sequence[Params] | None, count: int) -> Sequence[Params | None]:
    if not isinstance(params, list | tuple):
        return [cast("Params | None", params)] * count
    if len(params) != count:
        raise UsageError(
            f"{counted(len(params), 'set')} of parameters for {counted(count, 'prompt')}",
            code="invalid_value",
            hint="Give one for all of them, or one for each.",
        )
    return params
