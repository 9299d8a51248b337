"""lm-eval's view of a loaded model: its requests become token ids for the engine, exactly as its ``hf`` model has it.

Facts of lm-eval 0.4.13 that this follows: a sequence too long for the context loses tokens on the left until
``max_length + 1`` are left, the last of which is only asked for; rolling log-likelihoods use disjoint windows that
begin with the end-of-document token; prompts of generated texts keep ``max_length - max_gen_toks`` tokens.
"""

from __future__ import annotations

import hashlib
import reprlib
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from neoxrun.engine.scoring import ScoreRequest
from neoxrun.engine.session import Session
from neoxrun.errors import DataError
from neoxrun.evaluation.answers import Answers
from neoxrun.evaluation.cache import AnswerCache
from neoxrun.evaluation.options import MAX_GENERATED, sampling_of
from neoxrun.evaluation.replicas import GenerateRequest, Replicas
from neoxrun.evaluation.texts import TextEncoder
from neoxrun.terminal.log import log
from neoxrun.tokenizer import END_OF_DOCUMENT, Tokenizer
from neoxrun.tokenizer.chat import ChatTemplate, RefusedMessagesError, read_chat_template


class _NamedTokens:
    """The tokens of a tokenizer that lm-eval writes into its results, under transformers' names.

    Args:
        tokenizer: the model's.
        begins, ends: ids of the tokens that stand before a text without a context, and that end a text.
    """

    def __init__(self, tokenizer: Tokenizer, begins: int, ends: int) -> None:
        self.bos_token, self.bos_token_id = tokenizer.spell(begins), begins
        self.eos_token, self.eos_token_id = tokenizer.spell(ends), ends
        self.pad_token = tokenizer.names.get("pad_token")
        self.pad_token_id = None if self.pad_token is None else tokenizer.token_id(self.pad_token)


class NeoxLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A model for lm-eval, on rank 0.

    Args:
        session: rank 0's part of the model.
        replicas: all replicas of it; the caller releases them.
        cache: answers of earlier runs, and where new ones go.
        fingerprint: of the checkpoint, to remember the answers without a cache; see ``Answers``.
        seed: start of the random streams of sampled answers.
        show_progress: show a bar on stderr.

    Raises:
        DataError: the tokenizer has no end-of-document token.
    """

    def __init__(
        self,
        session: Session,
        replicas: Replicas,
        *,
        cache: AnswerCache | None = None,
        fingerprint: str | None = None,
        seed: int = 1234,
        show_progress: bool = False,
    ) -> None:
        super().__init__()
        tokenizer = session.tokenizer
        if tokenizer.start is None:
            raise DataError(
                f"the tokenizer has no {END_OF_DOCUMENT}, which a text without a context begins with",
                code="bad_tokenizer",
                where=str(session.settings.tokenizer.vocab_file),
            )
        self._session, self._replicas = session, replicas
        self._start, self._seed = tokenizer.start, seed
        self._end = tokenizer.eod if tokenizer.eos is None else tokenizer.eos
        self._cut = 0
        self._owners: list[Instance] = []
        self._texts = TextEncoder(tokenizer)
        self._template: ChatTemplate | None = None
        self._said_refusal = False
        self.answers = Answers(cache, fingerprint, show_progress=show_progress)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._start if self._end is None else self._end

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context: as lm-eval's ``hf``, the one that begins a text."""
        return self._start

    @property
    def max_length(self) -> int:
        """Most tokens of a sequence."""
        return self._session.max_context

    @property
    def max_gen_toks(self) -> int:
        """Most tokens of an answer where the task does not say."""
        return MAX_GENERATED

    @property
    def tokenizer(self) -> _NamedTokens:
        """The special tokens, for the results."""
        return _NamedTokens(self._session.tokenizer, self.prefix_token_id, self.eot_token_id)

    @property
    def tokenizer_name(self) -> str:
        """What identifies this tokenizer."""
        return str(self._session.settings.tokenizer.vocab_file)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, with the tokens that the tokenizer adds to every text.

        As with lm-eval's ``hf``, it adds none where none are asked for, and none to a text that begins with the token
        which begins a text: a chat template has written it.
        """
        return self._texts.encode(string, add_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's chat template, for the results; lm-eval asks for it before it applies it.

        Raises:
            DataError: the model has none.
        """
        return self._chat.source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation by the model's chat template.

        As with lm-eval's ``hf``, a template that refuses a system message gets the others.

        Raises:
            DataError: the model has no template, or it refuses the messages.
        """
        try:
            return self._chat.render(chat_history, answer=add_generation_prompt)
        except RefusedMessagesError:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            if not self._said_refusal:
                log.warning("the model's chat template refuses system messages: they are left out")
            self._said_refusal = True
            return self._chat.render(others, answer=add_generation_prompt)

    @property
    def _chat(self) -> ChatTemplate:
        if self._template is None:
            self._template = read_chat_template(self._session.settings.tokenizer)
        return self._template

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding gives."""
        self._owners = requests
        for number, request in enumerate(requests):
            if not any(request.args):  # on which lm-eval fails without a word
                raise self._of_document(number, DataError("a continuation has no tokens: ''", code="no_tokens"))
        self._texts.expect_pairs(request.args for request in requests)
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of the context's length where it is longer."""
        self._texts.expect_texts(request.args[0] for request in requests)
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        counts, self._owners = [], []
        for request in requests:
            (text,) = request.args
            mine = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(windows)
            windows += [((text, ""), *make_disjoint_window(window)) for window in mine]
            counts.append(len(windows) - before)
            self._owners += [request] * counts[-1]
        scores = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked = []
        for number, request in enumerate(requests):
            try:
                asked.append(self._score_request(*request))
            except DataError as error:
                raise self._of_document(number, error) from None
        self._say_cut()
        scores = self.answers.find(
            "scoring",
            asked,
            lambda request: (request.context, request.continuation),
            self._replicas.score,
        )
        return [(float(logprob), bool(greedy)) for logprob, greedy in scores]

    def _score_request(self, texts: tuple[str, str], context: list[int], continuation: list[int]) -> ScoreRequest:
        hint = "lm-eval cannot score it either; leave the task out."
        shown = reprlib.repr(texts[1] or texts[0])
        if len(continuation) > self.max_length:
            raise DataError(
                f"a continuation has {len(continuation)} tokens, more than the {self.max_length} of the context: "
                f"{shown}",
                code="too_long",
                hint=hint,
            )
        if not continuation:
            raise DataError(f"a continuation has no tokens: {shown}", code="no_tokens", hint=hint)
        if not context:
            raise DataError(
                f"a context has no tokens: {reprlib.repr(texts[0])} before {reprlib.repr(texts[1])}",
                code="no_tokens",
                hint=hint,
            )
        whole = self._kept(context + continuation, self.max_length + 1)
        start = len(whole) - len(continuation)
        return ScoreRequest(tuple(whole[:start]), tuple(continuation))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text after each prompt, up to the first of its stop texts."""
        self._texts.expect_texts(request.args[0] for request in requests)
        asked = []
        seen: dict[GenerateRequest, int] = {}
        self._owners = requests
        for number, request in enumerate(requests):
            prompt, kwargs = request.args
            sampling = sampling_of(kwargs, self.max_length, where=request.task_name)
            ids = self.tok_encode(prompt) or [self._start]
            try:
                kept = self._kept(ids, self.max_length - sampling["maximum_tokens"])
            except DataError as error:
                raise self._of_document(number, error) from None
            plain = GenerateRequest(tuple(kept), tuple(sampling.items()))
            # Where a task asks for several samples of one prompt, each has a separate random stream.
            seen[plain] = seen.get(plain, 0) + 1
            asked.append(self._with_seed(plain, seen[plain]) if sampling["temperature"] else plain)
        self._say_cut()
        ends = self._session.settings.end_ids
        texts = self.answers.find(
            "generating", asked, lambda request: (request.prompt, request.sampling, *ends), self._replicas.generate
        )
        return [
            postprocess_generated_text(text, [*request.params.stop, END_OF_DOCUMENT], None)
            for text, request in zip(texts, asked, strict=True)
        ]

    def _with_seed(self, request: GenerateRequest, sample: int) -> GenerateRequest:
        """The same answer whatever else is in the run: the seed is made of the prompt and the sample's number."""
        digest = hashlib.sha256(repr((self._seed, request, sample)).encode()).digest()
        return replace(request, sampling=(*request.sampling, ("seed", int.from_bytes(digest[:7]))))

    def _kept(self, ids: list[int], most: int) -> list[int]:
        """The ids that fit the context: the last ``most``."""
        rows = self._session.replica.stage.vocab_size
        if max(ids) >= rows:
            raise DataError(
                f"the tokenizer produced id {max(ids)}, but the model has only ids 0 to {rows - 1}",
                code="bad_tokenizer",
                where=self.tokenizer_name,
                hint="Give the tokenizer that the model was trained with (--tokenizer FILE).",
            )
        self._cut += len(ids) > most
        return ids[-most:]

    def _of_document(self, number: int, error: DataError) -> DataError:
        """The error for a request, with the document that it belongs to."""
        if number >= len(self._owners):
            return error
        owner = self._owners[number]
        text = f"document {owner.doc_id} (counted from 0) of {owner.task_name}: {error.message}"
        return DataError(text, code=error.code, where=error.where, hint=error.hint)

    def _say_cut(self) -> None:
        """Warn of sequences that lost their beginning."""
        if self._cut:
            what = "1 sequence is" if self._cut == 1 else f"{self._cut} sequences are"
            log.warning(f"{what} longer than the context ({self.max_length} tokens): the beginning is left out")
        self._cut = 0
