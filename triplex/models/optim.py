"""How a supervised stage descends: the parameters of its optimiser and of its adapters."""

from triplex.runs.params import Section, described


class OptimConfig(Section):
    """AdamW, linear warm-up, cosine decay to zero."""

    num_epochs: int = described("passes over the rows", unit="epochs", ge=1)
    batch_size: int = described("blocks or rows in one optimiser step", unit="rows", ge=1)
    learning_rate: float = described("AdamW's, at the end of the warm-up", source="arXiv 1711.05101", gt=0, le=1)
    warmup_frac: float = described(
        "share of the steps in which the rate rises to learning_rate", unit="fraction of the steps", ge=0, lt=1
    )
    weight_decay: float = described("of matrices, decoupled from the gradient", source="arXiv 1711.05101", ge=0)
    max_grad_norm: float = described(
        "the norm of all gradients together is scaled down to it", source="arXiv 1211.5063", gt=0
    )
    checkpoint_every: int = described("optimiser steps between checkpoints", unit="steps", moves_weights=False, ge=1)


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) on all linear layers; kept as `adapter`, and merged when training ends."""

    rank: int = described("0 trains all weights", source="arXiv 2106.09685", ge=0)
    alpha: int = described("the adapters are scaled by alpha / rank", source="arXiv 2106.09685", ge=1)
