"""A policy in 4 bits with adapters, loaded by Unsloth for the native path. Not run: it needs a CUDA GPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from triplex.models.optim import LoraConfig
from triplex.models.saving import ADAPTER, generation_config, save_adapters
from triplex.runs.errors import InputError

#: the linear layers of the families that Unsloth loads (Llama, Mistral, Qwen, Gemma)
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def check(lora: LoraConfig, precision: str) -> None:
    """InputError for a machine without a CUDA GPU or the package, and for what 4-bit weights cannot do."""
    what = [] if torch.cuda.is_available() else ["there is no CUDA GPU"]
    what += [] if find_spec("unsloth") else ["the package is not installed"]
    if what:
        remedy = "pip install 'triplex[unsloth]' on a machine with a CUDA GPU, or write train.backend: native"
        raise InputError("params.yaml: train.backend = unsloth", " and ".join(what), remedy)
    if lora.rank == 0:
        where, remedy = "params.yaml: train.lora.rank = 0", "write a rank, 16 say, or train.backend: native"
        raise InputError(where, "Unsloth's 4-bit weights do not learn, only adapters do", remedy)
    if precision != "bfloat16":
        where, remedy = f"params.yaml: compute.precision = {precision}", "write bfloat16, or train.backend: native"
        raise InputError(where, "Unsloth computes in bfloat16", remedy)


def load_policy(folder: str | Path, lora: LoraConfig, precision: str, *, seed: int) -> tuple[Any, Any]:
    """(peft model on 4-bit weights with fresh adapters, tokenizer padding on the left) of a Hugging Face folder.

    Not run on a GPU here: written from Unsloth's documentation of FastLanguageModel; its fast forward passes with left
    padding and a cache are unproven against ours. The package asks to be imported before transformers. InputError as
    `check`.
    """
    check(lora, precision)
    from unsloth import FastLanguageModel

    length = AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(folder), max_seq_length=length, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model, r=lora.rank, target_modules=LAYERS, lora_alpha=lora.alpha, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=seed % 2**32,
    )  # fmt: skip
    tokenizer.padding_side = "left"
    return model, tokenizer


def save_policy(
    folder: str | Path, model: Any, tokenizer: Any, *, temperature: float, max_new_tokens: int | None
) -> None:
    """As `save_model` of triplex/models/saving.py, adapters merged into 16-bit weights. Not run on a GPU here."""
    save_adapters(Path(folder) / ADAPTER, model)
    config = generation_config(model, tokenizer, temperature, max_new_tokens)
    model.save_pretrained_merged(str(folder), tokenizer, save_method="merged_16bit")
    config.save_pretrained(folder)
