"""Policies trained by TRL: a few steps of each of its trainers on a small model, with a real composite as reward."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
import trl.trainer.base_trainer
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from triplex.backends.trl_policy import train_policy
from triplex.models.saving import save_model
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.rl.algorithms import ALGORITHMS
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig
from triplex.rl.prompts import Prompts
from triplex.rl.records import CompletionFile, MetricFiles
from triplex.runs import interrupt
from triplex.runs.errors import InputError
from triplex.runs.stage import Run

LENGTH, GROUP, BATCH = 8, 4, 8
#: of different lengths, so that some are padded; fewer than a run draws
PROMPTS = Prompts(
    ["p0", "p1", "p2"], ["The tea", "I like this lamp, and it", "A"], {"reference": ["cool", "bright", "B"]}
)
TRAIN: dict[str, Any] = {
    "backend": "trl", "num_steps": 2, "batch_size": BATCH, "max_tokens_per_pass": 64, "max_new_tokens": LENGTH,
    "temperature": 0.8, "lr_schedule": "linear", "max_grad_norm": 1.0, "kl_coef": 0.1, "kl_control": {"kind": "fixed"},
    "lora": {"rank": 0, "alpha": 16}, "eval_every": 1, "num_eval_prompts": 1, "checkpoint_every": 1,
    "completions_every": 1,
}  # fmt: skip
SHARED = {
    "learning_rate": 1e-3, "num_epochs": 2, "num_minibatches": 2, "clip_range": 0.2, "entropy_coef": 0.0,
}  # fmt: skip
IN_LOSS, IN_REWARD = {"place": "loss", "estimator": "k3"}, {"place": "reward", "estimator": "k1"}
SECTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"kl": IN_LOSS, "aggregation": "sequence", "group_size": GROUP, "advantage_eps": 1e-4},
    "dr_grpo": {"kl": IN_LOSS, "aggregation": "constant", "group_size": GROUP},
    "dapo": {
        "kl": IN_LOSS, "aggregation": "token", "group_size": GROUP, "advantage_eps": 1e-4, "clip_range_high": 0.28,
    },
    "rloo": {"kl": IN_REWARD, "aggregation": "constant", "group_size": GROUP},
    "ppo": {
        "kl": IN_REWARD, "aggregation": "token", "value": {"kind": "network"}, "value_coef": 0.1,
        "value_clip_range": 0.2, "gamma": 1.0, "gae_lambda": 0.95, "whiten_rewards": False,
    },
}  # fmt: skip
GROUPED = [name for name in SECTIONS if name != "ppo"]
ONCE = {"num_epochs": 1, "num_minibatches": 1}


class Sampled(NamedTuple):
    """What the reward was asked, and answered."""

    prompts: list[str]
    ids: list[list[int]]
    completions: list[str]
    columns: dict[str, Any]
    total: Tensor  # (B,)


class WitnessedReward(CompositeReward):
    """The composite, and what it was called with."""

    def score(self, prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> Any:
        output = super().score(prompts, completions, completion_ids, **columns)
        self.seen = [*getattr(self, "seen", []), Sampled(prompts, completion_ids, completions, columns, output.total)]
        return output


class Outcome(NamedTuple):
    """What a run leaves."""

    folder: Path
    rows: list[dict[str, Any]]
    sampled: list[Sampled]
    stopped: str | None


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A model that repeats itself and that often ends at once."""
    lm = tiny_lm(seed=4)
    with torch.no_grad():
        for weight in lm.parameters():
            if weight.dim() == 2:
                weight.mul_(6)
        lm.transformer.ln_f.bias.copy_(lm.transformer.wte.weight[0] * 9.0)
    lm.generation_config.eos_token_id = [0, 5]
    tiny_tokenizer("")  # a tokenizer saves how it last cut
    save_model(tmp_path_factory.mktemp("trl") / "sft", lm, tiny_tokenizer)
    return tmp_path_factory.getbasetemp() / "trl0" / "sft"


def trainer_into(root: Path, sft: Path) -> Callable[..., Outcome]:
    """`train("grpo", out="a", train={...}, callbacks=[...], **section)`: a run, its files in root / out."""

    def run(
        name: str, out: str = "", train: dict[str, Any] | None = None, callbacks: list[Callback] | None = None,
        precision: str = "float32", value_model: Any = None, **section: Any,
    ) -> Outcome:  # fmt: skip
        folder = root / (out or name)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        make, parameters = ALGORITHMS[name]
        algorithm = make(parameters.model_validate(SHARED | SECTIONS[name] | section))
        reward = WitnessedReward({
            "repetition": Part(RepetitionReward(RepetitionConfig(weight=1, unit="token", ngram_size=1))),
            "length": Part(LengthReward(LengthConfig(weight=1, min_tokens=3, max_tokens=5)), weight=0.5),
        })  # fmt: skip
        writers: list[Callback] = [MetricFiles(folder / "metrics", name), CompletionFile(folder / "completions", name)]
        model, tokenizer, training = train_policy(
            TrainConfig.model_validate(TRAIN | (train or {})), name, algorithm, sft, reward, PROMPTS,
            Run(f"train@{name}", 7, folder / "state"), precision=precision, callbacks=[*writers, *(callbacks or [])],
            value_model=value_model,
        )  # fmt: skip
        save_model(folder / "model", model, tokenizer)
        lines = (folder / "metrics" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return Outcome(folder, [json.loads(line) for line in lines], reward.seen, training.stopped)

    return run


@pytest.fixture
def train(tmp_path: Path, sft: Path) -> Callable[..., Outcome]:
    return trainer_into(tmp_path, sft)


@pytest.fixture(scope="module", autouse=True)
def sent() -> Iterator[list[Any]]:
    """What TRL tells its makers while these tests run."""
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CI", raising=False)  # where TRL keeps silent by itself
        patch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda **what: told.append(what))
        yield told


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, sft: Path) -> Callable[[str], Outcome]:
    """`two_steps("grpo")`: a run of the configuration above, trained once."""
    return cache(trainer_into(tmp_path_factory.mktemp("two_steps"), sft))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_run_leaves_a_model_a_row_a_step_and_completions(
    two_steps: Callable[[str], Outcome], sft: Path, name: str
) -> None:
    outcome = two_steps(name)
    assert len(outcome.sampled) == len(outcome.rows) == TRAIN["num_steps"]
    assert all(len(batch.ids) == BATCH for batch in outcome.sampled)
    assert [row["step"] for row in outcome.rows] == [0, 1]
    AutoModelForCausalLM.from_pretrained(outcome.folder / "model")
    assert not equal(weights(outcome.folder / "model"), weights(sft))
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (outcome.folder / "model" / file).read_bytes() == (sft / file).read_bytes()
    header = (outcome.folder / "metrics" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert header == list(outcome.rows[0])
    kept = pq.read_table(outcome.folder / "completions" / f"{name}.parquet").to_pylist()
    assert [row["step"] for row in kept] == [0] * 8 + [1] * 8
    assert [row["completion"] for row in kept] == [text for batch in outcome.sampled for text in batch.completions]
    assert [row["reward"] for row in kept] == [x for batch in outcome.sampled for x in batch.total.tolist()]
    assert {(row["id"], row["prompt"]) for row in kept} <= set(zip(PROMPTS.ids, PROMPTS.texts, strict=True))


@pytest.mark.parametrize("name", SECTIONS)
def test_the_logged_reward_is_ours_of_what_was_sampled(two_steps: Callable[[str], Outcome], name: str) -> None:
    """Repetition and length worked out anew from the ids of each response."""
    outcome = two_steps(name)
    for row, batch in zip(outcome.rows, outcome.sampled, strict=True):
        repetition = [len(set(ids)) / len(ids) - 1 for ids in batch.ids]
        length = [0.5 * min(0.0, (len(ids) - 3) / 3, (5 - len(ids)) / 5) for ids in batch.ids]
        wanted = torch.tensor(repetition) + torch.tensor(length)
        torch.testing.assert_close(batch.total, wanted)
        assert row["reward"] == pytest.approx(wanted.mean().item(), abs=1e-6)
        assert row["reward_std"] == pytest.approx(wanted.std(unbiased=False).item(), abs=1e-6)
        assert row["rewards/length"] == pytest.approx(sum(length) / BATCH, abs=1e-6)
        lengths = [len(ids) for ids in batch.ids]
        assert row["completions/mean_length"] == sum(lengths) / BATCH
        assert len(set(lengths)) > 1
        ended = [ids[-1] == 0 for ids in batch.ids]
        assert row["completions/terminated_frac"] == sum(ended) / BATCH
        assert all(end or len(ids) == LENGTH for end, ids in zip(ended, batch.ids, strict=True))
        assert batch.columns["reference"] == [
            PROMPTS.columns["reference"][PROMPTS.texts.index(p)] for p in batch.prompts
        ]
        if name in GROUPED:
            groups = wanted.view(-1, GROUP)
            assert row["frac_reward_zero_std"] == sum(len(set(group)) == 1 for group in groups.tolist()) / len(groups)


@pytest.mark.parametrize("name", SECTIONS)
def test_prompts_come_in_the_native_order(two_steps: Callable[[str], Outcome], name: str) -> None:
    """Where they are fewer than a step asks for, too."""
    outcome = two_steps(name)
    group = GROUP if name in GROUPED else 1
    for step, batch in enumerate(outcome.sampled):
        drawn = [PROMPTS.texts[i] for _, i in PROMPTS.draw(7, step, BATCH // group)]
        assert batch.prompts == [text for text in drawn for _ in range(group)]


def one_by_one(lm: Any, tokenizer: Any, batch: Sampled, temperature: float) -> list[tuple[Tensor, Tensor]]:
    """(log-probability of each token, entropy of each distribution) of each response, without any padding."""
    found = []
    for prompt, ids in zip(batch.prompts, batch.ids, strict=True):
        before = tokenizer(prompt)["input_ids"]
        logits = lm(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1] / temperature
        distribution = torch.log_softmax(logits, -1)
        found.append(
            (distribution.gather(-1, torch.tensor(ids)[:, None])[:, 0], -(distribution.exp() * distribution).sum(-1))
        )
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_log_probabilities_do_not_see_the_padding_before_a_prompt(
    train: Callable[..., Outcome], sft: Path, tiny_tokenizer: Any, name: str
) -> None:
    """At the first step the policy is the reference: its KL is 0, and its entropy that of the SFT model."""
    outcome = train(name, **ONCE)
    row, batch = outcome.rows[0], outcome.sampled[0]
    assert len({len(tiny_tokenizer(prompt)["input_ids"]) for prompt in batch.prompts}) > 1
    with torch.no_grad():
        single = one_by_one(AutoModelForCausalLM.from_pretrained(sft), tiny_tokenizer, batch, TRAIN["temperature"])
    logprobs, entropies = torch.cat([a for a, _ in single]), torch.cat([b for _, b in single])
    assert row["kl"] == pytest.approx(0, abs=1e-6)
    wanted = -logprobs.mean() if name == "ppo" else entropies.mean()
    assert row["entropy"] == pytest.approx(wanted.item(), abs=1e-4)


def advantages(name: str, total: Tensor) -> Tensor:
    """(B,) by the papers, the KL being 0."""
    groups = total.view(-1, GROUP)
    if name == "rloo":
        return torch.stack([x - (group.sum() - x) / (GROUP - 1) for group in groups for x in group])
    centred = groups - groups.mean(1, keepdim=True)
    return (centred if name == "dr_grpo" else centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()


@pytest.mark.parametrize("name", GROUPED)
def test_one_descent_is_that_of_the_formulas(
    train: Callable[..., Outcome], sft: Path, tiny_tokenizer: Any, name: str
) -> None:
    """The gradient of the loss, its norm bounded, then Adam's first step: with all ratios 1 and no KL."""
    outcome = train(name, train={"num_steps": 1, "max_grad_norm": 0.1}, **ONCE)
    batch, lm = outcome.sampled[0], AutoModelForCausalLM.from_pretrained(sft)
    logprobs = [tokens for tokens, _ in one_by_one(lm, tiny_tokenizer, batch, TRAIN["temperature"])]
    gains = [a * tokens for a, tokens in zip(advantages(name, batch.total), logprobs, strict=True)]
    if name == "grpo":
        loss = -torch.stack([gain.mean() for gain in gains]).mean()
    elif name == "dapo":
        loss = -torch.cat(gains).mean()
    else:
        loss = -torch.cat(gains).sum() / (BATCH * LENGTH)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in lm.parameters()]).norm()
    assert norm > 0.2
    assert outcome.rows[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    trained = weights(outcome.folder / "model")
    moved = 0.0
    for key, weight in lm.named_parameters():
        gradient = weight.grad * (0.1 / norm)
        wanted = weight - SHARED["learning_rate"] * gradient / (gradient.abs() + 1e-5)
        torch.testing.assert_close(trained[key], wanted.detach(), rtol=0, atol=2e-5)
        moved = max(moved, (trained[key] - weight).abs().max().item())
    assert moved > 9e-4


def test_one_descent_of_ppo_is_that_of_the_formulas(
    train: Callable[..., Outcome], sft: Path, tiny_tokenizer: Any
) -> None:
    """With gamma and lambda 1, values 0 and no KL, each token's advantage is the score, whitened over all tokens."""
    outcome = train("ppo", train={"num_steps": 1, "max_grad_norm": 1e9}, gae_lambda=1.0, **ONCE)
    batch, lm = outcome.sampled[0], AutoModelForCausalLM.from_pretrained(sft)
    logprobs = [tokens for tokens, _ in one_by_one(lm, tiny_tokenizer, batch, TRAIN["temperature"])]
    scores = torch.cat([torch.full((len(ids),), x) for ids, x in zip(batch.ids, batch.total.tolist(), strict=True)])
    whitened = (scores - scores.mean()) / scores.std()
    (-(whitened * torch.cat(logprobs)).mean()).backward()
    trained = weights(outcome.folder / "model")
    for key, weight in lm.named_parameters():
        wanted = weight - SHARED["learning_rate"] * weight.grad / (weight.grad.abs() + 1e-5)
        torch.testing.assert_close(trained[key], wanted.detach(), rtol=0, atol=2e-5)
    row = outcome.rows[0]
    assert row["loss"] == pytest.approx(row["policy_loss"] + 0.1 * row["value_loss"])
    assert row["policy_loss"] == pytest.approx(0, abs=1e-5)


def test_ppo_bounds_its_gradient(train: Callable[..., Outcome], sft: Path) -> None:
    """Which TRL's own does not: with a bound far below Adam's epsilon nothing moves."""
    outcome = train("ppo", train={"max_grad_norm": 1e-9})
    trained, before = weights(outcome.folder / "model"), weights(sft)
    assert max((trained[key] - before[key]).abs().max().item() for key in before) < 1e-6
    assert all(row["grad_norm"] > 0.1 for row in outcome.rows)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_the_learning_rate_moves_once_a_step(
    train: Callable[..., Outcome], two_steps: Callable[[str], Outcome], name: str
) -> None:
    assert [row["learning_rate"] for row in two_steps(name).rows] == pytest.approx([1e-3, 5e-4])
    constant = train(name, out="constant", train={"lr_schedule": "constant"})
    assert [row["learning_rate"] for row in constant.rows] == [1e-3, 1e-3]


class DyingError(Exception):
    pass


class DieAfter(Callback):
    """The process ends after that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Any, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step:
            raise DyingError


@pytest.mark.parametrize(("name", "rank"), [*[(name, 0) for name in SECTIONS], ("grpo", 2), ("rloo", 2)])
def test_resumed_is_uninterrupted_bit_for_bit(train: Callable[..., Outcome], name: str, rank: int) -> None:
    """GRPO and RLOO from the checkpoint after two of four steps; PPO from the start."""
    long = {"num_steps": 4, "checkpoint_every": 2, "lora": {"rank": rank, "alpha": 4}}
    whole = train(name, out="whole", train=long)
    with pytest.raises(DyingError):
        train(name, out="killed", train=long, callbacks=[DieAfter(2)])
    resumed = train(name, out="killed", train=long)
    assert len(resumed.sampled) == (4 if name == "ppo" else 2)
    assert resumed.rows == whole.rows
    assert equal(weights(resumed.folder / "model"), weights(whole.folder / "model"))
    kept = [folder / "completions" / f"{name}.parquet" for folder in (whole.folder, resumed.folder)]
    assert kept[0].read_bytes() == kept[1].read_bytes()


class AskAfter(Callback):
    """The process is asked to end when that step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Any, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_asked_to_end_grpo_saves_between_two_samplings_and_ppo_ends_at_once(
    train: Callable[..., Outcome], name: str
) -> None:
    long = {"num_steps": 3, "checkpoint_every": 100}
    whole = train(name, out="whole", train=long)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        interrupt.install()
        with pytest.raises(interrupt.Interrupted):
            train(name, out="asked", train=long, callbacks=[AskAfter(0)])
    finally:
        interrupt.install()
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    resumed = train(name, out="asked", train=long)
    assert len(resumed.sampled) == (3 if name == "ppo" else 1)  # noticed at the end of the second step
    assert resumed.rows == whole.rows
    assert equal(weights(resumed.folder / "model"), weights(whole.folder / "model"))


class StopAfter(Callback):
    """Ends the run after that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Any, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step:
            trainer.stop("enough")


@pytest.mark.parametrize("name", SECTIONS)
def test_a_callback_ends_the_run(train: Callable[..., Outcome], sft: Path, name: str) -> None:
    outcome = train(name, callbacks=[StopAfter(0)])
    assert outcome.stopped == "enough"
    assert len(outcome.rows) == len(outcome.sampled) == 1
    assert not equal(weights(outcome.folder / "model"), weights(sft))


@pytest.mark.parametrize("name", ["grpo", "rloo", "ppo"])
def test_adapters_are_merged_and_the_reference_is_the_model_without_them(
    train: Callable[..., Outcome], sft: Path, name: str
) -> None:
    outcome = train(name, train={"lora": {"rank": 2, "alpha": 4}, "num_steps": 3})
    trained, before = weights(outcome.folder / "model"), weights(sft)
    assert trained.keys() == before.keys()
    changed = {key for key in before if not torch.equal(trained[key], before[key])}
    assert changed
    assert all(".attn." in key or ".mlp." in key for key in changed)
    assert abs(outcome.rows[2]["kl"]) > 1e-4


def test_bfloat16_computes_otherwise_and_leaves_float32_weights(
    train: Callable[..., Outcome], two_steps: Callable[[str], Outcome]
) -> None:
    fine, coarse = two_steps("grpo"), train("grpo", precision="bfloat16")
    assert fine.rows[0]["entropy"] != coarse.rows[0]["entropy"]
    assert fine.rows[0]["entropy"] == pytest.approx(coarse.rows[0]["entropy"], rel=0.05)
    assert {tensor.dtype for tensor in weights(coarse.folder / "model").values()} == {torch.float32}


def test_a_price_of_zero_still_measures_the_kl(train: Callable[..., Outcome]) -> None:
    for name in GROUPED:
        rows = train(name, out=name, train={"kl_coef": 0.0}).rows
        assert abs(rows[1]["kl"]) > 1e-5
        assert rows[1]["kl_coef"] == 0


def test_a_response_without_a_reward_teaches_nothing(
    train: Callable[..., Outcome], sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RepetitionReward, "__call__", lambda self, prompts, *_, **__: [None] * len(prompts))
    monkeypatch.setattr(LengthReward, "__call__", lambda self, prompts, *_, **__: [None] * len(prompts))
    outcome = train("dr_grpo", train={"kl_coef": 0.0})
    assert [row["completions/valid_frac"] for row in outcome.rows] == [0, 0]
    trained, before = weights(outcome.folder / "model"), weights(sft)
    assert max((trained[key] - before[key]).abs().max().item() for key in before) < 1e-6


def test_what_is_not_finite_ends_the_run_in_words(train: Callable[..., Outcome]) -> None:
    with pytest.raises(InputError, match=r"train@grpo step \d+: \S+ is (nan|inf)"):
        train("grpo", train={"max_grad_norm": 1e30}, learning_rate=1.0, advantage_eps=1e-4, num_epochs=50)


def test_no_telemetry_is_sent_and_no_card_is_written(two_steps: Callable[[str], Outcome], sent: list[Any]) -> None:
    for name in SECTIONS:
        assert not list(two_steps(name).folder.rglob("README.md"))
    assert sent == []


def test_ppo_refuses_a_tokenizer_that_pads_with_its_end_of_text(
    train: Callable[..., Outcome], sft: Path, tmp_path: Path
) -> None:
    file = sft / "tokenizer_config.json"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace('"pad_token": "<|pad|>"', '"pad_token": "<|endoftext|>"'), encoding="utf-8")
    try:
        with pytest.raises(InputError, match="the pad token is the end-of-text token"):
            train("ppo")
        assert train("grpo").rows
    finally:
        file.write_text(before, encoding="utf-8")


def test_prompts_that_do_not_fit_are_refused(train: Callable[..., Outcome]) -> None:
    with pytest.raises(InputError, match="do not fit into the model's 64"):
        train("grpo", train={"max_new_tokens": 60})


def test_ppo_can_have_the_preference_model_for_its_value(
    train: Callable[..., Outcome], two_steps: Callable[[str], Outcome], sft: Path
) -> None:
    """Its head is not 0, so that the first values are off."""
    torch.manual_seed(1)
    classifier = AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1)
    before = classifier.score.weight.clone()
    kind = {"value": {"kind": "reward_model", "learning_rate": 1e-2}}
    outcome = train("ppo", value_model=classifier, **kind)
    assert outcome.rows[0]["value_loss"] != two_steps("ppo").rows[0]["value_loss"]
    assert 5e-3 < (classifier.score.weight - before).abs().max() < 5e-2
