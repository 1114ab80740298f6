"""A frozen scorer with its section of parameters, and tables of baselines that hold what a test says."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from triplex.perplexity.baselines import EMPTY_COLUMNS, NATS_COLUMNS, SCHEMA, Baselines, text_sha256
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.perplexity.scorer import FrozenScorer


@pytest.fixture(scope="session")
def levels() -> PerplexityConfig:
    """A template with a wording of its own, and another pool on each level."""
    return PerplexityConfig.model_validate(
        {
            "max_tokens_per_batch": 256,
            "template": "{prompt} Plan:{response} Story:",
            "word_pool": {"kind": "mean"},
            "phrase_pool": {"kind": "cvar", "q": 0.5},
            "sentence_pool": {"kind": "lme", "lambda": 2.0},
        }
    )


@pytest.fixture(scope="session")
def scorer(tiny_lm: Callable[..., Any], tiny_tokenizer: Any, levels: PerplexityConfig) -> FrozenScorer:
    """A random model whose distributions are far from uniform, so that a context matters."""
    lm = tiny_lm(seed=3)
    for parameter in lm.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(5)
    return FrozenScorer(lm, tiny_tokenizer, pools=levels.pools())


@pytest.fixture(scope="session")
def table_of() -> Callable[..., Baselines]:
    """`table_of(pairs, nats, empty, **noise)`: (prompt, reference) pairs with (token, word, phrase, sentence) each."""

    def build(
        pairs: Sequence[tuple[str, str]],
        nats: Sequence[Sequence[float]],
        empty: Sequence[Sequence[float]],
        **noise: float,
    ) -> Baselines:
        rows = [
            {
                "id": str(number),
                "split": "train",
                "prompt_sha256": text_sha256(pair[0]),
                "reference_sha256": text_sha256(pair[1]),
                "num_tokens": 9,
                **dict(zip(NATS_COLUMNS + EMPTY_COLUMNS, [*nats[number], *empty[number]], strict=True)),
            }
            for number, pair in enumerate(pairs)
        ]
        causes = {cause: dict.fromkeys(LEVELS, noise.get(cause, 0.0)) for cause in ("batch", "threads", "precision")}
        return Baselines(pa.Table.from_pylist(rows, schema=SCHEMA), causes)

    return build
