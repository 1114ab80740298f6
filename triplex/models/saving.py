"""A trained model as a Hugging Face folder that holds nothing which differs between equal runs."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import GenerationConfig

from triplex.models.loading import eos_token_ids
from triplex.runs.files import atomic_folder

ADAPTER = "adapter"  # the folder of the adapters, beside the weights that they are merged into


def save_model(
    folder: str | Path, model: Any, tokenizer: Any, *, temperature: float = 1.0, max_new_tokens: int | None = None
) -> None:
    """Write config, generation config, `model.safetensors` and tokenizer; the folder appears whole or not at all.

    A peft model is written twice: its adapters alone, for its base, and merged into the weights. The generation config
    of a language model says how it was sampled: from the whole distribution, at `temperature`.
    """
    with atomic_folder(folder, sum(parameter.nbytes for parameter in model.parameters())) as aside:
        if hasattr(model, "merge_and_unload"):
            save_adapters(aside / ADAPTER, model)
            model = model.merge_and_unload()
        model.config.use_cache = True
        if model.can_generate():
            model.generation_config = generation_config(model, tokenizer, temperature, max_new_tokens)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def generation_config(model: Any, tokenizer: Any, temperature: float, max_new_tokens: int | None) -> GenerationConfig:
    """Sampling from the whole distribution, and every id that ends a text."""
    return GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=eos_token_ids(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
    )


def save_adapters(folder: Path, model: Any) -> None:
    """Write the adapters of a peft model, for `PeftModel.from_pretrained(base, folder)`."""
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)  # a set, whose order differs from process to process
    model.save_pretrained(folder, save_embedding_layers=False)  # which no adapter here changes
    (folder / "README.md").unlink()  # peft's form, to be filled in


def num_parameters(model: nn.Module) -> int:
    """Distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
