from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.optim import LoraConfig, OptimConfig
from triplex.models.sft import SFTConfig, fine_tune
from triplex.runs.errors import InputError
from triplex.runs.stage import Run

PAIRS = [("The tea", " kettle boils fast."), ("I like", " this lamp."), ("The chair", " broke after a week;")] * 8


def config(*, num_examples: int = 1000, block_size: int = 64, rank: int = 0) -> SFTConfig:
    optim = OptimConfig(
        num_epochs=3, batch_size=2, learning_rate=1e-2, warmup_frac=0.0, weight_decay=0.0, max_grad_norm=1.0,
        checkpoint_every=100,
    )  # fmt: skip
    lora = LoraConfig(rank=rank, alpha=8)
    return SFTConfig(num_examples=num_examples, block_size=block_size, lora=lora, optim=optim)


def tune(model: Any, tokenizer: Any, state: Path, *, pairs: list[tuple[str, str]] = PAIRS, **values: int) -> Any:
    torch.manual_seed(0)
    chosen = config(**values)
    tuned = fine_tune(chosen, "float32", model, tokenizer, pairs, Run("sft", 5, state))
    return tuned.merge_and_unload() if values.get("rank") else tuned


@torch.no_grad()
def nats(model: Any, tokenizer: Any, prompt: str, completion: str) -> float:
    """-log p(completion | prompt), by hand."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    ids = prompt_ids + tokenizer(completion, add_special_tokens=False)["input_ids"]
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(logprobs[i - 1, ids[i]].item() for i in range(len(prompt_ids), len(ids)))


@pytest.mark.parametrize("rank", [0, 4])
def test_completions_become_likelier(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any, rank: int
) -> None:
    before, model = tiny_lm(), tune(tiny_lm(), tiny_tokenizer, tmp_path, rank=rank)
    assert type(model) is type(before)
    assert not model.training
    for prompt, completion in PAIRS[:3]:
        margin = 5 if rank == 0 else 1
        assert (
            nats(model, tiny_tokenizer, prompt, completion) < nats(before, tiny_tokenizer, prompt, completion) - margin
        )


def test_the_first_examples_alone_are_learned(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    other = [("The tea", " handle stays cool.")] * 8
    few = tune(tiny_lm(), tiny_tokenizer, tmp_path / "1", pairs=PAIRS + other, num_examples=len(PAIRS))
    all_of_them = tune(tiny_lm(), tiny_tokenizer, tmp_path / "2", pairs=PAIRS)
    for one, same in zip(few.parameters(), all_of_them.parameters(), strict=True):
        assert torch.equal(one, same)


def test_equal_runs_are_bit_identical(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    one = tune(tiny_lm(), tiny_tokenizer, tmp_path / "1", rank=2).state_dict()
    other = tune(tiny_lm(), tiny_tokenizer, tmp_path / "2", rank=2).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_block_larger_than_the_model_is_refused(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    with pytest.raises(InputError, match=r"sft.block_size = 65: the model has 64 positions\n  remedy: lower it to 64"):
        tune(tiny_lm(), tiny_tokenizer, tmp_path, block_size=65)


def test_bad_23_prompt_that_fills_a_block_is_refused(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    pairs = [*PAIRS, ("The handle stays cool and the print is small", " but")]
    with pytest.raises(InputError, match=r"the prompt 'The handle stays cool and the print is s' has .* tokens"):
        tune(tiny_lm(), tiny_tokenizer, tmp_path, pairs=pairs, block_size=8)
