"""What ``LLM.generate`` gives back, and what it raises when it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from neoxrun.engine.scoring import Scored
from neoxrun.generation.encoding import EncodedPrompt
from neoxrun.generation.generator import answer_record, refusal_record
from neoxrun.generation.records import Record, record_line, step_with_texts, with_texts
from neoxrun.serving.messages import Finished
from neoxrun.tokenizer import Tokenizer

_LAST_SECONDS = 5.0  # for texts that are cut short to arrive after Ctrl-C
_OPTIONAL = ("sample", "logprobs", "weights", "prompt_logprobs")


@dataclass(frozen=True)
class Completion(Record):
    """An answer: a record as the command writes it, with the token ids of prompt and answer.

    Attributes:
        tokens: ids of the answer, always.
        prompt_tokens: ids of the prompt, as the model was given them; none where it was not.
        prompt_logprobs: for each id of the prompt as in ``logprobs``, where asked for; None for the first.
    """

    prompt_tokens: list[int] = field(default_factory=list)
    prompt_logprobs: list[dict[str, Any] | None] | None = None

    def to_json(self) -> str:
        """The completion as a line of JSON, without the newline."""
        return record_line(asdict(self), _OPTIONAL)

    def with_prompt_scores(self, scored: Scored, spell: Callable[[int], str]) -> Completion:
        """The same with the log-probabilities of the prompt; ``spell`` gives the text of a token."""
        scores = scored.tokens
        assert scores is not None, "they were asked for token by token"
        tokens = self.prompt_tokens[1:]
        # With no most likely tokens asked for, there are no lists of them.
        top_ids, top_logprobs = scores.top_ids or [[]] * len(tokens), scores.top_logprobs or [[]] * len(tokens)
        steps = [
            {"token": token, "logprob": logprob, "top": [list(pair) for pair in zip(ids, values, strict=True)]}
            for token, logprob, ids, values in zip(tokens, scores.logprobs, top_ids, top_logprobs, strict=True)
        ]
        return replace(self, prompt_logprobs=[None, *(step_with_texts(step, spell) for step in steps)])


def completion_of(
    encoded: EncodedPrompt, finished: Finished | None, tokenizer: Tokenizer, weights: str | None
) -> Completion:
    """The completion of a prompt.

    Args:
        encoded: the prompt.
        finished: its answer; None where it cannot be answered.
        tokenizer: the model's.
        weights: as in ``Record``.
    """
    if finished is None:
        return Completion(**vars(refusal_record(encoded, weights)))
    known_ids, sampled = tokenizer.vocab_size, finished.sampled
    record = answer_record(encoded, finished.text, sampled, finished.reason, finished.seconds, known_ids, weights)
    fields = vars(with_texts(record, tokenizer.spell)) | {"tokens": [one.token for one in sampled]}
    return Completion(**fields, prompt_tokens=list(encoded.ids))


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during a call. The requests of the call have ended; the model can be used as before.

    Attributes:
        records: the completions that were finished, in the order of the prompts.
        partial: those that were cut short, with the text so far and ``finish_reason`` ``aborted``.
    """

    def __init__(self, completions: Sequence[Completion]) -> None:
        self.records = [one for one in completions if one.finish_reason != "aborted"]
        self.partial = [one for one in completions if one.finish_reason == "aborted"]
        super().__init__(f"interrupted; {len(self.records)} finished completions are in the exception's records")


def interruption(answers: Sequence[Future[Completion]]) -> GenerationInterrupted:
    """What a call raises after Ctrl-C, once its requests were told to end.

    Waits some seconds for what there is of the answers. Those that come later, or have failed, are left out.
    """
    done, _ = wait(answers, _LAST_SECONDS)
    return GenerationInterrupted([one.result() for one in answers if one in done and one.exception() is None])
