"""Low-rank adapters around a model."""

from typing import Any

from triplex.models.optim import LoraConfig


def with_adapters(model: Any, config: LoraConfig) -> Any:
    """`model` itself for rank 0, else a peft model with fresh adapters on all its linear layers."""
    if config.rank == 0:
        return model
    import peft  # a quarter of a second that a process without adapters need not wait

    adapters = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model, adapters)
