import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triplex.models.loading import load_causal_lm
from triplex.rewards.composite import CompositeReward
from triplex.rewards.server import RewardServer

agent = pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF is not installed; it needs its own environment")

PROMPTS = ["The tea", "I like", "A good book", "The chair"]
RESPONSES = [" kettle kettle kettle boils.", " this lamp. It is bright!", "", " broke after a week; I want it"]


class FixedAnswers:
    """In vLLM's place: the responses above, token by token; the last one is cut off before the end of the text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked = [self.ids(prompt) for prompt in PROMPTS]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def tokens(self, row: int) -> list[int]:
        ended = row < len(PROMPTS) - 1
        return self.ids(RESPONSES[row]) + [self.tokenizer.eos_token_id] * ended

    async def generate(self, prompt_ids: Sequence[int], params: Any, multi_modal_data: Any = None) -> Any:
        row = self.asked.index(list(prompt_ids))
        reason = "stop" if row < len(PROMPTS) - 1 else "length"
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=self.tokens(row), finish_reason=reason, logprobs=None)]
        )


def rollouts(endpoint: str, tokenizer: Any) -> list[dict[str, Any]]:
    """What OpenRLHF's own executor hands to its trainer for the four prompts, asked at the same time."""
    executor, engine = agent.SingleTurnAgentExecutor(endpoint), FixedAnswers(tokenizer)
    params = SimpleNamespace(max_tokens=24, logprobs=None)

    async def all_of_them() -> list[dict[str, Any]]:
        asked = enumerate(PROMPTS)
        return await asyncio.gather(
            *(executor.execute(prompt, f"reference {i}", params, 64, tokenizer, engine) for i, prompt in asked)
        )

    return asyncio.run(all_of_them())


def check(found: list[dict[str, Any]], reward: CompositeReward, tokenizer: Any) -> None:
    engine = FixedAnswers(tokenizer)
    ids = [engine.tokens(row) for row in range(len(PROMPTS))]
    output = reward.score(PROMPTS, RESPONSES, ids, reference=[f"reference {i}" for i in range(len(PROMPTS))])
    assert len({round(total, 3) for total in output.total.tolist()}) == len(PROMPTS)
    for row, one in enumerate(found):
        for key in ("reward", "scores"):
            assert float(one[key][0]) == pytest.approx(output.total[row].item(), abs=1e-5)
        for name, values in output.components.items():
            assert float(one["extra_logs"][f"rewards/{name}"][0]) == pytest.approx(values[row].item(), abs=1e-5)


def test_its_rollouts_get_the_direct_calls_numbers_from_the_file(
    tmp_path: Path, model_folder: Path, reward: CompositeReward
) -> None:
    reward.as_openrlhf(tmp_path / "reward.py")
    tokenizer = load_causal_lm(model_folder)[1]
    check(rollouts(str(tmp_path / "reward.py"), tokenizer), reward, tokenizer)


def test_its_rollouts_get_the_direct_calls_numbers_from_the_server(model_folder: Path, reward: CompositeReward) -> None:
    tokenizer = load_causal_lm(model_folder)[1]
    with RewardServer(reward, port=0, max_batch_size=4, max_wait_ms=50, token="0123456789abcdef") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            check(rollouts(server.url, tokenizer), reward, tokenizer)
        finally:
            server.shutdown()
            thread.join()
