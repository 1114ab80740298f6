"""The learning loop: roll out, score, estimate advantages, update, log.

Legend: B sequences, G responses a prompt, P prompt, R response.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from triplex.models.loading import eos_token_ids
from triplex.models.policy import Policy
from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import RewardOutput
from triplex.rl.advantages import zero_variance_frac
from triplex.rl.batch import Batch
from triplex.rl.checkpoint import load_checkpoint, save_checkpoint
from triplex.rl.grpo import GRPO
from triplex.rl.kl import AdaptiveKL, FixedKL
from triplex.rl.losses import aggregate, token_weights
from triplex.rl.masked import masked_mean
from triplex.rl.ppo import PPO
from triplex.rl.rollout import Responses, check_prompts_fit, decode, encode_prompts, sample_responses
from triplex.runs.errors import InputError
from triplex.runs.params import Section
from triplex.runs.progress import StepProgress
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import Run


class TrainConfig(Section):
    """`train:` what all algorithms share."""

    num_steps: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="responses a step")
    micro_batch_size: int = Field(ge=1, description="rows in one forward and backward pass; memory, not results")
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    kl_control: Literal["fixed", "adaptive"]
    kl_coef: float = Field(ge=0, description="reward or loss per nat; the first one when adaptive")
    kl_target: float = Field(gt=0, description="nats per token; `adaptive` steers towards it")
    kl_horizon: int = Field(ge=1, description="sequences over which `adaptive` moves the coefficient")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints")
    completions_every: int = Field(ge=1, description="steps between saved completions")


class Trainer:
    """One policy learning from one reward; a draw is a function of (seed, epoch, row), so a resumed run is exact."""

    def __init__(self, config: TrainConfig, algorithm: PPO | GRPO, policy: Any, reference: Any, tokenizer: Any,
                 reward: CompositeReward, prompts: Sequence[tuple[str, str]], columns: Mapping[str, Sequence[Any]],
                 run: Run) -> None:  # fmt: skip
        """`policy` and `reference` are causal LMs, the reference frozen; `prompts` are (id, text).

        `columns` hold what else the reward gets of a prompt, e.g. {"reference": texts}, a value a prompt.
        """
        check_sizes(config, algorithm, len(prompts))
        check_prompts_fit(policy, tokenizer, prompts, config.max_new_tokens)
        self.config, self.algorithm, self.run = config, algorithm, run
        self.policy = Policy(policy.eval(), value_head=algorithm.value_head)
        self.reference = Policy(reference.requires_grad_(False).eval(), value_head=False)
        self.tokenizer, self.reward, self.prompts, self.columns = tokenizer, reward, prompts, columns
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=algorithm.config.learning_rate, eps=1e-5, weight_decay=0.0
        )
        adaptive = AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
        self.kl: AdaptiveKL | FixedKL = adaptive if config.kl_control == "adaptive" else FixedKL(config.kl_coef)
        self.metrics: list[dict[str, Any]] = []
        self.completions: list[dict[str, Any]] = []

    def train(self) -> None:
        """Run all steps, from the newest checkpoint of this run when there is one."""
        first = load_checkpoint(self.run.state, self)
        with StepProgress(self.run.name, self.config.num_steps, done=first) as progress:
            for step in range(first, self.config.num_steps):
                rows, responses, prompt_ids, prompt_mask = self.rollout(step)
                batch, rewards = self.score(rows, responses, prompt_ids, prompt_mask)
                batch = self.algorithm.estimate_advantages(batch, self.kl.coef)
                losses = self.update(step, batch)
                self.log(step, rows, responses, batch, rewards, losses)
                progress.advance(reward=self.metrics[-1]["reward"], kl=self.metrics[-1]["kl"])
                if (step + 1) % self.config.checkpoint_every == 0:
                    save_checkpoint(self.run.state, self, step + 1)

    def rollout(self, step: int) -> tuple[list[int], Responses, Tensor, Tensor]:
        """Sample the step's responses: (prompt index of each prompt, responses, prompt_ids, prompt_mask)."""
        c, group = self.config, self.algorithm.group_size
        num = c.batch_size // group
        rows = self._rows_of(step, num)
        prompt_ids, prompt_mask = encode_prompts(
            self.tokenizer, [self.prompts[i][1] for i in rows], self.policy.lm.device
        )
        # a prompt comes once an epoch, so more than once in a step in which epochs meet
        epochs = [place // len(self.prompts) for place in range(step * num, (step + 1) * num)]
        seeds = [
            derive_seed(self.run.seed, "sample", epoch, self.prompts[i][0], g)
            for epoch, i in zip(epochs, rows, strict=True) for g in range(group)
        ]  # fmt: skip
        responses = sample_responses(
            self.policy.lm, prompt_ids, prompt_mask, seeds, group_size=group, max_new_tokens=c.max_new_tokens,
            temperature=c.temperature, eos_ids=eos_token_ids(self.policy.lm, self.tokenizer),
            pad_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        return rows, responses, prompt_ids.repeat_interleave(group, 0), prompt_mask.repeat_interleave(group, 0)

    @torch.no_grad()
    def score(
        self, rows: list[int], responses: Responses, prompt_ids: Tensor, prompt_mask: Tensor
    ) -> tuple[Batch, RewardOutput]:
        """The batch with scores, reference log-probs and, where there is a value head, values."""
        each = [i for i in rows for _ in range(self.algorithm.group_size)]
        columns = {name: [values[i] for i in each] for name, values in self.columns.items()}
        texts, ids = decode(self.tokenizer, responses)
        rewards = self.reward.score([self.prompts[i][1] for i in each], texts, ids, **columns)
        inputs = (prompt_ids, prompt_mask, responses.ids, responses.mask)
        references, values = [], []
        for chunk in zip(*(x.split(self.config.micro_batch_size) for x in inputs), strict=True):
            references.append(self.reference(*chunk, self.config.temperature).logprobs)
            if self.algorithm.value_head:
                values.append(self.policy(*chunk, self.config.temperature).values)
        batch = Batch(
            prompt_ids=prompt_ids, prompt_mask=prompt_mask, response_ids=responses.ids,
            response_mask=responses.mask & rewards.valid.to(prompt_ids.device)[:, None],
            old_logprobs=responses.logprobs, ref_logprobs=torch.cat(references),
            score=rewards.total.to(prompt_ids.device), values=torch.cat(values) if values else None,
        )  # fmt: skip
        return batch, rewards

    def update(self, step: int, batch: Batch) -> dict[str, float]:
        """`num_epochs` passes of `num_minibatches` optimiser steps; returns the means of what entered the loss."""
        a = self.algorithm.config
        self._set_learning_rate(step)
        sums: dict[str, float] = {}
        for epoch in range(a.num_epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.run.seed, "shuffle", step, epoch))
            order = torch.randperm(len(batch), generator=generator).to(batch.response_ids.device)
            for rows in order.chunk(a.num_minibatches):
                parts = self._optimizer_step(step, batch.rows(rows), a.aggregation)
                sums = {key: sums.get(key, 0.0) + value for key, value in parts.items()}
        return {key: value / (a.num_epochs * a.num_minibatches) for key, value in sums.items()}

    def _optimizer_step(self, step: int, minibatch: Batch, aggregation: str) -> dict[str, float]:
        """One descent on a mini-batch, whose micro-batches add up to it exactly."""
        c, device = self.config, minibatch.response_ids.device
        weights = token_weights(minibatch.response_mask, aggregation, c.max_new_tokens)
        sums: dict[str, float] = {}
        self.optimizer.zero_grad()
        for rows in torch.arange(len(minibatch), device=device).split(c.micro_batch_size):
            micro = minibatch.rows(rows)
            new = self.policy(
                micro.prompt_ids, micro.prompt_mask, micro.response_ids, micro.response_mask, c.temperature
            )
            per_token, parts = self.algorithm.loss(new, micro, self.kl.coef)
            loss = aggregate(per_token, weights[rows])
            loss.backward()
            for key, value in {"loss": per_token, **parts}.items():
                sums[key] = sums.get(key, 0.0) + aggregate(value.detach(), weights[rows]).item()
        sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), c.max_grad_norm).item()
        if not math.isfinite(sums["loss"] + sums["grad_norm"]):
            raise InputError(
                f"{self.run.name} step {step}",
                f"loss {sums['loss']} with gradient norm {sums['grad_norm']}: stopped before the weights changed",
                "lower the learning rate, or look for the reward that is not finite",
            )
        self.optimizer.step()
        return sums

    def log(self, step: int, rows: list[int], responses: Responses, batch: Batch, rewards: RewardOutput,
            losses: dict[str, float]) -> None:  # fmt: skip
        """Append the step's metrics, with TRL's names, adapt the KL coefficient, keep some completions."""
        group = self.algorithm.group_size
        kl = masked_mean(self.algorithm.kl(batch.old_logprobs, batch.ref_logprobs), batch.response_mask).item()
        row: dict[str, Any] = {
            "step": step, "reward": batch.score.mean().item(), "reward_std": batch.score.std(unbiased=False).item(),
            "kl": kl, "kl_target": self.kl.target, "kl_coef": self.kl.coef, **losses,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "completions/mean_length": responses.mask.sum(1).float().mean().item(),
            "completions/terminated_frac": responses.terminated.float().mean().item(),
            "completions/valid_frac": rewards.valid.float().mean().item(),
        }  # fmt: skip
        if group > 1:
            row["frac_reward_zero_std"] = zero_variance_frac(batch.score, batch.response_mask.any(1), group).item()
        row |= {f"rewards/{name}": value.mean().item() for name, value in rewards.components.items()}
        row |= {name: _mean(values) for name, values in rewards.extras.items()}
        self.metrics.append(row)
        self.kl.update(kl, len(batch))
        if step % self.config.completions_every == 0 or step + 1 == self.config.num_steps:
            texts, _ = decode(self.tokenizer, responses)
            for i in range(0, len(texts), max(1, len(texts) // 8)):
                prompt_id, prompt = self.prompts[rows[i // group]]
                kept = {"step": step, "id": prompt_id, "prompt": prompt, "completion": texts[i]}
                self.completions.append(kept | {"reward": batch.score[i].item()})

    def _rows_of(self, step: int, num: int) -> list[int]:
        """The step's prompts: consecutive places of a sequence of permutations, one an epoch over the prompts."""
        places = range(step * num, (step + 1) * num)
        permutations: dict[int, list[int]] = {}
        for epoch in {place // len(self.prompts) for place in places}:
            generator = torch.Generator().manual_seed(derive_seed(self.run.seed, "prompts", epoch))
            permutations[epoch] = torch.randperm(len(self.prompts), generator=generator).tolist()
        return [permutations[place // len(self.prompts)][place % len(self.prompts)] for place in places]

    def _set_learning_rate(self, step: int) -> None:
        """Linear decay to zero over the run."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.algorithm.config.learning_rate * (1 - step / self.config.num_steps)


def _mean(values: Sequence[float | None]) -> float:
    """Of the values that are there; 0 where none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else 0.0


def check_sizes(config: TrainConfig, algorithm: PPO | GRPO, num_prompts: int) -> None:
    """InputError unless a batch is whole groups and whole mini-batches, and there are prompts."""
    where = f"params.yaml: train.batch_size = {config.batch_size}"
    if config.batch_size % algorithm.group_size:
        raise InputError(where, f"not a multiple of grpo.group_size = {algorithm.group_size}", "change one of the two")
    if config.batch_size % algorithm.config.num_minibatches:
        num = algorithm.config.num_minibatches
        raise InputError(where, f"not a multiple of num_minibatches = {num}", "change one of the two")
    if config.kl_control == "adaptive" and config.kl_horizon < config.batch_size:
        what = f"above train.kl_horizon = {config.kl_horizon}: a step could turn the KL coefficient negative"
        raise InputError(where, what, "raise kl_horizon; 2000 and more are usual")
    if num_prompts == 0:
        raise InputError("data/processed/prompts.parquet", "holds no prompts", "run prepare on more data")
