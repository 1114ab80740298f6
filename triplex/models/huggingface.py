"""A transformers causal language model, with or without LoRA adapters, as a `CausalLM`.

Legend: B sequences, L positions, G responses a prompt, N places of any sequences, H width of the states, V vocabulary.
"""

from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from triplex.models.attention import use_short_attention
from triplex.models.causal import CausalLM, Trunk, position_ids
from triplex.models.gelu import fuse_gelu
from triplex.models.huggingface_branches import branch_states
from triplex.models.huggingface_decoder import ATTENTION, HuggingFaceDecoder
from triplex.models.loading import eos_token_ids
from triplex.runs.errors import InputError


class HuggingFaceTrunk(Trunk):
    """States alone, of any transformers model with a causal trunk, a sequence classifier's too; no logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        use_short_attention(self.transformer)
        fuse_gelu(self.transformer)
        self.max_positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.eos_ids: tuple[int, ...] = ()
        kinds, _ = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
        self._num_layers, self.reads_prompts_once = len(kinds), set(kinds) <= ATTENTION
        with torch.no_grad():
            self.hidden_size = trunk_states(self.transformer, _probe(model)).shape[-1]

    @property
    def transformer(self) -> Any:
        """The model that the adapters, if any, sit in: its trunk and head run through them."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L, H), the trunk's last state, after its final norm.

        Where no row is padded on the left nothing is masked: no real place sees the padding that comes after it.
        """
        if bool(mask[:, 0].all()):
            return trunk_states(self.transformer, ids)
        return trunk_states(self.transformer, ids, attention_mask=mask, position_ids=position_ids(mask))

    def branch_states(self, prompt_ids: Tensor, prompt_mask: Tensor, owner: Tensor, response_ids: Tensor,
                      response_mask: Tensor) -> Tensor:  # fmt: skip
        """(B, R, H), by keys and values of the prompts (U, P)."""
        return branch_states(
            self.transformer.base_model, self._num_layers, prompt_ids, prompt_mask, owner, response_ids, response_mask
        )


class HuggingFaceLM(HuggingFaceTrunk, CausalLM):
    """`model`, a transformers causal language model or a peft model around one, and the ends of its tokenizer.

    States are those of the trunk, and `logits` gives the model's own logits to the last bit. Where more than a linear
    head stands between the two (a soft cap, a scale), `logits` runs the model's own forward on the given states, so
    that a value head stands on the trunk's states everywhere. InputError for a model whose logits are no function of
    its trunk's last state.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model)
        self.eos_ids = tuple(eos_token_ids(model, tokenizer))
        self._head_is_linear = head_is_linear(self.transformer)

    def logits(self, states: Tensor) -> Tensor:
        """(N, V) for states (N, H), in the model's own precision."""
        return head_logits(self.transformer, states, linear=self._head_is_linear)

    def decoder(
        self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int
    ) -> HuggingFaceDecoder:
        """With a cache of keys and values; prompts (B, P) are padded on the left."""
        return HuggingFaceDecoder(self.transformer, prompt_ids, prompt_mask, group_size, max_new_tokens)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Inside, the model is the one that the adapters were put on: the reference policy of a LoRA run."""
        if not hasattr(self.model, "disable_adapter"):
            raise InputError(
                "the policy", "has no adapters to switch off", "give a reference model, or train with LoRA"
            )
        return self.model.disable_adapter()


def trunk_states(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    """(B, L, H): the last state of a transformers model's trunk; all of `ids` (B, L) count unless `inputs` say not."""
    inputs = {"attention_mask": torch.ones_like(ids), "use_cache": False} | inputs
    return model.base_model(input_ids=ids, **inputs).last_hidden_state


def head_is_linear(model: Any) -> bool:
    """Whether the output embedding of the trunk's states is the model's logits to the last bit, found by trying.

    InputError when not even the model's forward on its trunk's states gives them.
    """
    ids = _probe(model)
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        states = trunk_states(model, ids)[0]
        head = model.get_output_embeddings()
        if head is not None and torch.equal(head(states).float(), wanted.float()):
            return True
        if not torch.equal(head_logits(model, states, linear=False).float(), wanted.float()):
            what = f"the logits of {type(model).__name__} are no function of its trunk's last state"
            raise InputError(model.config.name_or_path or "the model", what, "take another architecture")
    return False


def head_logits(model: Any, states: Tensor, *, linear: bool) -> Tensor:
    """(N, V) for states (N, H); unless `linear`, by the model's own forward with the trunk's place taken by them."""
    if linear:
        return model.get_output_embeddings()(states)
    trunk = model.base_model
    setattr(model, model.base_model_prefix, _Given(states[None]))
    try:
        return model(input_ids=torch.zeros(1, len(states), dtype=torch.long, device=states.device)).logits[0]
    finally:
        setattr(model, model.base_model_prefix, trunk)


class _Given(nn.Module):
    """A trunk that gives these states (1, N, H), whatever it reads."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self._states = states

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=cast(Any, self._states))


def _probe(model: Any) -> Tensor:
    return torch.arange(2, device=model.device)[None]
