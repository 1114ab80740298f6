"""Policies trained by TRL's GRPO, RLOO and PPO trainers.

A run has the native path's parameters, prompts, reward, metric names and files; `trl_limits` refuses what TRL
cannot do. Left are these differences (TRL 1.12.0):

- Sampling is `generate` on torch's global generator, and ends at the tokenizer's end-of-text token alone.
- A mini-batch is one pass: train.max_tokens_per_pass is not read. There is no look at held-out prompts.
- GRPO and RLOO cut the batch into mini-batches once a step, not once an epoch.
- A response without a reward has advantage 0 but stays in the loss's denominator; in PPO it scores 0.
- DAPO keeps the groups of equal rewards in the mean over tokens.
- RLOO clips the ratio of a response, not of a token: equal with one epoch and one mini-batch.
- PPO puts the score one place after the last token of a response that ends early, and learns a value there; and it
  takes a sampled pad token for the end.
- In the log GRPO's `kl` is a mean over the step's descents, not that of sampling, and it has no `policy_loss`; RLOO's
  `clip_ratio` counts responses; PPO's `entropy` is the mean of -log p of the sampled tokens.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from triplex.backends.trl_checkpoints import WithCheckpoints
from triplex.backends.trl_limits import check
from triplex.backends.trl_run import TRLRun
from triplex.models.causal import position_ids
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm
from triplex.models.lora import with_adapters
from triplex.rewards.composite import CompositeReward
from triplex.rl.algorithm import Algorithm, GroupConfig
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig, check_sizes
from triplex.rl.ppo import PPOConfig
from triplex.rl.prompts import Prompts
from triplex.rl.rollout import check_prompts_fit
from triplex.runs.errors import InputError
from triplex.runs.stage import Run

LOSS_TYPES = {"token": "bnpo", "sequence": "grpo", "constant": "dr_grpo"}  # TRL's names of `aggregation`
NEARLY_ZERO = 1e-12  # a price of the KL that changes nothing; at 0 TRL would not measure it


def train_policy(
    config: TrainConfig, name: str, algorithm: Algorithm, folder: str | Path, reward: CompositeReward,
    prompts: Prompts, run: Run, *, precision: str, callbacks: Sequence[Callback] = (), value_model: Any = None,
) -> tuple[Any, Any, TRLRun]:  # fmt: skip
    """(the causal LM of `folder`, in its adapters if any, after num_steps steps of TRL's trainer; tokenizer; the run).

    `value_model`: for PPO's value.kind reward_model, a one-label classifier. The callbacks write the files. GRPO and
    RLOO resume from the newest checkpoint in `run.state` that verifies and end with the bytes of an uninterrupted run:
    it falls between two samplings, where TRL's buffer is empty, and keeps optimiser, schedule and generators. TRL's
    PPO cannot resume: it starts again.
    InputError as `trl_limits.check`, and for prompts that do not fit.
    """
    check(config, name, algorithm.config, precision)
    check_sizes(config, algorithm, len(prompts))
    model, tokenizer = load_causal_lm(folder)
    check_prompts_fit(HuggingFaceLM(model, tokenizer), tokenizer, prompts.ids, prompts.texts, config.max_new_tokens)
    transformers.set_seed(run.seed % 2**32)
    generation = copy.deepcopy(model.generation_config)
    if isinstance(algorithm.config, PPOConfig):
        value_model = value_model or _value_model(model)
    policy = with_adapters(model, config.lora)
    # RLOO adds up a response's tokens where ours divides by max_new_tokens
    scale = float(config.max_new_tokens) if name == "rloo" else 1.0
    training = TRLRun(config, algorithm, tokenizer, reward, prompts, run, callbacks, scale)
    if isinstance(algorithm.config, PPOConfig):
        if tokenizer.pad_token_id == tokenizer.eos_token_id:
            what = "the pad token is the end-of-text token, which TRL's PPO then takes for padding"
            raise InputError(folder, what, "give the tokenizer a pad token of its own, or write train.backend: native")
        trainer = _ppo_trainer(training, algorithm.config, policy, value_model)
    else:
        trainer = _group_trainer(training, name, policy, precision)
    training.train(trainer)
    model.generation_config = generation  # where TRL writes its own end-of-text id
    return policy.eval(), tokenizer, training


class _Quiet:
    """A trainer that sends no telemetry and writes no model card beside the checkpoints."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass


class _QuietGRPOTrainer(_Quiet, WithCheckpoints, GRPOTrainer):
    pass


class _QuietRLOOTrainer(_Quiet, WithCheckpoints, RLOOTrainer):
    pass


def _group_trainer(training: TRLRun, name: str, policy: Any, precision: str) -> Any:
    """TRL's GRPO or RLOO; `bnpo` and not `dapo` for the mean over tokens, which is of the mini-batch here."""
    c, a = training.config, training.algorithm.config
    assert isinstance(a, GroupConfig)
    settings = _settings(training, precision) | {
        "per_device_train_batch_size": c.batch_size // a.num_minibatches, "steps_per_generation": a.num_minibatches,
        "num_iterations": a.num_epochs, "num_generations": a.group_size,
        "max_steps": c.num_steps * training.num_descents, "max_completion_length": c.max_new_tokens,
        "beta": c.kl_coef or NEARLY_ZERO, "epsilon": a.clip_range, "epsilon_high": a.clip_range_high,
        "shuffle_dataset": False, "disable_dropout": True, "save_strategy": "steps",
        "save_steps": c.checkpoint_every * training.num_descents,
    }  # fmt: skip
    kind: Any = _QuietRLOOTrainer if name == "rloo" else _QuietGRPOTrainer
    arguments: Any
    if name == "rloo":
        arguments = RLOOConfig(**settings)
    else:
        arguments = GRPOConfig(
            loss_type=LOSS_TYPES[a.aggregation], scale_rewards="none" if name == "dr_grpo" else "group",
            delta=a.dual_clip, entropy_coef=a.entropy_coef, use_bias_correction_kl=False, **settings,
        )  # fmt: skip
    texts = [training.prompts.texts[i] for i in training.drawn]
    trainer = kind(
        model=policy, reward_funcs=training, args=arguments, processing_class=copy.deepcopy(training.tokenizer),
        train_dataset=Dataset.from_dict({"prompt": texts, "row": training.drawn}), callbacks=[training],
        optimizers=_optimizers(training, [(policy, a.learning_rate)], training.num_descents),
    )  # fmt: skip
    if c.lora.rank:  # fresh adapters change nothing, so a copy is no other reference; and with it TRL cannot resume
        policy.delete_adapter("ref")
    for module in (policy, trainer.ref_model):
        if module is not None:  # with adapters the policy itself is the reference
            module.register_forward_pre_hook(_with_positions, with_kwargs=True)
    return trainer


def _with_positions(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Positions counted over the mask, where TRL gives none and GPT-2 would count the padding too."""
    if kwargs.get("position_ids") is None and kwargs.get("past_key_values") is None:
        kwargs = kwargs | {"position_ids": position_ids(kwargs["attention_mask"])}
    return args, kwargs


def _ppo_trainer(training: TRLRun, config: PPOConfig, policy: Any, value_model: Any) -> Any:
    """TRL's PPO; the batch is one of its micro-batches, since with more of them it would descend once an epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental
        from trl.experimental import ppo
    c, estimator = training.config, config.kl.estimator
    assert estimator in ("k1", "k3")
    arguments = ppo.PPOConfig(
        per_device_train_batch_size=c.batch_size, local_rollout_forward_batch_size=c.batch_size,
        total_episodes=c.num_steps * c.batch_size, num_mini_batches=config.num_minibatches,
        num_ppo_epochs=config.num_epochs, response_length=c.max_new_tokens, stop_token="eos", kl_coef=c.kl_coef,
        kl_estimator=estimator, cliprange=config.clip_range, vf_coef=config.value_coef,
        cliprange_value=config.value_clip_range, gamma=config.gamma, lam=config.gae_lambda,
        whiten_rewards=config.whiten_rewards, num_sample_generations=0, save_strategy="no",
        **_settings(training, "float32"),
    )  # fmt: skip
    tokenizer = copy.deepcopy(training.tokenizer)
    ids = [tokenizer(training.prompts.texts[i])["input_ids"] for i in training.drawn]
    rows = Dataset.from_dict({"input_ids": ids})
    rates = [(policy, config.learning_rate), (value_model, config.value.learning_rate or config.learning_rate)]
    trainer = type("PPOTrainer", (_Quiet, ppo.PPOTrainer), {})(
        args=arguments, processing_class=tokenizer, model=policy, ref_model=None, train_dataset=rows,
        reward_model=_PPOReward(training, ids), value_model=value_model, callbacks=[training],
        optimizers=_optimizers(training, rates, 1),
    )  # fmt: skip
    in_order = DataLoader(rows, batch_size=c.batch_size, collate_fn=trainer.data_collator)  # TRL's own shuffles
    trainer.dataloader = trainer.accelerator.prepare(in_order)
    return trainer


class _PPOReward(nn.Module):
    """The reward in the form of TRL's reward models, whose `score` is read off the last hidden state of a trunk.

    TRL asks once a step, for the whole batch. The state at each place is the score of its row.
    """

    base_model_prefix = "trunk"

    def __init__(self, training: TRLRun, prompt_ids: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.run, self.prompt_ids = training, prompt_ids

    def trunk(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        """A response follows padding and prompt, and ends where padding begins."""
        num = len(input_ids)
        first = len(self.run.metrics) * num
        ids = []
        for row, seen, prompt in zip(input_ids, attention_mask, self.prompt_ids[first : first + num], strict=True):
            begin = int(seen.long().argmax()) + len(prompt)
            ids.append(row[begin:][seen[begin:].long().cumprod(0).bool()].tolist())
        scores = self.run(completion_ids=ids, row=self.run.drawn[first : first + num])
        column = torch.tensor([score or 0.0 for score in scores], device=input_ids.device)
        return SimpleNamespace(hidden_states=[column[:, None, None].expand(*input_ids.shape, 1)])

    def score(self, states: Tensor) -> Tensor:
        """(B, L, 1)."""
        return states


def _value_model(model: Any) -> Any:
    """A one-label classifier with the trunk of the causal LM `model` and a head at 0."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    value: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    prefix = value.base_model_prefix
    getattr(value, prefix).load_state_dict(getattr(model, prefix).state_dict())
    nn.init.zeros_(value.score.weight)
    return value.to(model.device)


def _settings(training: TRLRun, precision: str) -> dict[str, Any]:
    """What all of TRL's trainers of policies are given."""
    c, seed = training.config, training.run.seed % 2**32
    return {
        "output_dir": str(training.run.state), "seed": seed, "data_seed": seed, "temperature": c.temperature,
        "max_grad_norm": training.scale * c.max_grad_norm, "bf16": precision == "bfloat16",
        "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "logging_steps": 1,
        "logging_nan_inf_filter": False, "report_to": [], "disable_tqdm": True, "log_level": "error",
        "dataloader_pin_memory": False, "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip


def _optimizers(training: TRLRun, rates: list[tuple[Any, float]], per_step: int) -> tuple[Any, LambdaLR]:
    """The native path's AdamW of these (module, learning rate), and its schedule, called `per_step` times a step."""
    groups = [{"params": [p for p in module.parameters() if p.requires_grad], "lr": rate} for module, rate in rates]
    optimizer = torch.optim.AdamW(groups, eps=1e-5 * training.scale, weight_decay=0.0)
    optimizer.register_step_pre_hook(training.before_descent)
    linear, num_steps = training.config.lr_schedule == "linear", training.config.num_steps
    return optimizer, LambdaLR(optimizer, lambda i: 1 - i // per_step / num_steps if linear else 1.0)
