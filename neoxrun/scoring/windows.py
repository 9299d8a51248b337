"""A document's tokens in windows, each token scored in one of them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neoxrun.engine.scoring import ScoreRequest


def scoring_windows(tokens: Sequence[int], beginning: int, context: int, stride: int) -> Iterator[ScoreRequest]:
    """Windows in which every token of a document is scored once.

    They are lm-eval's (``get_rolling_token_windows`` with ``context_len = context - stride + 1``): the first scores
    ``context`` tokens, each other the next ``stride`` and the last one what is left, all after as many of the tokens
    before as fit. With ``stride`` equal to ``context`` these are the windows of its rolling log-likelihoods.

    Args:
        tokens: of the document.
        beginning: the token that stands before them; it is not scored.
        context: most tokens that a window reads.
        stride: tokens that a window scores, at most ``context``.
    """
    whole = (beginning, *tokens)
    first = 1  # the next token to be scored
    while first < len(whole):
        end = min(first + (context if first == 1 else stride), len(whole))
        # The last token of a window is only asked for.
        yield ScoreRequest(whole[max(0, end - 1 - context) : first], whole[first:end])
        first = end
