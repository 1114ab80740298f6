"""What the timings of training train: a random GPT-2, prompts of random words, a reward that costs next to nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from triplex.distributed.strategy import Strategy
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig
from triplex.models.policy import Policy
from triplex.models.value import ValueHead, ValueNetwork
from triplex.rewards.composite import CompositeReward, Part
from triplex.rl.algorithm import Algorithm
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig
from triplex.rl.grpo import GRPO, GRPOConfig
from triplex.rl.ppo import PPO, PPOConfig
from triplex.rl.prompts import Prompts
from triplex.rl.trainer import Trainer
from triplex.runs.stage import Run

PROMPT_TOKENS, NEW_TOKENS, GROUP_SIZE = 8, 32, 8
PPO_EPOCHS, PPO_MINIBATCHES = 4, 4
MAX_TOKENS_PER_PASS = 2048  # of params.yaml
LEARNING_RATE, KL_COEF, CLIP_RANGE, VALUE_COEF, MAX_GRAD_NORM, ADAM_EPS, SEED = 1e-5, 0.05, 0.2, 0.1, 1.0, 1e-5, 7


class Size(NamedTuple):
    """A model, and the responses of a step."""

    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    num_sequences: int
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS


class EvenTokens:
    """The reward: the share of even ids in a response. Counts the tokens that it sees, all that were generated."""

    __name__ = "even_tokens"

    def __init__(self) -> None:
        self.num_tokens = 0

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float | None]:
        self.num_tokens += sum(map(len, completion_ids))
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def write_model(size: Size, folder: Path) -> None:
    """GPT-2 with the same random weights each time, its activation as in GPT-2's files, and a tokenizer of its words.

    Its end-of-text and pad tokens stand outside of the model's vocabulary: neither is ever sampled.
    """
    torch.manual_seed(SEED)
    config = AutoConfig.for_model(
        "gpt2", n_layer=size.num_layers, n_embd=size.hidden_size, n_head=size.num_heads, vocab_size=size.vocab_size,
        n_positions=size.prompt_tokens + size.new_tokens, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    vocabulary = [*(f"w{i}" for i in range(size.vocab_size)), "<end>", "<pad>"]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>", padding_side="left",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)  # fmt: skip


def read_model(folder: Path) -> Any:
    """The model of `write_model`, in eval mode."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of `write_model`."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def make_prompts(size: Size, num: int) -> list[str]:
    """`num` texts of as many random words as a prompt has tokens."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, size.vocab_size, (num, size.prompt_tokens), generator=generator)
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]


def make_algorithm(name: str) -> Algorithm:
    """`grpo` with one update a step, `ppo` with its 16, `ppo_network` with a value network beside the policy."""
    shared = {"learning_rate": LEARNING_RATE, "clip_range": CLIP_RANGE, "entropy_coef": 0.0}
    if name == "grpo":
        return GRPO(GRPOConfig.model_validate(shared | {
            "num_epochs": 1, "num_minibatches": 1, "group_size": GROUP_SIZE, "advantage_eps": 1e-4,
            "aggregation": "sequence", "kl": {"place": "loss", "estimator": "k3"},
        }))  # fmt: skip
    return PPO(PPOConfig.model_validate(shared | {
        "num_epochs": PPO_EPOCHS, "num_minibatches": PPO_MINIBATCHES, "aggregation": "token",
        "kl": {"place": "reward", "estimator": "k1"}, "value_coef": VALUE_COEF, "value_clip_range": 0.2,
        "value": {"kind": "network" if name == "ppo_network" else "head"}, "gamma": 1.0, "gae_lambda": 0.95,
        "whiten_rewards": False,
    }))  # fmt: skip


def make_trainer(
    name: str, size: Size, folder: Path, num_steps: int, reward: EvenTokens, callbacks: Sequence[Callback] = (),
    run: Run | None = None, strategy: Strategy | None = None, *, lora_rank: int = 0,
    checkpoint_every: int | None = None,
) -> Trainer:  # fmt: skip
    """Triplex's trainer of the model in `folder`; it does not evaluate before its last step, nor save unless asked."""
    algorithm, tokenizer = make_algorithm(name), read_tokenizer(folder)
    lora = LoraConfig(rank=lora_rank, alpha=16)
    lm = HuggingFaceLM(with_adapters(read_model(folder), lora), tokenizer)
    reference = None if lora_rank else HuggingFaceLM(read_model(folder), tokenizer)
    value: ValueHead | ValueNetwork | None = None
    if name != "grpo":
        value = ValueNetwork.from_policy(lm) if name == "ppo_network" else ValueHead(lm.hidden_size)
    config = TrainConfig.model_validate({
        "backend": "native", "num_steps": num_steps, "batch_size": size.num_sequences,
        "max_tokens_per_pass": MAX_TOKENS_PER_PASS,
        "max_new_tokens": size.new_tokens, "temperature": 1.0, "lr_schedule": "constant",
        "max_grad_norm": MAX_GRAD_NORM, "kl_coef": KL_COEF, "kl_control": {"kind": "fixed"},
        "lora": lora.model_dump(), "eval_every": num_steps, "num_eval_prompts": 4,
        "checkpoint_every": checkpoint_every or num_steps, "completions_every": num_steps,
    })  # fmt: skip
    texts = make_prompts(size, num_steps * size.num_sequences // algorithm.group_size)
    prompts = Prompts([str(i) for i in range(len(texts))], texts)
    return Trainer(
        config, algorithm, Policy(lm, value), reference, tokenizer, CompositeReward({"even_tokens": Part(reward)}),
        prompts, prompts.first(4), run or Run("benchmark", SEED, folder / "state"), callbacks=callbacks,
        strategy=strategy,
    )  # fmt: skip
