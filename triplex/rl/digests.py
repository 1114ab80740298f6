"""A row of digests for each step of reinforcement learning, from the data that was drawn to the weights at its end."""

from typing import TYPE_CHECKING, Any

from triplex.rl.callbacks import Callback
from triplex.runs.digests import DigestRows, Row, digest, publish

if TYPE_CHECKING:
    from triplex.rl.batch import Batch
    from triplex.rl.trainer import Trainer


class Digests(Callback):
    """`digests.jsonl` in the run's state folder while it trains, reports/digests/train-NAME.jsonl at its end.

    `loss` is the number itself, the step's mean; `gradients` are those of the step's last descent, clipped. What is
    divided among workers has no digest. TRL's trainers tell of no rollout: their rows hold the step and the loss.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rollout: Row = {}

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        self._rows = DigestRows(trainer.run.state)
        self._rows.resume(first_step)

    def on_rollout(self, trainer: "Trainer", step: int, batch: "Batch") -> None:
        self._rollout = {
            "data": digest([batch.prompt_ids, batch.prompt_mask]),
            "sampled_ids": digest([batch.response_ids, batch.response_mask]),
            "old_logprobs": digest([batch.old_logprobs]),
            "ref_logprobs": digest([batch.ref_logprobs]),
            "rewards": digest([batch.score]),
            "advantages": digest([batch.advantages, batch.returns]),
        }

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        row: Row = {"step": step, **self._rollout, "loss": metrics["loss"]}
        if self._rollout:
            learning = [p for p in trainer.policy.parameters() if p.requires_grad]
            if trainer.strategy.zero_stage == 0:
                row["gradients"] = digest(p.grad for p in learning)
            if trainer.strategy.zero_stage < 3:
                row["weights"] = digest(learning)
        self._rows.append(row)

    def on_train_end(self, trainer: "Trainer") -> None:
        publish(f"train-{self.name}", trainer.run.state)
