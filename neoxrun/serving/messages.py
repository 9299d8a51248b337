"""What is asked of the loop of an engine, and what it answers. All of it can be pickled; no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scoring import Scored, ScoreRequest
from neoxrun.errors import NeoxrunError


@dataclass(frozen=True)
class TextWork:
    """A prompt to continue.

    Attributes:
        number: what its events are called; no other work has the same.
        prompt: token ids, at least one; they leave room for one more in the context.
        params: how to sample.
        stream: send each piece of its text.
    """

    number: int
    prompt: Sequence[int]
    params: SamplingParams
    stream: bool = False


@dataclass(frozen=True)
class ScoreWork:
    """Texts to score.

    Attributes:
        number: as for ``TextWork``.
        requests: at least one; each fits the context.
        top: as for ``Replica.score``.
    """

    number: int
    requests: Sequence[ScoreRequest]
    top: int | None = None


@dataclass(frozen=True)
class Cancel:
    """End work, with a text's ``Finished`` as far as it is; of scores, and of what has ended, no event follows."""

    number: int


@dataclass(frozen=True)
class Close:
    """End all work, and the loop."""


Work = TextWork | ScoreWork
Message = Work | Cancel | Close


@dataclass(frozen=True)
class Piece:
    """The next piece of a text; all of them together are the text."""

    number: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A text has ended; the last event of its work.

    Attributes:
        number: of its work.
        text: all of it.
        sampled: its tokens, without the end-of-document token.
        reason: why it ended, see ``Record.finish_reason``.
        seconds: since the engine was given the request.
    """

    number: int
    text: str
    sampled: Sequence[Sampled]
    reason: str
    seconds: float


@dataclass(frozen=True)
class ScoresFound:
    """The scores of all requests, in their order; the last event of their work."""

    number: int
    scores: Sequence[Scored]


@dataclass(frozen=True)
class Failed:
    """Work has failed; the last event of it."""

    number: int
    error: NeoxrunError


Event = Piece | Finished | ScoresFound | Failed


@dataclass(frozen=True)
class Ready:
    """The model is loaded.

    Attributes:
        vocab_size: rows of its vocabulary.
        max_context: most tokens of a sequence.
        weights: as in ``Session``.
        warnings: what people should know about the weights.
    """

    vocab_size: int
    max_context: int
    weights: str | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served by ranks of its own.

    Attributes:
        batch_size: most sequences at a time; None: what fits.
    """

    batch_size: int | None = None
