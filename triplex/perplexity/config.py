"""`perplexity:` in params.yaml: the context of a scored reference, and the pool of each level."""

import re
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, field_validator

from triplex.perplexity.levels import Pool, Pools, cvar_pool, lme_pool, mean_pool, micro_pool
from triplex.runs.params import Section, described


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
    q: float = described("the fraction of the units, the worst ones, that counts", gt=0, le=1)

    def pool(self) -> Pool:
        return partial(cvar_pool, q=self.q)


class LmePool(Section):
    """The log of the mean exponential: a soft maximum, the harder the larger `lambda`."""

    kind: Literal["lme"]
    lam: float = described("how hard the soft maximum is", unit="1 / nats per token", gt=0, le=100, alias="lambda")

    def pool(self) -> Pool:
        return partial(lme_pool, lam=self.lam)


PoolConfig = Annotated[
    CvarPool | LmePool | MeanPool | MicroPool,
    Field(discriminator="kind", description="how the numbers of the units become that of the text"),
]


_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class PerplexityConfig(Section):
    """`perplexity:` how the frozen scorer reads, and how each level gathers its units."""

    scorer: Literal["sft", "base"] = Field(default="sft", description="the frozen model that scores: models/NAME")
    max_tokens_per_batch: int = described("padded positions in one forward pass", unit="tokens", ge=1)
    template: str = Field(description="the context of a scored reference")
    word_pool: PoolConfig
    phrase_pool: PoolConfig
    sentence_pool: PoolConfig

    @field_validator("template")
    @classmethod
    def _known_placeholders(cls, template: str) -> str:
        found = _PLACEHOLDER.findall(template)
        if unknown := sorted(set(found) - {"prompt", "response"}):
            raise ValueError(f"holds {{{unknown[0]}}}; known are {{prompt}} and {{response}}")
        if found.count("response") != 1:
            raise ValueError(f"holds {{response}} {found.count('response')} times, it must hold it once")
        if found.count("prompt") > 1:
            raise ValueError(f"holds {{prompt}} {found.count('prompt')} times, once is the most")
        return template

    def context(self, prompt: str, response: str) -> str:
        """What a reference is read after. Braces inside of `prompt` and `response` stay as they are."""
        texts = {"prompt": prompt, "response": response}
        return _PLACEHOLDER.sub(lambda placeholder: texts[placeholder[1]], self.template)

    def pools(self) -> Pools:
        """The pools of the three levels."""
        return Pools(self.word_pool.pool(), self.phrase_pool.pool(), self.sentence_pool.pool())
