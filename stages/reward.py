"""reward: what the policies will be paid for, as a folder that stands alone."""

from pathlib import Path

from triplex.data.tables import SCHEMAS, read_table
from triplex.perplexity.config import PerplexityConfig
from triplex.rewards.folder import RewardConfig, RewardSpec, save_reward
from triplex.rewards.sentiment import make_classifier, measure_accuracy
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import errors_in_words, run_stage

PAIRS, HELD_OUT = Path("data/processed/sft.parquet"), Path("data/processed/eval.parquet")
BASE, OUT = Path("models/base"), Path("models/reward")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    perplexity: PerplexityConfig
    reward: RewardConfig


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("reward", params) as run:
            rows = read_table(PAIRS, SCHEMAS["sft"]).to_pylist()
            held_out = read_table(HELD_OUT, SCHEMAS["eval"]).to_pylist()
            classifier = make_classifier(params.reward.sentiment, params.compute.precision, BASE, rows, run)
            accuracy = measure_accuracy(classifier, held_out)
            spec = RewardSpec(config=params.reward, perplexity=params.perplexity, accuracy=accuracy)
            save_reward(OUT, spec, classifier)
            print(
                f"reward: classifier right on {accuracy:.1%} of held-out texts -> {OUT}"
                if accuracy
                else f"reward -> {OUT}"
            )


if __name__ == "__main__":
    main()
