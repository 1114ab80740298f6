"""A causal language model seen as a policy: log-probabilities, entropy and values of response tokens.

Legend: B sequences, P prompt, R response, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class TokenOutputs(NamedTuple):
    """Per response token, float32: log-probability of the token (nats), entropy of its distribution, value estimate."""

    logprobs: Tensor  # (B, R); 0 where the mask is False
    entropy: Tensor  # (B, R)
    values: Tensor | None  # (B, R); None without a value head


def position_ids(mask: Tensor) -> Tensor:
    """Positions counted over True places, so that left padding does not shift them."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def response_outputs(lm: Any, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor,
                     *, hidden: bool = False) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(logits (B, R, V), hidden states (B, R, H) or None) at the places that predict each response token."""
    mask = torch.cat([prompt_mask, response_mask], 1)
    num_response = response_ids.shape[1]
    outputs = lm(
        input_ids=torch.cat([prompt_ids, response_ids], 1),
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        logits_to_keep=num_response + 1,
        output_hidden_states=hidden,
        use_cache=False,
    )
    states = outputs.hidden_states[-1][:, -num_response - 1 : -1] if hidden else None
    return outputs.logits[:, :-1], states


class Policy(nn.Module):
    """A causal LM with, on its last hidden state, a value head that starts at zero."""

    def __init__(self, lm: Any, *, value_head: bool) -> None:
        super().__init__()
        self.lm = lm
        self.value_head: nn.Linear | None = None
        if value_head:
            self.value_head = nn.Linear(lm.config.get_text_config().hidden_size, 1, device=lm.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor, temperature: float
    ) -> TokenOutputs:
        """Outputs for prompts (B, P), padded on the left, and responses (B, R), padded on the right."""
        logits, states = response_outputs(
            self.lm, prompt_ids, prompt_mask, response_ids, response_mask, hidden=self.value_head is not None
        )
        all_logprobs = torch.log_softmax(logits.float() / temperature, -1)
        # the fill also stops the gradient at padding, where exp(log-ratio) may be infinite and 0 * infinity is NaN
        logprobs = all_logprobs.gather(-1, response_ids[..., None]).squeeze(-1).masked_fill(~response_mask, 0)
        entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
        values = None if self.value_head is None or states is None else self.value_head(states.float()).squeeze(-1)
        return TokenOutputs(logprobs, entropy, values)
