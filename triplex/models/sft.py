"""Supervised fine-tuning: the likelihood of completions given their prompts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from triplex.distributed.strategy import Strategy
from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig, OptimConfig
from triplex.models.packing import Example, check_packing, collate, encode_example, next_token_loss, pack
from triplex.models.training import SupervisedTrainer
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described
from triplex.runs.stage import Run


class SFTConfig(Section):
    """`sft:` completion-only loss on packed examples."""

    num_examples: int = described("rows of the sft table, the first by id; all when there are fewer", unit="rows", ge=1)
    block_size: int = described("tokens in a packed training block", unit="tokens", ge=8)
    lora: LoraConfig
    optim: OptimConfig


def fine_tune(
    config: SFTConfig, precision: str, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], run: Run,
    strategy: Strategy | None = None,
) -> Any:  # fmt: skip
    """`model`, in its adapters if any, trained on (prompt, completion) pairs by all workers of `strategy`.

    Its attention never crosses from one pair to another.
    """
    pairs = pairs[: config.num_examples]
    examples = [encode_example(tokenizer, prompt, completion) for prompt, completion in pairs]
    check_block_size(config.block_size, model, pairs, examples)
    check_packing(model)
    wrapped = with_adapters(model, config.lora)
    shape = partial(collate, block_size=config.block_size, pad_token_id=tokenizer.pad_token_id)
    SupervisedTrainer(
        run.name, wrapped.train(), pack(examples, config.block_size), shape, next_token_loss, config.optim,
        seed=run.seed, precision=precision, state=run.state, strategy=strategy,
    ).train()  # fmt: skip
    return wrapped.eval()


def check_block_size(
    block_size: int, model: Any, pairs: Sequence[tuple[str, str]], examples: Sequence[Example]
) -> None:
    """InputError unless the model has a position for each token of a block, and each prompt leaves one to learn."""
    where = f"params.yaml: sft.block_size = {block_size}"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", block_size)
    if block_size > positions:
        raise InputError(where, f"the model has {positions} positions", f"lower it to {positions}")
    for (prompt, _), example in zip(pairs, examples, strict=True):
        if example.num_prompt >= block_size:
            what = (
                f"the prompt {prompt[:40]!r} has {example.num_prompt} tokens: none of its completion is left to learn"
            )
            raise InputError(where, what, "raise it, or lower data.prompt_words")
