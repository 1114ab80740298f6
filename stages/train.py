"""train@ppo, train@grpo: the SFT model tuned by reinforcement learning."""

from pathlib import Path
from sys import argv

from triplex.data.tables import SCHEMAS, read_table, write_table
from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.rewards.folder import load_reward, load_spec
from triplex.rl.grpo import GRPO, GRPOConfig
from triplex.rl.ppo import PPO, PPOConfig
from triplex.rl.records import COMPLETIONS_SCHEMA, write_metrics
from triplex.rl.trainer import TrainConfig, Trainer
from triplex.runs.errors import InputError, errors_in_words
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import run_stage

PROMPTS, BASELINES = Path("data/processed/prompts.parquet"), Path("data/baselines.parquet")
SFT, REWARD, OUT, REPORTS = Path("models/sft"), Path("models/reward"), Path("models"), Path("reports")


class Params(Section):
    """The sections of params.yaml that every algorithm reads."""

    seed: Seed
    compute: ComputeConfig
    train: TrainConfig


class PPOParams(Params):
    """What train@ppo reads."""

    ppo: PPOConfig


class GRPOParams(Params):
    """What train@grpo reads."""

    grpo: GRPOConfig


def main(algorithm_name: str) -> None:
    """Run the stage for one algorithm."""
    with errors_in_words():
        params: PPOParams | GRPOParams
        algorithm: PPO | GRPO
        match algorithm_name:
            case "ppo":
                params = read_params(PPOParams)
                algorithm = PPO(params.ppo)
            case "grpo":
                params = read_params(GRPOParams)
                algorithm = GRPO(params.grpo)
            case _:
                raise InputError("python -m stages.train", f"no algorithm {algorithm_name!r}", "known: ppo, grpo")
        with run_stage(f"train@{algorithm_name}", params) as run:
            table = read_table(PROMPTS, SCHEMAS["prompts"])
            prompts = list(zip(table["id"].to_pylist(), table["prompt"].to_pylist(), strict=True))
            columns = {"reference": table["reference"].to_pylist()}
            precision = params.compute.precision
            policy, tokenizer = load_causal_lm(SFT)
            reference, _ = load_causal_lm(SFT, precision)
            reward = load_reward(REWARD, OUT / load_spec(REWARD).perplexity.scorer, BASELINES, precision)
            trainer = Trainer(params.train, algorithm, policy, reference, tokenizer, reward, prompts, columns, run)
            trainer.train()
            save_model(OUT / algorithm_name, policy, tokenizer)
            write_metrics(REPORTS / "metrics" / f"{algorithm_name}.tsv", trainer.metrics)
            write_table(REPORTS / "completions" / f"{algorithm_name}.parquet", trainer.completions, COMPLETIONS_SCHEMA)
            print(f"train: {params.train.num_steps} steps of {algorithm_name} -> {OUT / algorithm_name}")


if __name__ == "__main__":
    main(argv[1] if len(argv) > 1 else "")
