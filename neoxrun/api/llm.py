"""``LLM``: a model, and texts from it.

    from neoxrun import LLM

    with LLM("demo") as llm:
        print(llm.generate("import os", maximum_tokens=20).text)

The model is in this process, or with ``tp`` and ``pp`` in ranks that this process starts. Under torchrun, every process
builds the same ``LLM`` with sizes whose product is the number of processes, makes the same calls, and gets the same
answers.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, overload

from neoxrun.api.backends import Callbacks
from neoxrun.api.client import Client
from neoxrun.api.completion import Completion
from neoxrun.api.open import open_backend
from neoxrun.api.prompts import Asked, Ids, Params, PromptReader, pairs_of
from neoxrun.api.requests import Requests
from neoxrun.api.stream import AnswerStream
from neoxrun.config.settings import Merge
from neoxrun.engine.scoring import Scored
from neoxrun.errors import UsageError
from neoxrun.generation.encoding import EncodedPrompt
from neoxrun.generation.options import Truncate
from neoxrun.serving.arguments import model_arguments, whole
from neoxrun.terminal.log import log, set_up
from neoxrun.terminal.progress import Bar
from neoxrun.tokenizer import Tokenizer

Prompt = str | Ids | Mapping[str, Any]


class LLM:
    """A loaded model, which any number of threads may use at once.

    Args:
        configuration: models' folders, GPT-NeoX YAML files, or names of shipped configurations; the later win.
        overrides: ``key=value`` texts, as for ``--set``.
        checkpoint: folder of the weights; the configuration's ``load`` otherwise.
        tokenizer: tokenizer file; the configuration's ``vocab_file`` otherwise.
        adapter: folder of a LoRA adapter, as PEFT writes it, that is merged into the weights.
        tp, pp: tensor-parallel size and pipeline stages. For more than one rank this process starts the ranks, which
            end with it. Under torchrun and srun the product is the number of processes.
        device: ``cuda``, ``cpu``, or one GPU as in ``cuda:1``; None uses GPUs if there are any.
        gpus: numbers of the GPUs to use, one for each rank, in the order of nvidia-smi.
        dtype: ``fp32``, ``fp16`` or ``bf16``, or what torch calls them; None: the configuration's on a GPU. On the CPU,
            bf16 where the processor has instructions for it and the configuration does not say fp32, else fp32.
        batch_size: most texts at a time; None: what fits, at most 256 on a GPU and 64 on the CPU.
        random_weights: build the model without a checkpoint.
        merge: at another tensor-parallel size than the checkpoint's, ``fold`` norms that differ between its ranks into
            the weights that read them, or take their ``average``.
        eager: capture no CUDA graphs.
        stall_timeout: seconds after which a rank that makes no step ends the object, of ranks that this process starts;
            None: never.
        quiet: show nothing. Otherwise bars are shown on stderr, and what is being done, unless Python's ``logging`` is
            set up: the logger is ``neoxrun``, which gets warnings in any case.
        foreign: the arguments by the names of vLLM, transformers and GPT-NeoX, such as ``tensor_parallel_size``.

    Raises:
        NeoxrunError: see ``errors``: nothing is half-loaded afterwards. A ``UsageError`` if an argument is unknown or
            has a value that is not possible, or ``tp * pp`` is not the number of processes.
    """

    def __init__(
        self,
        configuration: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        overrides: Sequence[str] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        adapter: str | os.PathLike[str] | None = None,
        tp: int = 1,
        pp: int = 1,
        device: Any = None,
        gpus: Sequence[int] | None = None,
        dtype: Any = None,
        batch_size: int | None = None,
        random_weights: bool = False,
        merge: Merge = "fold",
        eager: bool = False,
        stall_timeout: float | None = 300,
        quiet: bool = True,
        **foreign: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "configuration", "foreign")}
        arguments, most = model_arguments(configuration, given, foreign, LLM.__init__.__kwdefaults__ or {})
        self._quiet = quiet
        if not quiet and not log.hasHandlers():
            set_up(0)
        requests = Requests()
        self._backend = open_backend(arguments, most, Callbacks(requests.receive, requests.end))
        self._client = Client(self._backend, requests)
        self._close = weakref.finalize(self, self._client.close)  # also where the object is no longer used
        vocab_size = self._backend.ready.vocab_size
        self._tokenizer = self._backend.tokenizer.of_model(vocab_size)
        self._reader = PromptReader(
            self._tokenizer,
            arguments.settings.generation.sampling,
            vocab_size,
            self._backend.ready.max_context,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer: ``encode`` makes ids of a text, ``decode`` a text of ids."""
        return self._tokenizer

    @property
    def max_context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._backend.ready.max_context

    @property
    def vocab_size(self) -> int:
        """Rows of the model's vocabulary: token ids are smaller than this."""
        return self._backend.ready.vocab_size

    @overload
    def generate(
        self,
        prompts: Prompt,
        params: Params | None = None,
        *,
        n: None = None,
        stream: Literal[False] = False,
        prompt_logprobs: int | None = None,
        truncate: Truncate | None = None,
        **sampling: Any,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompts: Prompt,
        params: Params | None = None,
        *,
        n: int,
        stream: Literal[False] = False,
        prompt_logprobs: int | None = None,
        truncate: Truncate | None = None,
        **sampling: Any,
    ) -> list[Completion]: ...

    @overload
    def generate(
        self,
        prompts: Prompt,
        params: Params | None = None,
        *,
        stream: Literal[True],
        truncate: Truncate | None = None,
        **sampling: Any,
    ) -> AnswerStream: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        params: Params | Sequence[Params] | None = None,
        *,
        n: int | None = None,
        stream: Literal[False] = False,
        prompt_logprobs: int | None = None,
        truncate: Truncate | None = None,
        **sampling: Any,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompts: Any,
        params: Any = None,
        *,
        n: int | None = None,
        stream: bool = False,
        prompt_logprobs: int | None = None,
        truncate: Truncate | None = None,
        **sampling: Any,
    ) -> Any:
        """Continue each prompt. Requests of all threads are computed together.

        Args:
            prompts: a text, or a list of token ids; or a list of these. An empty text is continued from nothing.
            params: how to sample: ``SamplingParams``, in place of all of the configuration's parameters, or a dict of
                those that differ from them; or a list with one for each prompt. Prompt ``i`` has its own random
                stream, made of the seed and ``i``; a seed in a prompt's own dict decides alone.
            n: answers to each prompt, with random streams of their own.
            stream: return the answer to one prompt piece by piece; see ``stream``.
            prompt_logprobs: give the log-probability of each token of the prompts, and this many most likely ones.
            truncate: side at which prompts too long for the context are cut; None makes them completions with an error.
            sampling: single parameters, in place of those of ``params``, such as ``temperature=0.8``.

        Returns:
            For one prompt by itself, without ``n``, its completion; else a list: all answers to the first prompt, to
            the second, and so on.

        Raises:
            UsageError: an argument or a parameter is unknown, or has a value that is not possible; or the object is
                closed.
            DataError: a prompt is not valid Unicode.
            RankError: the model's output is not a number, or a rank has died.
            GenerationInterrupted: Ctrl-C. It has the completions that are finished; the model stays as it is.
        """
        if stream:
            if n is not None or prompt_logprobs is not None:
                raise UsageError(
                    "a stream is one answer, without n and prompt_logprobs",
                    code="conflicting_options",
                    hint="Leave them out; several streams may be open at once.",
                )
            return self.stream(prompts, params, truncate=truncate, **sampling)
        if prompt_logprobs is not None:
            prompt_logprobs = whole("prompt_logprobs", prompt_logprobs, 0)
        self._client.check()
        asked = self._reader.read(prompts, params, n, truncate, sampling)
        bar = Bar("answers", len(asked.answers), "answer", amounts="tokens", show=not self._quiet)
        completions = self._client.generate(asked.answers, prompt_logprobs, bar)
        return completions[0] if asked.single else completions

    def stream(
        self, prompt: Prompt, params: Params | None = None, *, truncate: Truncate | None = None, **sampling: Any
    ) -> AnswerStream:
        """Continue one prompt, piece by piece: ``for piece in llm.stream("import os"): ...``, or with ``async for``.

        The arguments are those of ``generate``. When the stream is closed, or no longer used, the request ends.

        Raises:
            UsageError, DataError: as for ``generate``.
        """
        self._client.check()
        asked = self._reader.read(prompt, params, None, truncate, sampling)
        return self._client.stream(_only(asked, "stream"))

    def submit(
        self, prompt: Prompt, params: Params | None = None, *, truncate: Truncate | None = None, **sampling: Any
    ) -> Future[Completion]:
        """Continue one prompt, and return at once; with asyncio: ``await asyncio.wrap_future(llm.submit(prompt))``.

        The arguments are those of ``generate``. Cancelling the future ends the request. Its callbacks run in the thread
        that computes: they have to be short, and must not wait for another answer.

        Raises:
            UsageError, DataError: as for ``generate``.
        """
        self._client.check()
        asked = self._reader.read(prompt, params, None, truncate, sampling)
        return self._client.submit(_only(asked, "submit"))

    def score(self, pairs: Sequence[tuple[str, str]], *, top: int | None = None) -> list[Scored]:
        """How likely each text is after its context; a beginning that contexts share is computed once.

        Args:
            pairs: context and continuation. The two are tokenized together, so that a continuation usually begins with
                a space. An empty context stands for the beginning of a document.
            top: also give each token's log-probability, and those of this many of the most likely tokens.

        Returns:
            For each pair the natural logarithm of the continuation's probability, and whether greedy decoding gives
            it.

        Raises:
            DataError: a text is not valid Unicode, has no tokens of its own, or is too long for the context.
            UsageError, RankError: as for ``generate``.
        """
        self._client.check()
        if top is not None:
            top = whole("top", top, 0)
        return self._client.score([self._reader.pair(*pair) for pair in pairs_of(pairs)], top)

    def close(self) -> None:
        """End all requests with an error, free the weights, and end the ranks. Later calls are errors."""
        self._close()

    def __enter__(self) -> LLM:
        self._client.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _only(asked: Asked, method: str) -> EncodedPrompt:
    if not asked.single:
        raise UsageError(
            f"{method} takes one prompt, and one answer to it",
            code="invalid_value",
            hint="Call it once for each; generate takes several.",
        )
    return asked.answers[0]
