"""Low-rank adapters around a model."""

from typing import Any

from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from triplex.models.optim import LoraConfig


def with_adapters(model: Any, config: LoraConfig) -> Any:
    """`model` itself for rank 0, else a peft model with fresh adapters on all its linear layers."""
    if config.rank == 0:
        return model
    adapters = PeftLoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapters)
