"""A model folder, checked before its weights are read, into a frozen or trainable model and its tokenizer."""

import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers  # its classes by attribute: importing them here would cost a second
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging

from triplex.runs.errors import InputError
from triplex.runs.params import nearest

logging.disable_progress_bar()  # a bar a file, for files that load in no time

_INDEX = "model.safetensors.index.json"
_SETTINGS = ("*config.json", "tokenizer.json", _INDEX)
_OLD_CONSTANT = "attn.masked_bias"  # in old GPT-2 files; no weight
_MAX_TENSORS = 50_000  # in one file; the largest public models have a few thousand
_MAX_HEADER_BYTES = 16 * 2**20  # of one file: some 300 bytes a tensor
_MAX_DIMENSIONS = 64  # torch's own limit
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # of an element, by the names of safetensors  # fmt: skip
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
    except (InputError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of many types, panics of the tokenizers' Rust among them; all say what is wrong
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
        beside = [each.parent.name for each in folder.parent.glob("*/config.json")]
        remedy = "run the stage that writes it: `dvc repro` knows which"
        raise InputError(
            folder, "no such model folder", remedy + (f"; {nearest(folder.name, beside)}" if beside else "")
        )
    if (folder / "adapter_config.json").is_file():
        raise InputError(folder, "holds an adapter", "merge it into its base (peft: merge_and_unload) and save that")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise InputError(folder, f"holds no {name}", "save model and fast tokenizer with save_pretrained")
    settings = {path.name: _read_object(path) for pattern in _SETTINGS for path in sorted(folder.glob(pattern))}
    code = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    code += [f"auto_map in {name}" for name, values in settings.items() if _wants_code(name, values)]
    if code:
        raise InputError(folder, f"wants to run its own code ({code[0]})", "use an architecture that transformers has")
    config = settings["config.json"]
    named = config.get("architectures")
    architectures = [str(name) for name in named] if isinstance(named, list) else []
    suffixes = (suffix, "LMHeadModel") if suffix == "ForCausalLM" else suffix
    if not any(name.endswith(suffixes) for name in architectures) or config.get("is_encoder_decoder"):
        what = f"holds {architectures or 'no architecture'}, needed is a *{suffix} model"
        raise InputError(folder, what, "point at a model of that kind")
    _check_weight_files(folder, _shards(folder / _INDEX, settings.get(_INDEX)))


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or brackets without end
        raise InputError(file, f"not valid JSON ({error})", "restore the file") from error
    if not isinstance(value, dict):
        raise InputError(file, f"holds {type(value).__name__}, not an object", "restore the file")
    return value


def _wants_code(name: str, values: Any) -> bool:
    """Whether `auto_map` is a key of a configuration, at any depth; in a vocabulary it is a word."""
    if not name.endswith("config.json"):
        return False
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return (isinstance(values, dict) and "auto_map" in values) or any(_wants_code(name, value) for value in inner)


def _shards(file: Path, index: dict[str, Any] | None) -> set[str]:
    """The names of the weight files: those of the index, which name files of the folder and no others."""
    if index is None:
        return {"model.safetensors"}
    weight_map = index.get("weight_map")
    names: list[Any] = list(weight_map.values()) if isinstance(weight_map, dict) else [weight_map]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(file, f"weight_map names {name!r:.80}, no file of the folder", "restore the file")
    return set(names)


def _check_weight_files(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        shard = folder / name
        if not shard.is_file():
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            what = f"has only pickle weights ({pickled[0]})" if pickled else f"has no {name}"
            raise InputError(folder, what, "save the model again with save_pretrained (safetensors)")
        _check_header(shard)
        try:
            with safe_open(shard, framework="pt"):
                pass
        except SafetensorError as error:
            raise _damaged(shard, str(error)) from error


def _check_header(shard: Path) -> None:
    """InputError for a header of a safetensors file that is too large or says more than the file holds.

    Looked at before the library reads it, which takes a header of up to 100 MB and as many tensors as fit into it.
    """
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise _damaged(shard, f"a header of {length} bytes in a file of {size}, at most {_MAX_HEADER_BYTES}")
        content = file.read(length)
    try:
        tensors = json.loads(content)
        tensors.pop("__metadata__", None)
        if len(tensors) > _MAX_TENSORS:
            raise InputError(shard, f"names {len(tensors)} tensors, above {_MAX_TENSORS}", "restore the file")
        for name, tensor in tensors.items():
            begin, end = tensor["data_offsets"]
            shape = tensor["shape"] if len(tensor["shape"]) <= _MAX_DIMENSIONS else [-1]
            bits = _BITS[tensor["dtype"]] * math.prod(shape)
            if not 0 <= begin <= end <= size - 8 - length or (end - begin) * 8 != bits:
                raise _damaged(shard, f"{name:.80} of shape {shape} is said to lie in bytes {begin} to {end}")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(shard, f"a header that is none: {type(error).__name__}: {error}") from error


def _damaged(shard: Path, what: str) -> InputError:
    return InputError(shard, f"damaged safetensors ({what})", "restore it: `dvc checkout`, or copy it again")


def check_weights_finite(folder: Path, model: nn.Module) -> None:
    """InputError naming the first tensor that holds NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(folder, f"weights of {name!r} are not finite", "train it again or restore a good copy")
