import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triplex.models.loading import load_causal_lm
from triplex.rewards.composite import CompositeReward

PROMPTS = ["The tea", "I like", "A good book", "The chair"]
RESPONSES = [" kettle kettle kettle boils.", " this lamp. It is bright!", "", " broke after a week; I want it"]


def objects(values: list[Any]) -> np.ndarray:
    """(B,) of whatever."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_its_reward_manager_gets_the_direct_calls_numbers(
    tmp_path: Path, model_folder: Path, reward: CompositeReward
) -> None:
    naive = pytest.importorskip("verl.experimental.reward_loop.reward_manager.naive", reason="verl is not installed")
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import get_custom_reward_fn

    reward.as_verl(tmp_path / "reward.py")
    chosen = {"path": str(tmp_path / "reward.py"), "name": "compute_score"}
    compute_score = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": chosen}}))
    tokenizer = load_causal_lm(model_folder)[1]
    sampled = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in RESPONSES]
    width = max(map(len, sampled))
    batch = DataProto.from_dict(
        tensors={
            "responses": torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in sampled]),
            "attention_mask": torch.tensor([[1] * (2 + len(ids)) + [0] * (width - len(ids)) for ids in sampled]),
        },
        non_tensors={
            "data_source": objects(["reviews"] * 4),
            "reward_model": objects([{"ground_truth": f"reference {i}"} for i in range(4)]),
            "extra_info": objects([{"prompt": prompt, "index": i} for i, prompt in enumerate(PROMPTS)]),
        },
    )

    async def scored() -> list[dict[str, Any]]:
        manager = naive.NaiveRewardManager(OmegaConf.create({}), tokenizer, compute_score)
        manager.loop = asyncio.get_running_loop()
        return await asyncio.gather(*(manager.run_single(batch[i : i + 1]) for i in range(4)))

    found = asyncio.run(scored())
    output = reward.score(PROMPTS, RESPONSES, sampled, reference=[f"reference {i}" for i in range(4)])
    assert len({round(total, 3) for total in output.total.tolist()}) == 4
    assert [one["reward_score"] for one in found] == pytest.approx(output.total.tolist(), abs=1e-5)
    for name, values in output.components.items():
        logged = [one["reward_extra_info"][f"rewards/{name}"] for one in found]
        assert logged == pytest.approx(values.tolist(), abs=1e-5)
