"""TRL's GRPO and PPO trainers on the work of `benchmarks.training`, as they come and as fast as they can be made."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks import training
from benchmarks.training import EvenTokens, Size, make_prompts, read_model, read_tokenizer


class TRLClock(TrainerCallback):
    """When each of TRL's steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class QuietGRPO(GRPOTrainer):
    """Sends no telemetry."""

    def _send_telemetry(self) -> None:
        pass


class QuietPPO(PPOTrainer):
    """Sends no telemetry."""

    def _send_telemetry(self) -> None:
        pass


class Ids(nn.Module):
    """A trunk in the form of TRL's reward models, whose states are the ids."""

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[input_ids[..., None].float()])


class RewardModel(nn.Module):
    """A reward function in the form that TRL's PPO takes."""

    base_model_prefix = "trunk"

    def __init__(self, reward: EvenTokens, prompt_tokens: int) -> None:
        super().__init__()
        self.trunk, self.reward, self.prompt_tokens = Ids(), reward, prompt_tokens

    def score(self, states: Tensor) -> Tensor:
        """(B, L, 1): the response's reward, whichever place TRL looks at."""
        ids = states[:, self.prompt_tokens :, 0].long().tolist()
        scores = self.reward([""] * len(ids), [""] * len(ids), ids)
        return torch.tensor(scores)[:, None, None].expand_as(states)


def trl_trainer(name: str, size: Size, folder: Path, num_steps: int, reward: EvenTokens, clock: TRLClock) -> Any:
    """TRL's trainer of the model in `folder`, as fast as it can be made on a CPU; it prints nothing."""
    shared: dict[str, Any] = {
        "output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False,
        "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
        "dataloader_num_workers": 0, "seed": training.SEED, "learning_rate": training.LEARNING_RATE,
        "lr_scheduler_type": "constant", "adam_epsilon": training.ADAM_EPS, "max_grad_norm": training.MAX_GRAD_NORM,
        "temperature": 1.0,
    }  # fmt: skip
    whole: dict[str, Any] = {"per_device_train_batch_size": size.num_sequences, "gradient_checkpointing": False}
    tokenizer, model = read_tokenizer(folder), read_model(folder)
    if name != "ppo":
        micro: dict[str, Any] = {
            "gradient_accumulation_steps": size.num_sequences // GRPOConfig.per_device_train_batch_size
        }
        config = GRPOConfig(
            **shared, **(whole if name == "grpo_tuned" else micro), max_steps=num_steps,
            num_generations=training.GROUP_SIZE, max_completion_length=size.new_tokens,
            beta=training.KL_COEF, epsilon=training.CLIP_RANGE, loss_type="grpo", num_iterations=1,
        )  # fmt: skip
        texts = make_prompts(size, num_steps * size.num_sequences // training.GROUP_SIZE)
        trainer: Any = QuietGRPO(
            model=model, reward_funcs=reward, args=config, train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer, callbacks=[clock],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer
    # a mini-batch is one micro-batch: with gradient_accumulation_steps above 1 TRL would step less often
    ppo_config = PPOConfig(
        **shared, **whole, total_episodes=num_steps * size.num_sequences, num_ppo_epochs=training.PPO_EPOCHS,
        num_mini_batches=training.PPO_MINIBATCHES, local_rollout_forward_batch_size=size.num_sequences,
        response_length=size.new_tokens, kl_coef=training.KL_COEF, cliprange=training.CLIP_RANGE,
        vf_coef=training.VALUE_COEF, num_sample_generations=0,
    )  # fmt: skip
    ids = tokenizer(make_prompts(size, num_steps * size.num_sequences))["input_ids"]
    reward_model: Any = RewardModel(reward, size.prompt_tokens)  # to TRL any module of that form is one
    value_model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    trainer = QuietPPO(
        args=ppo_config, processing_class=tokenizer, model=model, ref_model=read_model(folder),
        reward_model=reward_model, value_model=value_model,
        train_dataset=Dataset.from_dict({"input_ids": ids}), callbacks=[clock],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
