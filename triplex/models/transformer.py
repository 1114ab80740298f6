"""A transformer from scratch in plain PyTorch: a policy, a value network, a cached decoder, saving and loading.

The architecture is Llama's (arXiv 2302.13971) with a tied head: RMS norms before each half of a block (arXiv
1910.07467), rotary positions (arXiv 2104.09864), gated SiLU (arXiv 2002.05202), no biases. Weights and config.json have
Llama's names, so that `AutoModelForCausalLM.from_pretrained` reads what is saved here, though nothing here needs it.

Legend: B sequences, P prompt, L positions, Q of them read now, G responses a prompt, N rows still decoded, H width,
A heads, D = H / A, V vocabulary. Masks are bool or 0 and 1; True is a token, False padding on either side.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triplex.models.causal import position_ids
from triplex.runs.errors import InputError
from triplex.runs.files import atomic_folder, write_json
from triplex.runs.params import Section

ROPE_BASE = 10_000.0
NORM_EPS = 1e-6
INIT_STD = 0.02
_LLAMA_NAMES = {
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads", "feed_forward_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
}  # fmt: skip


class TransformerConfig(Section):
    """The size of the model."""

    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=2)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    feed_forward_size: int = Field(ge=1, description="8/3 of hidden_size makes a block as large as GPT-2's")
    max_positions: int = Field(ge=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):  # rotary positions turn pairs of a head's channels
            raise ValueError(f"hidden_size = {self.hidden_size} is no multiple of 2 * num_heads = {2 * self.num_heads}")
        return self

    def as_llama(self) -> dict[str, Any]:
        """The same in the words of config.json."""
        return {
            "model_type": "llama", **{_LLAMA_NAMES[name]: size for name, size in self.model_dump().items()},
            "num_key_value_heads": self.num_heads, "head_dim": self.hidden_size // self.num_heads,
            "rope_parameters": {"rope_theta": ROPE_BASE, "rope_type": "default"}, "rms_norm_eps": NORM_EPS,
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        }  # fmt: skip


class Cache:
    """The keys and values (N, A, L, D) of each layer for the positions read so far."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with those of the positions read now (N, A, Q, D) at the end."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values

    def select(self, rows: Tensor) -> None:
        """Go on with these rows; a row may come several times."""
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """`x` (N, A, Q, D) with its channel pairs (i, i + D/2) turned by positions (N, Q) * ROPE_BASE ** (-2i / D)."""
    half = x.shape[-1] // 2
    speeds = ROPE_BASE ** -(torch.arange(half, device=x.device).float() / half)
    angles = positions[:, None, :, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.num_heads, self.layer = config.num_heads, layer
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor, cache: Cache | None) -> Tensor:
        """(N, Q, H) for x (N, Q, H), positions (N, Q) and allowed (N, 1, Q, L): what each place may look at."""
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers, the first one gated."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.down_proj = nn.Linear(config.feed_forward_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, Q, H) for x (N, Q, H)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to what came in."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, NORM_EPS)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, NORM_EPS)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor, cache: Cache | None) -> Tensor:
        """(N, Q, H); arguments as `Attention.forward`."""
        x = x + self.self_attn(self.input_layernorm(x), positions, allowed, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Token ids to states: embedding, blocks, a norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, NORM_EPS)

    def forward(self, ids: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        """(N, Q, H) for ids (N, Q); mask (N, L) is of the L - Q positions in the cache and these Q after them."""
        num, mask = ids.shape[1], mask.bool()
        positions = position_ids(mask)[:, -num:]
        places = torch.arange(mask.shape[1], device=ids.device)
        now = places[-num:, None]
        # itself too, so that padding on the left looks at something: of nothing, kernels make 0 or NaN
        allowed = ((places <= now) & mask[:, None]) | (places == now)
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, positions, allowed[:, None], cache)
        return self.norm(x)


class TransformerBase(nn.Module):
    """A trunk in a folder: config.json and model.safetensors."""

    architecture: ClassVar[str]  # in config.json
    #: what transformers needs beside that; without the two ids it would take Llama's
    for_transformers: ClassVar[dict[str, Any]] = {"bos_token_id": None, "eos_token_id": None}

    def __init__(self, config: TransformerConfig) -> None:
        """Random weights from torch's global generator: N(0, 0.02), less where they add to the residual stream."""
        super().__init__()
        self.config, self.hidden_size = config, config.hidden_size
        self.model = Trunk(config)
        for name, parameter in self.model.named_parameters():
            if parameter.dim() == 2:  # not the norms, which start at 1
                to_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=INIT_STD / (2 * config.num_layers) ** 0.5 if to_residual else INIT_STD)

    def save(self, folder: str | Path) -> None:
        """Write the folder, which appears whole or not at all; equal models make equal bytes."""
        with atomic_folder(folder, sum(parameter.nbytes for parameter in self.parameters())) as aside:
            write_json(aside / "config.json", self._settings(self.config) | self.for_transformers)
            save_file(self.state_dict(), aside / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `save` wrote, in eval mode; a Llama folder with a tied head and one key per query fits too.

        InputError naming the setting for a folder of another architecture.
        """
        path = Path(folder) / "config.json"
        for name in (path.name, "model.safetensors"):
            if not (Path(folder) / name).is_file():
                raise InputError(folder, f"no {name} in it", "name a folder that `save` wrote")
        found = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in _LLAMA_NAMES.values() if name not in found]:
            raise InputError(path, f"no {missing[0]}", "name a folder that `save` wrote")
        config = TransformerConfig(**{name: found[there] for name, there in _LLAMA_NAMES.items()})
        for key, value in cls._settings(config).items():
            if found.get(key) != value:
                what = f"{key} is {found.get(key)!r}, and {cls.__name__} computes with {value!r}"
                raise InputError(path, what, "convert the folder, or load it with transformers")
        model = cls(config)
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.eval()

    @classmethod
    def _settings(cls, config: TransformerConfig) -> dict[str, Any]:
        return {"architectures": [cls.architecture], **config.as_llama()}


class CachedDecoder:
    """Each prompt read once for its whole group, then one position a step."""

    def __init__(self, trunk: Trunk, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int) -> None:
        self._trunk, self._ids, self._mask, self._group_size = trunk, prompt_ids, prompt_mask, group_size
        self._cache = Cache()

    def prefill(self) -> Tensor:
        """(B * G, H) states after each prompt."""
        states = self._trunk(self._ids, self._mask, self._cache)[:, -1]
        group = torch.arange(len(states), device=states.device).repeat_interleave(self._group_size)
        self.keep(group)
        return states[group]

    def step(self, tokens: Tensor) -> Tensor:
        """(N, H) states after one more token (N,) in each row."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        return self._trunk(tokens[:, None], self._mask, self._cache)[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._cache.select(rows)
        self._mask = self._mask[rows]


class Transformer(TransformerBase):
    """A policy: logits of the next token."""

    architecture = "LlamaForCausalLM"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, L, V) for ids and mask (B, L)."""
        return self.head(self.states(input_ids, attention_mask))

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L, H) for ids and mask (B, L)."""
        return self.model(input_ids, attention_mask)

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V) for states (..., H), by the embedding's own weights."""
        return F.linear(states, self.model.embed_tokens.weight)

    def decoder(self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int) -> CachedDecoder:
        """A `triplex.models.causal.Decoder`; the cache grows with the text, whatever `max_new_tokens` is."""
        return CachedDecoder(self.model, prompt_ids, prompt_mask, group_size)


class ValueTransformer(TransformerBase):
    """A value network: the trunk of a `Transformer` and a head that starts at zero."""

    architecture = "LlamaForTokenClassification"
    for_transformers = TransformerBase.for_transformers | {"id2label": {"0": "value"}, "label2id": {"value": 0}}

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Values (B, L) for ids and mask (B, L): of the text up to each place, that place's token with it."""
        return self.score(self.model(input_ids, attention_mask)).squeeze(-1)
