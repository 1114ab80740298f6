"""`perplexity:` in params.yaml: the pool of each level."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from triplex.perplexity.levels import Pool, Pools, cvar_pool, lme_pool, mean_pool, micro_pool
from triplex.runs.params import Section


class MeanPool(Section):
    """All units count alike."""

    kind: Literal["mean"]

    def pool(self) -> Pool:
        return mean_pool


class MicroPool(Section):
    """Units count by their tokens."""

    kind: Literal["micro"]

    def pool(self) -> Pool:
        return micro_pool


class CvarPool(Section):
    """The mean of the worst fraction `q` of the units."""

    kind: Literal["cvar"]
    q: float = Field(gt=0, le=1)

    def pool(self) -> Pool:
        return partial(cvar_pool, q=self.q)


class LmePool(Section):
    """The log of the mean exponential: a soft maximum, the harder the larger `lambda`."""

    kind: Literal["lme"]
    lam: float = Field(gt=0, le=100, alias="lambda")

    def pool(self) -> Pool:
        return partial(lme_pool, lam=self.lam)


PoolConfig = Annotated[CvarPool | LmePool | MeanPool | MicroPool, Field(discriminator="kind")]


class PerplexityConfig(Section):
    """`perplexity:` how the frozen scorer reads, and how each level gathers its units."""

    max_tokens_per_batch: int = Field(ge=1, description="padded positions in one forward pass")
    word_pool: PoolConfig
    phrase_pool: PoolConfig
    sentence_pool: PoolConfig

    def pools(self) -> Pools:
        return Pools(self.word_pool.pool(), self.phrase_pool.pool(), self.sentence_pool.pool())
