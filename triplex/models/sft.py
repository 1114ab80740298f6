"""Supervised fine-tuning: the likelihood of completions given their prompts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field

from triplex.models.packing import collate, encode_example, pack
from triplex.models.training import LoraConfig, OptimConfig, train_supervised, with_adapters, without_adapters
from triplex.runs.params import Section
from triplex.runs.stage import Run


class SFTConfig(Section):
    """`sft:` completion-only loss on packed examples."""

    block_size: int = Field(ge=8, description="tokens in a packed training block")
    lora: LoraConfig
    optim: OptimConfig


def fine_tune(
    config: SFTConfig, precision: str, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], run: Run
) -> Any:
    """`model` trained on (prompt, completion) pairs; its attention never crosses from one pair to another."""
    examples = [encode_example(tokenizer, prompt, completion) for prompt, completion in pairs]
    wrapped = with_adapters(model, config.lora)
    train_supervised(
        run.name,
        wrapped.train(),
        pack(examples, config.block_size),
        partial(collate, block_size=config.block_size, pad_token_id=tokenizer.pad_token_id),
        config.optim,
        seed=run.seed,
        precision=precision,
        state=run.state,
    )
    return without_adapters(wrapped, config.lora).eval()
