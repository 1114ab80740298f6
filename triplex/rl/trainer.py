"""The learning loop: roll out, score, estimate advantages, update, log.

Legend: B sequences, G responses a prompt, P prompt, R response, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from triplex.distributed.strategy import Strategy
from triplex.models.causal import CausalLM
from triplex.models.policy import Policy, TokenOutputs
from triplex.models.value import ValueHead, ValueNetwork
from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import RewardOutput
from triplex.rl.advantages import zero_variance_frac
from triplex.rl.algorithm import Algorithm
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.checkpoint import digest_of_frozen, load_checkpoint, save_checkpoint
from triplex.rl.config import Bounded, TrainConfig, check_sizes
from triplex.rl.kl import kl_estimate
from triplex.rl.losses import aggregate, token_weights
from triplex.rl.optimizer import make_optimizer
from triplex.rl.prompts import Prompts
from triplex.rl.rollout import check_prompts_fit, decode, encode_prompts, sample_responses
from triplex.rl.shares import gather_responses, gather_rewards, own_passes
from triplex.rl.step import Place, Rollout, Sampled
from triplex.rl.summary import mean_kl, reward_summary
from triplex.runs import interrupt
from triplex.runs.errors import InputError
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import Run


class Trainer:
    """One policy learning from one reward; a draw is a function of (seed, epoch, row), so a resumed run is exact."""

    def __init__(
        self, config: TrainConfig, algorithm: Algorithm, policy: Policy, reference: CausalLM | None, tokenizer: Any,
        reward: CompositeReward, prompts: Prompts, held_out: Prompts, run: Run, *, precision: str = "float32",
        callbacks: Sequence[Callback] = (), strategy: Strategy | None = None,
    ) -> None:  # fmt: skip
        """`reference` is frozen here; without one it is the policy with its adapters switched off.

        `held_out` is looked at every eval_every steps. With precision bfloat16 the weights stay float32, forward
        passes compute in bfloat16. Callbacks are told of each event in their order. `strategy` says how workers share
        a step; every worker has the same batch and the same metrics, the first one writes the checkpoints.
        """
        self.strategy = strategy or Strategy()
        check_sizes(config, algorithm, len(prompts), self.strategy.num_workers)
        check_prompts_fit(policy.lm, tokenizer, prompts.ids, prompts.texts, config.max_new_tokens)
        check_prompts_fit(policy.lm, tokenizer, held_out.ids, held_out.texts, config.max_new_tokens)
        self.config, self.algorithm, self.run = config, algorithm, run
        self.policy, self.tokenizer, self.reward = policy.eval(), tokenizer, reward
        self.prompts, self.held_out = prompts, held_out.first(config.num_eval_prompts)
        self.reference = policy if reference is None else Policy(reference.requires_grad_(False).eval(), None)
        self.policy.shares_prompts = self.reference.shares_prompts = algorithm.group_size > 1
        self._reference_mode: Callable[[], AbstractContextManager[None]] = nullcontext
        if reference is None:
            self._reference_mode = policy.lm.adapter_off  # type: ignore[assignment]  # of HuggingFaceLM
        self.device, self.precision = next(policy.parameters()).device, precision
        self.frozen_digest = digest_of_frozen(policy, self.reference)
        self.optimizer, self._rates = make_optimizer(policy, algorithm)
        self._learner = self.strategy.prepare(policy, self.optimizer, config.max_grad_norm)
        if self.reference is not policy:
            self.strategy.divide(self.reference, called=("token_logprobs", "log_distribution"))
        self.reward.divide(self.strategy.divide_at_rest)
        self.kl = config.make_kl_control()
        kl = algorithm.config.kl
        self._exact_kl_in_loss = kl.estimator == "full" and kl.place == "loss"
        self.callbacks = callbacks
        self.metrics: list[dict[str, Any]] = []
        self.completions: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.place = Place()

    def train(self) -> None:
        """Run all steps, from the newest checkpoint of this run when there is one.

        `Interrupted`, after a checkpoint, when the process has been asked to end.
        """
        c = self.config
        with interrupt.deferred():
            load_checkpoint(self)
            self._tell("on_train_begin", self.place.step)
            for step in range(self.place.step, c.num_steps):
                if self.stopped:
                    break
                if self.place.sampled is None:  # else the checkpoint lies inside this step
                    self._tell("on_step_begin", step)
                    rollout = self.rollout(step)
                    self.place.sampled = Sampled(rollout, *self.score(rollout))
                rollout, scored, rewards = self.place.sampled
                batch = self.algorithm.estimate_advantages(scored, self.kl.coef)
                self._tell("on_rollout", step, batch)
                losses = self.update(step, batch, rollout)
                self.log(step, rollout, scored, rewards, losses)
                self._tell("on_step_end", step, self.metrics[-1])
                asked = self._asked_to_end()
                if (step + 1) % c.checkpoint_every == 0 or asked:
                    save_checkpoint(self)
                    self._tell("on_checkpoint", step)
                if asked:
                    raise interrupt.Interrupted(asked)
            self._tell("on_train_end")

    def stop(self, reason: str) -> None:
        """End training after this step; for callbacks."""
        self.stopped = reason

    def rollout(self, step: int) -> Rollout:
        """The step's responses."""
        num, group = self.config.batch_size // self.algorithm.group_size, self.algorithm.group_size
        drawn = self.prompts.draw(self.run.seed, step, num)
        # a prompt comes once an epoch, so more than once in a step in which epochs meet
        seeds = [
            derive_seed(self.run.seed, "sample", epoch, self.prompts.ids[i], g)
            for epoch, i in drawn for g in range(group)
        ]  # fmt: skip
        return self._sample(self.prompts, [i for _, i in drawn], seeds, group)

    @torch.no_grad()
    def score(self, rollout: Rollout, prompts: Prompts | None = None) -> tuple[Batch, RewardOutput]:
        """The batch with its scores, and how far each token is from the reference; `prompts` are those of training."""
        rewards = self._rewards(rollout, prompts or self.prompts)
        responses = rollout.responses
        batch = Batch(
            row=torch.arange(len(rollout.rows), device=self.device), prompt_ids=rollout.prompt_ids,
            prompt_mask=rollout.prompt_mask, response_ids=responses.ids, response_mask=responses.mask,
            old_logprobs=responses.logprobs, ref_logprobs=torch.zeros_like(responses.logprobs),
            kl=torch.zeros_like(responses.logprobs), score=rewards.total.to(self.device), values=responses.values,
        )  # fmt: skip
        if self.algorithm.uses_values and batch.values is None:
            batch = replace(batch, values=torch.zeros_like(responses.logprobs))
        with self.strategy.whole():
            for rows, _ in own_passes(batch, self.config.max_tokens_per_pass, self.strategy):
                part = batch.rows(rows).trimmed()
                places = (rows, slice(part.response_ids.shape[1]))
                batch.ref_logprobs[places], batch.kl[places] = self._distance(part)
                if batch.values is not None and responses.values is None:
                    batch.values[places] = self._values(part)
        own = self.strategy.share(len(batch))
        names = [name for name in ("ref_logprobs", "kl", "values") if getattr(batch, name) is not None]
        found = self.strategy.gather([getattr(batch, name)[own] for name in names], len(batch))
        measured: dict[str, Any] = dict(zip(names, found, strict=True))
        mask = responses.mask & rewards.valid.to(self.device)[:, None]
        return replace(batch, response_mask=mask, **measured), rewards

    def update(self, step: int, batch: Batch, rollout: Rollout) -> dict[str, float]:
        """`num_epochs` passes of `num_minibatches` optimiser steps; returns the means of what entered the loss."""
        a, c = self.algorithm.config, self.config
        left = 1 - step / c.num_steps if c.lr_schedule == "linear" else 1.0
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * left
        minibatches: list[Tensor] = []
        for epoch in range(a.num_epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.run.seed, "shuffle", step, epoch))
            minibatches += torch.randperm(len(batch), generator=generator).to(self.device).chunk(a.num_minibatches)
        for rows in minibatches[self.place.descents :]:
            if asked := self._asked_to_end():
                save_checkpoint(self)
                raise interrupt.Interrupted(asked)
            parts = self._optimizer_step(step, batch.rows(rows), rollout)
            self.place.sums = {key: self.place.sums.get(key, 0.0) + value for key, value in parts.items()}
            self.place.descents += 1
        sums, self.place = self.place.sums, Place(step + 1)
        return {key: value / len(minibatches) for key, value in sums.items()}

    def _optimizer_step(self, step: int, minibatch: Batch, rollout: Rollout) -> dict[str, float]:
        """One descent on a mini-batch, whose passes add up to it exactly."""
        c, mask = self.config, minibatch.response_mask
        weights = token_weights(mask, self.algorithm.config.aggregation, c.max_new_tokens)
        shares = token_weights(mask, "token", c.max_new_tokens)  # the log shows means over tokens
        sums: dict[str, Tensor] = {}
        self.strategy.zero_grad()
        for rows, counts in own_passes(minibatch, c.max_tokens_per_pass, self.strategy):
            part = minibatch.rows(rows).trimmed()
            places = (rows, slice(part.response_ids.shape[1]))
            distribution = self._reference_distribution(part) if self._exact_kl_in_loss else None
            new = self._outputs(part, distribution, self._learner)
            per_token, parts = self.algorithm.loss(new, part, self.kl.coef)
            loss = aggregate(per_token, weights[places]) * counts
            if not torch.isfinite(loss):
                raise InputError(*self._what_is_not_finite(step, per_token, part, rollout))
            self.strategy.backward(loss)
            found = {"loss": loss} | {key: aggregate(value, shares[places]) * counts for key, value in parts.items()}
            sums = {key: sums.get(key, 0.0) + value.detach() for key, value in found.items()}
        norm = self.strategy.step()
        if not torch.isfinite(norm):
            where, what = f"{self.run.name} step {step}", f"gradient norm {norm}: stopped before the weights changed"
            raise InputError(where, what, "lower the learning rate, or raise advantage_eps or clip less")
        return {key: value.item() for key, value in (self.strategy.total(sums) | {"grad_norm": norm}).items()}

    def log(self, step: int, rollout: Rollout, scored: Batch, rewards: RewardOutput, losses: dict[str, float]) -> None:
        """Append the step's metrics, with TRL's names, adapt the KL coefficient, keep some completions."""
        c, group, lengths = self.config, self.algorithm.group_size, rollout.responses.mask.sum(1).float()
        kl, kl_sequence = mean_kl(scored)
        per_sequence = isinstance(c.kl_control, Bounded) and c.kl_control.unit == "sequence"
        target = self.kl.target
        row: dict[str, Any] = {
            "step": step, **reward_summary(scored, rewards), "kl": kl,
            "kl_target": target / lengths.mean().item() if target and per_sequence else target,
            "kl_coef": self.kl.coef, **losses, "learning_rate": self.optimizer.param_groups[0]["lr"],
            "completions/mean_length": lengths.mean().item(),
            "completions/terminated_frac": rollout.responses.terminated.float().mean().item(),
            "completions/valid_frac": rewards.valid.float().mean().item(),
        }  # fmt: skip
        if group > 1:
            row["frac_reward_zero_std"] = zero_variance_frac(scored.score, scored.response_mask.any(1), group).item()
        self.metrics.append(row)
        self.kl.update(kl_sequence if per_sequence else kl, len(scored))
        if step % c.completions_every == 0 or step + 1 == c.num_steps:
            for i in range(0, len(scored), max(1, len(scored) // 8)):
                prompt = rollout.rows[i // group * group]
                kept = {"step": step, "id": self.prompts.ids[prompt], "prompt": self.prompts.texts[prompt]}
                self.completions.append(kept | {"completion": rollout.texts[i], "reward": scored.score[i].item()})
        if (step + 1) % c.eval_every == 0:
            row |= self.evaluate()
            self._tell("on_evaluate", step, row)

    def evaluate(self) -> dict[str, float]:
        """How the policy answers held-out prompts, with draws that are the same at every step."""
        seeds = [derive_seed(self.run.seed, "evaluate", name) for name in self.held_out.ids]
        rollout = self._sample(self.held_out, list(range(len(seeds))), seeds, group_size=1)
        scored, rewards = self.score(rollout, self.held_out)
        return {
            "eval/reward": reward_summary(scored, rewards)["reward"], "eval/kl": mean_kl(scored)[0],
            "eval/completions/mean_length": rollout.responses.mask.sum(1).float().mean().item(),
        }  # fmt: skip

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    def _asked_to_end(self) -> int:
        """The signal by which any worker has been asked to end, 0 where none has: all decide alike."""
        return self.strategy.largest(interrupt.requested() or 0)

    def _rewards(self, rollout: Rollout, prompts: Prompts) -> RewardOutput:
        """Each worker scores its share."""
        own = self.strategy.share(len(rollout.rows))
        given = [prompts.texts[i] for i in rollout.rows[own]]
        columns = prompts.columns_of(rollout.rows[own])
        rewards = self.reward.score(given, rollout.texts[own], rollout.ids[own], **columns)
        return gather_rewards(self.strategy, rewards, len(rollout.rows))

    def _sample(self, prompts: Prompts, rows: list[int], seeds: Sequence[int], group_size: int) -> Rollout:
        prompt_ids, prompt_mask = encode_prompts(self.tokenizer, [prompts.texts[i] for i in rows], self.device)
        head = self.policy.value if isinstance(self.policy.value, ValueHead) else None
        own = self.strategy.share(len(rows))
        own_seeds = seeds[own.start * group_size : own.stop * group_size]
        with self.strategy.whole(), self._autocast():
            responses = sample_responses(
                self.policy.lm, prompt_ids[own], prompt_mask[own], own_seeds, group_size=group_size,
                max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature,
                pad_id=self.tokenizer.pad_token_id, value_head=head,
            )  # fmt: skip
        responses = gather_responses(
            self.strategy, responses, len(seeds), self.config.max_new_tokens, self.tokenizer.pad_token_id
        )
        texts, ids = decode(self.tokenizer, responses)
        each = [i for i in rows for _ in range(group_size)]
        prompt_ids, prompt_mask = (x.repeat_interleave(group_size, 0) for x in (prompt_ids, prompt_mask))
        return Rollout(each, prompt_ids, prompt_mask, responses, texts, ids)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _outputs(self, part: Batch, ref_log_distribution: Tensor | None = None, learner: Any = None) -> TokenOutputs:
        """Of the policy, or of the `learner` that stands for it where gradients are wanted."""
        with self._autocast():
            return (learner or self.policy)(
                *part.tokens(), self.config.temperature, ref_log_distribution=ref_log_distribution,
                entropy_grad=self.algorithm.config.entropy_coef > 0,
            )  # fmt: skip

    def _values(self, part: Batch) -> Tensor:
        assert isinstance(self.policy.value, ValueNetwork)
        with self._autocast():
            return self.policy.value(*part.tokens())

    @torch.no_grad()
    def _reference_distribution(self, part: Batch) -> Tensor:
        with self._autocast(), self._reference_mode():
            return self.reference.log_distribution(*part.tokens(), self.config.temperature)

    def _distance(self, part: Batch) -> tuple[Tensor, Tensor]:
        """(reference log-probs, KL at sampling time by the algorithm's estimator), both (B, R)."""
        name = self.algorithm.config.kl.estimator
        if name == "full":
            distribution = self._reference_distribution(part)
            ref = distribution.gather(-1, part.response_ids[..., None]).squeeze(-1) * part.response_mask
            kl = self._outputs(part, distribution).kl
            assert kl is not None
            return ref, kl
        with self._autocast(), self._reference_mode():
            ref = self.reference.token_logprobs(*part.tokens(), self.config.temperature)
        return ref, kl_estimate(name, part.old_logprobs, ref)

    def _what_is_not_finite(self, step: int, per_token: Tensor, part: Batch, rollout: Rollout) -> tuple[str, str, str]:
        """(where, what, remedy) with the first response that has such a loss."""
        bad = (~torch.isfinite(per_token) & part.response_mask).any(1)
        row = int(part.row[bad][0])
        prompt = rollout.rows[row]
        what = (
            f"the loss of the response {rollout.texts[row][:60]!r} is not finite:"
            f" stopped before the weights changed (score {part.score[bad][0]:.4g})"
        )
        where = f"{self.run.name} step {step}, prompt {self.prompts.ids[prompt]}"
        return where, what, "lower the learning rate, or look for what the reward pays this response"
