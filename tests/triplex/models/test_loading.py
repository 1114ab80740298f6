import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from triplex.models.loading import eos_token_ids, load_causal_lm, load_classifier
from triplex.models.saving import save_model
from triplex.runs.errors import InputError

Damage = Callable[[Path], None]
IDS = torch.arange(2, 12)[None]


@pytest.fixture
def folder(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A good GPT-2 of 2 layers, 32 wide."""
    save_model(tmp_path / "model", tiny_lm(), tiny_tokenizer)
    return tmp_path / "model"


@pytest.fixture
def classifier(folder: Path, tiny_tokenizer: Any) -> Path:
    """A good two-label classifier on the same GPT-2."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    save_model(folder.parent / "classifier", model, tiny_tokenizer)
    return folder.parent / "classifier"


def settings(file: str, **values: Any) -> Damage:
    """Set keys of a JSON file."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Change the tensors of model.safetensors."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def raw(
    change: Callable[[bytes], bytes], file: str = "model.safetensors", before: Damage = lambda folder: None
) -> Damage:
    """Change a file's bytes."""

    def damage(folder: Path) -> None:
        before(folder)
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return damage


def remove(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def add(file: str, content: bytes = b"") -> Damage:

    def damage(folder: Path) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)

    return damage


def header(entries: Any, data: bytes = b"") -> bytes:
    """A safetensors file with that header."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00002.bin")


def sharded(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) >= 2


def shard_lost(folder: Path) -> None:
    sharded(folder)
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def index_changed(change: Callable[[dict[str, str]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        sharded(folder)
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        file.write_text(json.dumps(index | {"weight_map": change(index["weight_map"])}))

    return damage


def elsewhere(folder: Path) -> None:
    """Good weights, beside the folder."""
    shutil.copy(folder / "model.safetensors", folder.parent)
    index_changed(lambda weight_map: dict.fromkeys(weight_map, "../model.safetensors"))(folder)


def larger_tokenizer(folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([f"<new {i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)


def adapter(folder: Path) -> None:
    """The folder as peft saves it: an adapter beside the base's tokenizer."""
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(folder), LoraConfig(r=2, target_modules="all-linear"))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    model.save_pretrained(folder)


def encoder_decoder(folder: Path) -> None:
    config = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def bad(number: int, name: str, damage: Damage, said: str) -> Any:
    return pytest.param(damage, said, id=f"bad-{number}-{name}")


NORM = "transformer.h.1.ln_2.weight"
SOUND_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
INDEX = "model.safetensors.index.json"


def one_tensor(**changes: Any) -> bytes:
    """A safetensors file of 8 bytes that says of itself what is not so: two thousand million numbers, or `changes`."""
    return header({"a": SOUND_TENSOR | {"shape": [2, 10**9]} | changes}, bytes(8))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        bad(48, "no-config", remove("config.json"), "holds no config.json"),
        bad(48, "config-cut", raw(lambda b: b[:50], "config.json"), "config.json: not valid JSON"),
        bad(48, "config-latin-1", raw(lambda b: b + "é".encode("latin-1"), "config.json"), "not valid JSON"),
        bad(48, "config-list", raw(lambda b: b"[]", "config.json"), "config.json: holds list, not an object"),
        bad(48, "config-empty", raw(lambda b: b"{}", "config.json"), "holds no architecture, needed is a *ForCausalLM"),
        bad(48, "unknown-type", settings("config.json", model_type="nope"), "transformers cannot read it (ValueError"),
        bad(48, "wrong-field", settings("config.json", n_layer="two"), "transformers cannot read it"),
        bad(48, "impossible-heads", settings("config.json", n_head=5), "divisible by num_heads"),
        bad(48, "generation", raw(lambda b: b"{", "generation_config.json"), "generation_config.json: not valid JSON"),
        bad(49, "wider-config", settings("config.json", n_embd=64), "28 mismatched weights"),
        bad(49, "larger-vocabulary", settings("config.json", vocab_size=400), "('transformer.wte.weight', torch.Size"),
        bad(49, "deeper-config", settings("config.json", n_layer=3), "12 missing weights, transformer.h.2."),
        bad(49, "shallower-config", settings("config.json", n_layer=1), "unexpected weights, transformer.h.1."),
        bad(49, "tensor-missing", weights(lambda w: w.pop(NORM)), f"1 missing weights, {NORM} the first"),
        bad(49, "tensor-too-many", weights(lambda w: w.update(x=torch.ones(2))), "1 unexpected weights, x the first"),
        bad(50, "shard-lost", shard_lost, "has no model-00003-of-00003.safetensors"),
        bad(50, "no-weights", remove("model.safetensors"), "has no model.safetensors"),
        bad(50, "index-too-short", index_changed(lambda m: dict.fromkeys(m, min(m.values()))), "missing weights"),
        bad(50, "index-elsewhere", elsewhere, "weight_map names '../model.safetensors', no file of the folder"),
        bad(50, "index-absolute", index_changed(lambda m: dict.fromkeys(m, "/x.safetensors")), "no file of the folder"),
        bad(50, "index-numbers", index_changed(lambda m: dict.fromkeys(m, 7)), "weight_map names 7, no file"),
        bad(50, "index-lists", index_changed(lambda m: {key: [] for key in m}), "weight_map names [], no file"),
        bad(50, "index-list", index_changed(lambda m: list(m)), "no file of the folder"),
        bad(50, "index-without", raw(lambda b: b"{}", INDEX, sharded), "weight_map names None, no file"),
        bad(50, "index-empty", index_changed(lambda m: {}), "transformers cannot read it"),
        bad(51, "pickle", pickled, "has only pickle weights (pytorch_model.bin)"),
        bad(51, "pickle-shards", pickled_shards, "has only pickle weights (pytorch_model-00001-of-00002.bin)"),
        bad(52, "code", add("modeling_mine.py"), "wants to run its own code (modeling_mine.py)"),
        bad(52, "code-below", add("code/mine.py"), "wants to run its own code (code/mine.py)"),
        bad(52, "code-beside-weights", add("__init__.py"), "wants to run its own code (__init__.py)"),
        bad(
            52, "nested-code", settings("config.json", text_config={"layers": [{"auto_map": {"AutoModel": "m.M"}}]}),
            "wants to run its own code (auto_map in config.json)",
        ),
        bad(
            52, "generation-code", settings("generation_config.json", auto_map={}),
            "wants to run its own code (auto_map in generation_config.json)",
        ),
        bad(52, "processor-code", add("preprocessor_config.json", b'{"auto_map": {}}'), "(auto_map in preprocessor_c"),
        bad(52, "model-code", settings("config.json", auto_map={"AutoModel": "m.M"}), "(auto_map in config.json)"),
        bad(
            52, "tokenizer-code", settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
            "wants to run its own code (auto_map in tokenizer_config.json)",
        ),
        bad(53, "vocabulary", larger_tokenizer, "entries, the embedding"),
        bad(53, "no-tokenizer", remove("tokenizer.json"), "holds no tokenizer.json"),
        bad(53, "tokenizer-cut", raw(lambda b: b[:99], "tokenizer.json"), "tokenizer.json: not valid JSON"),
        bad(53, "tokenizer-empty", raw(lambda b: b"{}", "tokenizer.json"), "transformers cannot read it"),
        bad(53, "no-end-of-text", settings("tokenizer_config.json", eos_token=None), "has no end-of-text token"),
        bad(56, "nan", weights(lambda w: w[NORM].fill_(float("nan"))), f"weights of '{NORM}' are not finite"),
        bad(56, "inf", weights(lambda w: w[NORM][3:4].fill_(float("-inf"))), f"weights of '{NORM}' are not finite"),
        bad(58, "adapter", adapter, "holds an adapter\n  remedy: merge it into its base (peft: merge_and_unload)"),
        bad(58, "adapter-beside-model", add("adapter_config.json", b"{}"), "holds an adapter"),
        bad(60, "lying-length", raw(lambda b: struct.pack("<Q", 10**12) + b[8:]), "a header of 1000000000000 bytes"),
        bad(60, "lying-shape", raw(lambda b: one_tensor()), "a of shape [2, 1000000000] is said to lie in bytes 0 to"),
        bad(60, "lying-end", raw(lambda b: one_tensor(shape=[4], data_offsets=[0, 16])), "bytes 0 to 16"),
        bad(60, "before-the-begin", raw(lambda b: one_tensor(shape=[4], data_offsets=[-8, 8])), "bytes -8 to 8"),
        bad(60, "backwards", raw(lambda b: one_tensor(shape=[-2], data_offsets=[8, 0])), "bytes 8 to 0"),
        bad(60, "many-dimensions", raw(lambda b: one_tensor(shape=[10**9] * 10**6)), "a of shape [-1] is said"),
        bad(60, "unknown-type", raw(lambda b: one_tensor(dtype="X8")), "KeyError: 'X8'"),
        bad(60, "shape-of-words", raw(lambda b: one_tensor(shape=["2"])), "damaged safetensors"),
        bad(60, "two-in-one-place", raw(lambda b: header(dict.fromkeys("ab", SOUND_TENSOR), bytes(8))), "damaged safe"),
        bad(60, "lying-offsets", raw(lambda b: b[:-100]), "damaged safetensors"),
        bad(60, "no-header", raw(lambda b: b"not safetensors at all"), "damaged safetensors"),
        bad(60, "header-cut", raw(lambda b: b[:300]), "damaged safetensors"),
        bad(60, "header-list", raw(lambda b: header([1, 2])), "damaged safetensors"),
        bad(60, "header-number", raw(lambda b: header({"a": 1})), "damaged safetensors"),
        bad(60, "header-deep", raw(lambda b: struct.pack("<Q", 10**5) + b"[" * 10**5), "RecursionError"),
        bad(61, "encoder-decoder", encoder_decoder, "holds ['T5ForConditionalGeneration'], needed is a *ForCausalLM"),
        bad(
            61, "classifier", settings("config.json", architectures=["GPT2ForSequenceClassification"]),
            "holds ['GPT2ForSequenceClassification'], needed is a *ForCausalLM model",
        ),
        bad(63, "0-bytes", raw(lambda b: b""), "model.safetensors: damaged safetensors"),
    ],
)  # fmt: skip
def test_bad_folder_is_refused(folder: Path, damage: Damage, said: str) -> None:
    damage(folder)
    with pytest.raises(InputError) as raised:
        load_causal_lm(folder)
    assert str(raised.value).startswith(str(folder))
    assert said in str(raised.value)
    assert raised.value.remedy


def test_bad_60_header_of_100_000_entries(folder: Path) -> None:
    entries = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(100_000)}
    (folder / "model.safetensors").write_bytes(header(entries, bytes(400_000)))
    with pytest.raises(InputError, match=r"model.safetensors: names 100000 tensors, above 50000"):
        load_causal_lm(folder)


def test_bad_60_header_of_20_mb(folder: Path) -> None:
    text = b"{" + b" " * 20 * 2**20 + b"}"
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InputError, match=r"a header of 20971522 bytes in a file of 20971530, at most 16777216"):
        load_causal_lm(folder)


def test_bad_52_a_word_of_the_vocabulary_is_no_wish_to_run_code(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["auto_map"] = vocab.pop(max(vocab, key=vocab.get))
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "modules.json").write_text("[]")  # as sentence-transformers has it
    _, loaded = load_causal_lm(folder)
    assert "auto_map" in loaded.get_vocab()


@pytest.mark.parametrize("path", ["nowhere", "model/config.json"])
def test_no_folder(folder: Path, path: str) -> None:
    with pytest.raises(InputError, match="no such model folder\n  remedy: run the stage that writes it"):
        load_causal_lm(folder.parent / path)


def test_good_folder(folder: Path, tiny_lm: Callable[..., Any]) -> None:
    model, tokenizer = load_causal_lm(folder)
    assert not model.training
    assert torch.equal(model(IDS).logits, tiny_lm()(IDS).logits)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]


def test_good_shards(folder: Path, tiny_lm: Callable[..., Any]) -> None:
    sharded(folder)
    assert torch.equal(load_causal_lm(folder)[0](IDS).logits, tiny_lm()(IDS).logits)


def test_constants_of_old_gpt2_files_are_no_weights(folder: Path, tiny_lm: Callable[..., Any]) -> None:
    def as_on_the_hub(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in (0, 1):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(64, 64).tril()[None, None].contiguous()
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    weights(as_on_the_hub)(folder)
    assert torch.equal(load_causal_lm(folder)[0](IDS).logits, tiny_lm()(IDS).logits)


def test_bad_54_missing_pad_token_becomes_the_end_of_text(folder: Path) -> None:
    settings("tokenizer_config.json", pad_token=None)(folder)
    _, tokenizer = load_causal_lm(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16, torch.float32])
def test_bad_57_weights_take_the_precision_asked_for(folder: Path, saved: torch.dtype, precision: str) -> None:
    GPT2LMHeadModel.from_pretrained(folder).to(saved).save_pretrained(folder)
    model, _ = load_causal_lm(folder, precision)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, precision)}
    assert torch.isfinite(model(IDS).logits).all()


def test_bad_59_tied_head_need_not_be_in_the_file(folder: Path) -> None:
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model, _ = load_causal_lm(folder)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_bad_63_read_only_files_serve(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        load_causal_lm(folder)
    finally:
        folder.chmod(0o755)


def test_bad_64_padding_is_on_the_left(folder: Path) -> None:
    settings("tokenizer_config.json", padding_side="right")(folder)
    _, tokenizer = load_causal_lm(folder)
    pad, front = tokenizer.pad_token_id, tokenizer.bos_token_id
    rows = tokenizer(["I", "I like this lamp."], padding=True)["input_ids"]
    assert rows[0][0] == pad
    assert rows[1][0] == front


def test_every_end_of_text_counts(folder: Path) -> None:
    settings("generation_config.json", eos_token_id=[5, 9])(folder)
    assert eos_token_ids(*load_causal_lm(folder)) == [0, 5, 9]
    settings("generation_config.json", eos_token_id=7)(folder)
    assert eos_token_ids(*load_causal_lm(folder)) == [0, 7]
    settings("generation_config.json", eos_token_id=None)(folder)
    assert 0 in eos_token_ids(*load_causal_lm(folder))


def test_good_classifier(classifier: Path) -> None:
    model, tokenizer = load_classifier(classifier)
    batch = tokenizer(["I", "I like this lamp."], padding=True, padding_side="right", return_tensors="pt")
    assert model(**batch).logits.shape == (2, 2)


def test_bad_54_classifier_without_pad_token_scores_batches(classifier: Path) -> None:
    settings("config.json", pad_token_id=None)(classifier)
    settings("tokenizer_config.json", pad_token=None)(classifier)
    model, tokenizer = load_classifier(classifier)
    batch = tokenizer(["I", "I like this lamp."], padding=True, padding_side="right", return_tensors="pt")
    alone = tokenizer(["I"], return_tensors="pt")
    torch.testing.assert_close(model(**batch).logits[:1], model(**alone).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        bad(61, "language-model", settings("config.json", architectures=["GPT2LMHeadModel"]), "*ForSequenceClassif"),
        bad(49, "head-missing", weights(lambda w: w.pop("score.weight")), "1 missing weights, score.weight the first"),
        bad(56, "nan", weights(lambda w: w["score.weight"].fill_(float("nan"))), "'score.weight' are not finite"),
        bad(48, "no-config", remove("config.json"), "holds no config.json"),
        bad(51, "pickle", pickled, "has only pickle weights"),
    ],
)
def test_bad_classifier_is_refused(classifier: Path, damage: Damage, said: str) -> None:
    damage(classifier)
    with pytest.raises(InputError) as raised:
        load_classifier(classifier)
    assert said in str(raised.value)
