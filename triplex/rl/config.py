"""`train:` what all algorithms share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from triplex.models.optim import LoraConfig
from triplex.rl.algorithm import Algorithm
from triplex.rl.kl_control import BandKL, FixedKL, KLControl, LinearKL, ProportionalKL
from triplex.runs.errors import InputError
from triplex.runs.params import OrAbsent, Section, described


class FixedControl(Section):
    """The coefficient stays."""

    kind: Literal["fixed"]


class Bounded(Section):
    """What the rules that steer towards a target have in common."""

    target: float = described("nats per `unit`", unit="nats", source="arXiv 1909.08593", gt=0)
    unit: Literal["token", "sequence"] = Field(description="what the target counts by: a token, or a whole response")
    min_coef: float = described("the coefficient never goes below", unit="reward or loss per nat", gt=0)
    max_coef: float = described("the coefficient never goes above", unit="reward or loss per nat", gt=0)


class ProportionalControl(Bounded):
    """Ziegler's rule (arXiv 1909.08593, section 2.2)."""

    kind: Literal["proportional"]
    horizon: int = described(
        "sequences in which it moves by the error, 20 % at most", unit="sequences", source="arXiv 1909.08593", ge=1
    )


class BandControl(Bounded):
    """The band rule (arXiv 1707.06347, section 4): above 1.5 times the target multiply, below target / 1.5 divide."""

    kind: Literal["band"]
    factor: float = described("by which the coefficient is multiplied or divided", source="arXiv 1707.06347", gt=1)


class LinearControl(Section):
    """From train.kl_coef in the first step to another coefficient in the last."""

    kind: Literal["linear"]
    final_coef: float = described("in the last step", unit="reward or loss per nat", ge=0)


class TrainConfig(Section):
    """`train:` what all algorithms share."""

    backend: Literal["native", "trl", "unsloth"] = described(
        "who trains: this project's loop, TRL's, this one on Unsloth's model"
    )
    num_steps: int = described("rollouts, each with its descents", unit="steps", ge=1)
    batch_size: int = described("responses a step", unit="responses", ge=1)
    max_tokens_per_pass: int = described(
        "padded positions in one forward and backward pass; memory", unit="tokens", ge=1
    )
    max_new_tokens: int = described("longest response", unit="tokens", ge=1)
    temperature: float = described("logits are divided by it when sampling and in every log-probability", gt=0)
    lr_schedule: Literal["linear", "constant"] = Field(description="linear: to 0 over the run")
    max_grad_norm: float = described(
        "the norm of all gradients together is scaled down to it", source="arXiv 1211.5063", gt=0
    )
    kl_coef: float = described(
        "reward or loss per nat; its first value where kl_control moves it",
        unit="reward or loss per nat",
        source="arXiv 1909.08593",
        ge=0,
    )
    kl_control: Annotated[
        FixedControl | ProportionalControl | BandControl | LinearControl, Field(discriminator="kind")
    ] = described("how the coefficient moves")
    max_kl: OrAbsent[float] = described(
        "nats per token at which training stops early", unit="nats per token", default=None, gt=0
    )
    lora: LoraConfig
    eval_every: int = described("steps between looks at held-out prompts", unit="steps", moves_weights=False, ge=1)
    num_eval_prompts: int = described(
        "held-out prompts in such a look, the first ones", unit="prompts", moves_weights=False, ge=1
    )
    checkpoint_every: int = described("steps between checkpoints", unit="steps", moves_weights=False, ge=1)
    completions_every: int = described("steps between saved completions", unit="steps", moves_weights=False, ge=1)

    @model_validator(mode="after")
    def _kl_coef_within_bounds(self) -> Self:
        control = self.kl_control
        if isinstance(control, Bounded) and not control.min_coef <= self.kl_coef <= control.max_coef:
            raise ValueError(
                f"kl_coef = {self.kl_coef} lies outside of kl_control's {control.min_coef} to {control.max_coef}"
            )
        return self

    def make_kl_control(self) -> KLControl:
        """The controller at its start."""
        match self.kl_control:
            case FixedControl():
                return FixedKL(self.kl_coef)
            case ProportionalControl() as c:
                return ProportionalKL(self.kl_coef, c.target, c.horizon, c.min_coef, c.max_coef)
            case BandControl() as c:
                return BandKL(self.kl_coef, c.target, c.factor, c.min_coef, c.max_coef)
            case LinearControl() as c:
                return LinearKL(self.kl_coef, c.final_coef, self.num_steps)


def check_sizes(config: TrainConfig, algorithm: Algorithm, num_prompts: int, num_workers: int = 1) -> None:
    """InputError unless a batch is whole groups and whole mini-batches, there are prompts, and work for each worker."""
    where, num = f"params.yaml: train.batch_size = {config.batch_size}", algorithm.config.num_minibatches
    if config.batch_size % algorithm.group_size:
        raise InputError(where, f"not a multiple of group_size = {algorithm.group_size}", "change one of the two")
    if config.batch_size % num:
        raise InputError(where, f"not a multiple of num_minibatches = {num}", "change one of the two")
    if (config.batch_size // algorithm.group_size) % num_workers:
        what = f"its {config.batch_size // algorithm.group_size} prompts are no equal parts for {num_workers} workers"
        raise InputError(where, what, "change one of the two (compute.num_workers)")
    if config.batch_size // num < num_workers:
        what = f"a mini-batch of {config.batch_size // num} responses leaves some of {num_workers} workers without any"
        raise InputError(where, what, "raise it, or lower num_minibatches or compute.num_workers")
    if config.num_eval_prompts < num_workers:
        where = f"params.yaml: train.num_eval_prompts = {config.num_eval_prompts}"
        raise InputError(where, f"fewer than compute.num_workers = {num_workers}", "raise it")
    if num_prompts == 0:
        raise InputError("data/processed/prompts.parquet", "holds no prompts", "run prepare on more data")
