"""Prompts to token ids, once each, with notices about prompts that do not fit the model."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neoxrun.generation.options import Truncate
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.records import Notice
from neoxrun.tokenizer import END_OF_DOCUMENT, Tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt on its way to the engine.

    Attributes:
        prompt: what it was made of.
        ids: token ids, cut to the context where that was asked for; none where the prompt cannot be answered.
        notice: why it cannot be answered, or what needs attention; None if nothing does.
    """

    prompt: Prompt
    ids: Sequence[int]
    notice: Notice | None = None


class PromptEncoder:
    """Encodes prompts for a model.

    Args:
        tokenizer: the model's.
        vocab_size: rows of the model's vocabulary.
        max_context: most tokens of prompt and answer together.
        truncate: the side on which a prompt that is too long is cut; None: such a prompt is not answered.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, max_context: int, truncate: Truncate | None = None
    ) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._max_context, self._truncate = max_context, truncate

    def encode(self, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
        """The prompts in their order. Several samples of one prompt share its ids.

        Raises:
            DataError: a prompt is not valid Unicode.
        """
        # A list needs 36 bytes an id, an array four: all prompts of a run are held at once.
        known: dict[tuple[str, bool], array[int]] = {}
        encoded = []
        for prompt in prompts:
            key = prompt.context, prompt.complete
            if key not in known:
                known[key] = array("i", self._tokenizer.encode(prompt.context, complete=prompt.complete))
            encoded.append(self.fit(prompt, known[key]))
        return encoded

    def fit(self, prompt: Prompt, ids: Sequence[int]) -> EncodedPrompt:
        """Check a prompt's ids against the model, and cut them to its context."""
        if not ids and self._tokenizer.start is not None:
            # As in GPT-NeoX: text without a context begins after an end-of-document token, or where the model's files
            # name another that texts begin with, after that.
            ids = (self._tokenizer.start,)
        refusal = self._refusal(prompt, ids)
        if refusal is not None:
            return EncodedPrompt(prompt, (), refusal)
        longest = self._max_context
        if len(ids) < longest:
            return EncodedPrompt(prompt, ids)
        # Room for the whole answer, but never at the price of more than half the context.
        keep = max(longest // 2, longest - prompt.params.maximum_tokens)
        cut = ids[-keep:] if self._truncate == "left" else ids[:keep]
        message = f"the prompt was cut on the {self._truncate}, from {len(ids)} to {keep} tokens"
        return EncodedPrompt(prompt, cut, Notice("prompt_cut", message))

    def _refusal(self, prompt: Prompt, ids: Sequence[int]) -> Notice | None:
        """Why the prompt cannot be answered."""
        model_has = f"but the model has only ids 0 to {self._vocab_size - 1}"
        if not ids:
            message = f"an empty prompt needs {END_OF_DOCUMENT}, which the tokenizer does not have"
            return Notice("no_end_of_document_token", message)
        wrong = next((token for token in ids if token >= self._vocab_size), None)
        if wrong is not None:
            return Notice("bad_token_id", f"the tokenizer produced id {wrong}, {model_has}")
        bias = next((token for token in prompt.params.logit_bias if not 0 <= token < self._vocab_size), None)
        if bias is not None:
            return Notice("bad_logit_bias", f"logit_bias names id {bias}, {model_has}")
        if len(ids) >= self._max_context and self._truncate is None:
            message = f"the prompt has {len(ids)} tokens; the context holds {self._max_context}, including the answer"
            return Notice("prompt_too_long", message)
        return None
