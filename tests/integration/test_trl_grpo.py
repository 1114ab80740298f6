import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from triplex.models.loading import load_causal_lm
from triplex.rewards.composite import CompositeReward

trl = pytest.importorskip("trl", reason="the extra `trl` is not installed")

QUESTIONS = ["The tea", "I like", "A good book", "The chair"]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def train(
    folder: Path, prompts: list[Any], template: str | None, out: Path, rewards: list[Any]
) -> list[dict[str, Any]]:
    """What two steps of GRPO log, one entry a step."""
    model, tokenizer = load_causal_lm(folder)
    tokenizer.chat_template = template
    rows = {"prompt": prompts, "reference": [f"reference {i}" for i in range(len(prompts))]}
    settings = trl.GRPOConfig(
        output_dir=str(out), max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
        beta=0.05, use_cpu=True, report_to="none", logging_steps=1, save_strategy="no", disable_tqdm=True, bf16=False,
        temperature=1.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=settings,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


@pytest.mark.parametrize("conversational", [False, True])
def test_grpo_trains_on_the_direct_calls_numbers(
    tmp_path: Path, model_folder: Path, reward: CompositeReward, conversational: bool
) -> None:
    seen: list[dict[str, Any]] = []

    def witness(**batch: Any) -> list[float]:
        seen.append(batch)
        return [0.0] * len(batch["prompts"])

    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS] if conversational else QUESTIONS
    adapter = pickle.loads(pickle.dumps(reward.as_trl()))  # noqa: S301 - as a trainer in another process has it
    entries = train(model_folder, prompts, TEMPLATE if conversational else None, tmp_path, [adapter, witness])
    assert len(entries) == len(seen) == 2
    for entry, batch in zip(entries, seen, strict=True):
        texts, completions = batch["prompts"], batch["completions"]
        if conversational:
            # the reward's own tokenizer has no template
            texts = [messages[0]["content"] + "\n" for messages in texts]
            completions = [messages[0]["content"] for messages in completions]
        output = reward.score(texts, completions, batch["completion_ids"], reference=batch["reference"])
        assert len(set(output.total.tolist())) > 1
        assert math.isclose(entry["rewards/composite/mean"], output.total.mean().item(), abs_tol=1e-5)
        for name, values in output.components.items():
            assert math.isclose(entry[f"rewards/{name}"], values.mean().item(), abs_tol=1e-5)
