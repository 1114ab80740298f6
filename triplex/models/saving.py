"""A trained model as a Hugging Face folder that holds nothing which differs between equal runs."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn


def save_model(folder: str | Path, model: Any, tokenizer: Any) -> None:
    """Write config, generation config, `model.safetensors` and tokenizer; the folder appears whole or not at all."""
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.config.use_cache = True
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def num_parameters(model: nn.Module) -> int:
    """Distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
