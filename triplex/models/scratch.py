"""A tokenizer and a causal language model from nothing."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from triplex.runs.params import Section, described

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"


class ScratchConfig(Section):
    """`base.model` with `kind: scratch`: a Hugging Face architecture of this size, randomly initialised."""

    kind: Literal["scratch"]
    architecture: Literal["gpt2", "llama", "mistral", "qwen3"] = described("the class of transformers")
    vocab_size: int = described(
        "tokens of the byte-level BPE that is trained on the corpus",
        unit="tokens",
        source="arXiv 1508.07909",
        ge=300,
        le=200000,
    )
    hidden_size: int = described("width of the states", unit="numbers", ge=16, multiple_of=8)
    num_layers: int = described("transformer blocks", unit="layers", ge=1)
    num_heads: int = described("attention heads of a block", unit="heads", ge=1)
    max_positions: int = described("longest text, prompt and response together", unit="tokens", ge=32)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):  # rotary positions turn pairs of a head's channels
            raise ValueError(f"hidden_size = {self.hidden_size} is no multiple of 2 * num_heads = {2 * self.num_heads}")
        return self


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_positions: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text encodes and decodes to itself. Each text is encoded with `<|endoftext|>` in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    template = processors.TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=max_positions,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_causal_lm(config: ScratchConfig, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A randomly initialised model for `tokenizer`, without dropout; torch's global seed decides its weights."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size: dict[str, Any]
    if config.architecture == "gpt2":
        size = {
            "n_embd": config.hidden_size, "n_layer": config.num_layers, "n_head": config.num_heads,
            "n_positions": config.max_positions, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
            "activation_function": "gelu_pytorch_tanh",  # gelu_new, the same function, in one kernel
        }  # fmt: skip
    else:
        size = {
            "hidden_size": config.hidden_size, "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_heads,
            "head_dim": config.hidden_size // config.num_heads, "intermediate_size": 8 * config.hidden_size // 3,
            "max_position_embeddings": config.max_positions, "tie_word_embeddings": True,
        }  # fmt: skip
    built = AutoConfig.for_model(config.architecture, vocab_size=len(tokenizer), **size, **special)
    return AutoModelForCausalLM.from_config(built)
