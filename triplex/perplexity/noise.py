"""How much a text's levels move for reasons that are not the text: its batch, the threads, the precision."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from triplex.perplexity.levels import LEVELS
from triplex.perplexity.scorer import FrozenScorer

MAX_TEXTS = 64
#: by cause and level, the largest |difference| in nats per token; {} when nothing was measured
Noise = dict[str, dict[str, float]]


def measure_noise(
    scorer: FrozenScorer, contexts: Sequence[str], texts: Sequence[str], names: Sequence[str] | None = None
) -> Noise:
    """What each cause moves the levels of the first MAX_TEXTS texts by, at most.

    `batch`: each text alone against all together; `threads`: one CPU thread against the current number (two, when that
    is one); `precision`: the same model in the other one of float32 and bfloat16, which tells what switching would
    cost. The same numbers every time on one kind of machine. Errors are those of `FrozenScorer.score`.
    """
    contexts, texts = contexts[:MAX_TEXTS], texts[:MAX_TEXTS]
    together = scorer.level_nats(contexts, texts, names=names and names[:MAX_TEXTS])
    alone = torch.cat([together[:0], *(scorer.level_nats([c], [t]) for c, t in zip(contexts, texts, strict=True))])
    with _other_thread_count():
        threads = scorer.level_nats(contexts, texts)
    switched = _in_other_precision(scorer).level_nats(contexts, texts)
    return {
        "batch": _largest(alone - together),
        "threads": _largest(threads - together),
        "precision": _largest(switched - together),
    }


@contextmanager
def _other_thread_count() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_other_precision(scorer: FrozenScorer) -> FrozenScorer:
    other = torch.bfloat16 if scorer.model.dtype == torch.float32 else torch.float32
    model = copy.deepcopy(scorer.model).to(other)
    return FrozenScorer(model, scorer.tokenizer, max_tokens_per_batch=scorer.max_tokens_per_batch, pools=scorer.pools)


def _largest(difference: Tensor) -> dict[str, float]:
    """By level, of (B, 4)."""
    largest = torch.cat([difference.abs(), difference.new_zeros(1, len(LEVELS))]).amax(dim=0)
    return dict(zip(LEVELS, largest.tolist(), strict=True))
