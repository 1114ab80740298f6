"""How a supervised stage descends: the parameters of its optimiser and of its adapters."""

from pydantic import Field

from triplex.runs.params import Section


class OptimConfig(Section):
    """AdamW, linear warm-up, cosine decay to zero."""

    num_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="blocks or rows in one optimiser step")
    learning_rate: float = Field(gt=0, le=1)
    warmup_frac: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    checkpoint_every: int = Field(ge=1, description="optimiser steps between checkpoints")


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) on all linear layers; merged into the weights when training ends."""

    rank: int = Field(ge=0, description="0 trains all weights")
    alpha: int = Field(ge=1)
