"""A model folder, checked before its weights are read, into a frozen or trainable model and its tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers  # its classes by attribute: importing them here would cost a second
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging

from triplex.runs.errors import InputError

logging.disable_progress_bar()  # a bar a file, for files that load in no time

_INDEX = "model.safetensors.index.json"
_SETTINGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", _INDEX)
_OLD_CONSTANT = "attn.masked_bias"  # in old GPT-2 files; no weight
_MAX_TENSORS = 50_000  # in one file; the largest public models have a few thousand
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device() -> torch.device:
    """The accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_causal_lm(folder: str | Path, precision: str = "float32") -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) of a Hugging Face folder.

    Only safetensors are read and no code of the folder runs. A missing pad token becomes the end-of-text token: every
    use here masks padding by position, so it cannot be mistaken for an end. InputError for a folder that cannot serve.
    """
    model, tokenizer = _load(transformers.AutoModelForCausalLM, folder, "ForCausalLM", precision)
    if tokenizer.eos_token_id is None:
        raise InputError(folder, "the tokenizer has no end-of-text token", "set eos_token in tokenizer_config.json")
    return model, tokenizer


def load_classifier(folder: str | Path, precision: str = "float32") -> tuple[Any, Any]:
    """(sequence classifier in eval mode, tokenizer) of a Hugging Face folder, with the checks of `load_causal_lm`."""
    model, tokenizer = _load(
        transformers.AutoModelForSequenceClassification, folder, "ForSequenceClassification", precision
    )
    model.config.pad_token_id = tokenizer.pad_token_id  # by which the head finds the last token
    return model, tokenizer


def _load(kind: Any, folder: str | Path, suffix: str, precision: str) -> tuple[Any, Any]:
    folder = Path(folder)
    check_folder(folder, suffix)
    try:
        model, info = kind.from_pretrained(
            folder,
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they are named below
            output_loading_info=True,
        )
        tokenizer = load_tokenizer(folder, model)
    except InputError:
        raise
    except Exception as error:  # of many types, and all of them say what is wrong with the folder
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(folder, f"transformers cannot read it ({reason})", "save the model again") from error
    for problem in ("mismatched", "missing", "unexpected"):
        found = sorted(str(key) for key in info[f"{problem}_keys"] if not str(key).endswith(_OLD_CONSTANT))
        if found:
            what = f"{len(found)} {problem} weights, {found[0]} the first"
            raise InputError(folder, what, "restore the config and the weights that belong together")
    check_weights_finite(folder, model)
    return model.to(device()).eval(), tokenizer


def load_tokenizer(folder: Path, model: Any) -> Any:
    """The folder's fast tokenizer, padding on the left, with a pad token, no larger than the model's embedding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            folder,
            f"the tokenizer has {len(tokenizer)} entries, the embedding {rows} rows",
            "take the tokenizer that the model was trained with, or resize the embedding before saving",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def eos_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a text: the tokenizer's and all of the generation config's."""
    configured = model.generation_config.eos_token_id
    configured = [configured] if isinstance(configured, int) else list(configured or [])
    return sorted({tokenizer.eos_token_id, *configured})


def check_folder(folder: Path, suffix: str) -> None:
    """InputError unless `folder` is a local Hugging Face folder of architecture *`suffix` in readable safetensors."""
    if not folder.is_dir():
        raise InputError(folder, "no such model folder", "run the stage that writes it: `dvc repro` knows which")
    if (folder / "adapter_config.json").is_file():
        raise InputError(folder, "holds an adapter", "merge it into its base (peft: merge_and_unload) and save that")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise InputError(folder, f"holds no {name}", "save model and fast tokenizer with save_pretrained")
    settings = {name: _read_object(folder / name) for name in _SETTINGS if (folder / name).is_file()}
    code = [path.name for path in folder.glob("*.py")]
    code += [f"auto_map in {name}" for name, values in settings.items() if "auto_map" in values]
    if code:
        raise InputError(folder, f"wants to run its own code ({code[0]})", "use an architecture that transformers has")
    config = settings["config.json"]
    architectures = config.get("architectures") or []
    suffixes = (suffix, "LMHeadModel") if suffix == "ForCausalLM" else suffix
    if not any(name.endswith(suffixes) for name in architectures) or config.get("is_encoder_decoder"):
        what = f"holds {architectures or 'no architecture'}, needed is a *{suffix} model"
        raise InputError(folder, what, "point at a model of that kind")
    index = settings.get(_INDEX)
    _check_weight_files(folder, set(index.get("weight_map", {}).values()) if index else {"model.safetensors"})


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(file, f"not valid JSON ({error})", "restore the file") from error
    if not isinstance(value, dict):
        raise InputError(file, f"holds {type(value).__name__}, not an object", "restore the file")
    return value


def _check_weight_files(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        shard = folder / name
        if not shard.is_file():
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            what = f"has only pickle weights ({pickled[0]})" if pickled else f"has no {name}"
            raise InputError(folder, what, "save the model again with save_pretrained (safetensors)")
        try:
            with safe_open(shard, framework="pt") as opened:
                num_tensors = len(opened.keys())
        except SafetensorError as error:
            raise InputError(
                shard, f"damaged safetensors ({error})", "restore it: `dvc checkout`, or copy it again"
            ) from error
        if num_tensors > _MAX_TENSORS:
            raise InputError(shard, f"names {num_tensors} tensors, above {_MAX_TENSORS}", "restore the file")


def check_weights_finite(folder: Path, model: nn.Module) -> None:
    """InputError naming the first tensor that holds NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(folder, f"weights of {name!r} are not finite", "train it again or restore a good copy")
