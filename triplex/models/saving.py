"""A trained model as a Hugging Face folder that holds nothing which differs between equal runs."""

from pathlib import Path
from typing import Any

from torch import nn

from triplex.runs.files import atomic_folder


def save_model(folder: str | Path, model: Any, tokenizer: Any) -> None:
    """Write config, generation config, `model.safetensors` and tokenizer; the folder appears whole or not at all."""
    model.config.use_cache = True
    with atomic_folder(folder, sum(parameter.nbytes for parameter in model.parameters())) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def num_parameters(model: nn.Module) -> int:
    """Distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
