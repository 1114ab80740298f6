"""The base model: from the hub, from a folder, or trained here from scratch."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from triplex.distributed.strategy import Strategy
from triplex.models.loading import device, load_causal_lm
from triplex.models.optim import OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer
from triplex.models.sources import FolderConfig, HubConfig, model_folder
from triplex.models.training import SupervisedTrainer
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described
from triplex.runs.stage import Run


class BaseConfig(Section):
    """`base:` which model, and how it is trained when it comes from scratch."""

    model: Annotated[ScratchConfig | FolderConfig | HubConfig, Field(discriminator="kind")] = described(
        "trained here from nothing, a folder, or of the hub"
    )
    block_size: int = described("tokens in a packed training block", unit="tokens", ge=8)
    optim: OptimConfig


def base_model(
    config: BaseConfig, precision: str, texts: Sequence[str], run: Run, strategy: Strategy | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer). Only `kind: scratch` looks at `texts`, and trains, with all workers of `strategy`."""
    match config.model:
        case ScratchConfig() as scratch:
            return _train_from_scratch(config, scratch, precision, texts, run, strategy)
        case FolderConfig() | HubConfig() as given:
            return load_causal_lm(model_folder(given), precision)


def _train_from_scratch(
    config: BaseConfig, scratch: ScratchConfig, precision: str, texts: Sequence[str], run: Run,
    strategy: Strategy | None,
) -> tuple[Any, Any]:  # fmt: skip
    if config.block_size > scratch.max_positions:
        raise InputError(
            "params.yaml: base.block_size",
            f"{config.block_size} is above base.model.max_positions = {scratch.max_positions}",
            "lower the one or raise the other",
        )
    tokenizer = train_tokenizer(texts, scratch.vocab_size, scratch.max_positions)
    model = build_causal_lm(scratch, tokenizer).to(device())
    ends = [tokenizer.eos_token_id]
    examples = [Example(ids + ends, 0) for ids in tokenizer(list(texts))["input_ids"]]
    shape = partial(collate, block_size=config.block_size, pad_token_id=tokenizer.pad_token_id)
    SupervisedTrainer(
        run.name, model, pack(examples, config.block_size), shape, next_token_loss, config.optim, seed=run.seed,
        precision=precision, state=run.state, strategy=strategy,
    ).train()  # fmt: skip
    return model.eval(), tokenizer
