"""A row of digests for each step of a policy's training; what changes one quantity changes it and what follows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.triplex.rl.even_tokens import Make, even_share
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.digests import Digests
from triplex.rl.trainer import Trainer
from triplex.runs.digests import digest, read_rows

ROLLOUT = ["data", "sampled_ids", "old_logprobs", "ref_logprobs", "rewards", "advantages"]
ALL = [*ROLLOUT, "loss", "gradients", "weights"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(make: Make, name: str, *, state: str, **settings: Any) -> list[dict[str, Any]]:
    """The rows that the training leaves."""
    make(name, state=state, callbacks=[Digests(name)], num_steps=4, **settings).train()
    return read_rows(Path(f"reports/digests/train-{name}.jsonl"))


def odd_share(*arguments: Any, **columns: Any) -> list[float | None]:
    return [1 - share for share in even_share(*arguments, **columns) if share is not None]


class Nudge(Callback):
    """Changes the last bit of one number of what a step learns from, or of a weight after it."""

    def __init__(self, step: int, quantity: str) -> None:
        self.step, self.quantity = step, quantity

    def on_rollout(self, trainer: Trainer, step: int, batch: Batch) -> None:
        if step == self.step and self.quantity != "weights":
            tensor = getattr(batch, self.quantity)
            tensor[0, 0] = torch.nextafter(tensor[0, 0], torch.tensor(9.0))

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step and self.quantity == "weights":
            weight = next(trainer.policy.parameters()).data
            weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(9.0))


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_row_has_every_quantity_in_the_order_of_the_step(make: Make, name: str) -> None:
    rows = train(make, name, state="one")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(list(row) == ["step", *ALL] for row in rows)
    assert all(rows[0][key] != rows[1][key] for key in ALL)
    assert train(make, name, state="again") == rows


def test_digests_are_those_of_the_batch_and_of_the_weights(make: Make) -> None:
    batches: list[Batch] = []

    class Keep(Callback):
        def on_rollout(self, trainer: Trainer, step: int, batch: Batch) -> None:
            batches.append(batch)

    trainer = make("ppo", callbacks=[Digests("ppo"), Keep()], num_steps=2)
    trainer.train()
    rows = read_rows(Path("reports/digests/train-ppo.jsonl"))
    last = batches[-1]
    assert rows[-1]["sampled_ids"] == digest([last.response_ids, last.response_mask])
    assert rows[-1]["rewards"] == digest([last.score])
    assert rows[-1]["advantages"] == digest([last.advantages, last.returns])
    assert rows[-1]["weights"] == digest(trainer.policy.parameters())
    assert rows[-1]["loss"] == trainer.metrics[-1]["loss"]


@pytest.mark.parametrize(("quantity", "first"), [("old_logprobs", "old_logprobs"), ("weights", "weights")])
def test_one_bit_shows_first_where_it_is_and_then_in_what_follows(make: Make, quantity: str, first: str) -> None:
    rows = train(make, "grpo", state="one")
    make("grpo", state="two", callbacks=[Nudge(1, quantity), Digests("grpo")], num_steps=4).train()
    other = read_rows(Path("reports/digests/train-grpo.jsonl"))
    assert other[0] == rows[0]
    assert next(key for key in ALL if other[1][key] != rows[1][key]) == first
    assert other[2]["weights"] != rows[2]["weights"]
    assert other[2]["data"] == rows[2]["data"]


def test_another_reward_shows_in_rewards_first(make: Make) -> None:
    rows = train(make, "grpo", state="one")
    other = train(
        make, "grpo", state="two", reward=lambda *a, **k: [1 - x for x in even_share(*a, **k) if x is not None]
    )
    assert next(key for key in ALL if other[0][key] != rows[0][key]) == "rewards"


def test_another_seed_shows_in_the_data(make: Make) -> None:
    assert train(make, "grpo", state="one")[0]["data"] != train(make, "grpo", state="two", seed=2)[0]["data"]


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_interrupted_and_resumed_has_the_rows_of_the_undisturbed_run(make: Make, stop: int) -> None:
    rows = train(make, "grpo", state="whole", checkpoint_every=2)
    calls = 0

    def broken(*args: Any, **columns: Any) -> list[float | None]:
        nonlocal calls
        calls += 1
        if calls >= stop:
            raise KeyboardInterrupt
        return even_share(*args, **columns)

    with pytest.raises(KeyboardInterrupt):
        train(make, "grpo", state="state", checkpoint_every=2, reward=broken)
    assert train(make, "grpo", state="state", checkpoint_every=2) == rows
