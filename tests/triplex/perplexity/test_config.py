from pathlib import Path

import pytest
import torch

from triplex.perplexity.config import PerplexityConfig
from triplex.runs.errors import InputError
from triplex.runs.params import Section, read_params

PARAMS = """
perplexity:
  max_tokens_per_batch: 100
  template: "{prompt} Plan: {response}"
  word_pool: {kind: mean}
  phrase_pool: {kind: cvar, q: 0.5}
  sentence_pool: {kind: lme, lambda: 1}
"""


class Params(Section):
    perplexity: PerplexityConfig


def read(folder: Path, text: str) -> PerplexityConfig:
    (folder / "params.yaml").write_text(text)
    return read_params(Params, folder / "params.yaml").perplexity


def test_each_level_gets_its_pool(tmp_path: Path) -> None:
    pools = read(tmp_path, PARAMS).pools()
    nats, num_tokens = torch.tensor([1.0, 2.0, 6.0, 3.0]), torch.tensor([1.0, 1.0, 1.0, 5.0])
    values = [pool(nats, num_tokens, torch.zeros(4, dtype=torch.int64), 1).item() for pool in pools]
    soft_maximum = ((torch.e**nats).mean()).log().item()
    assert values == pytest.approx([3.0, 4.5, soft_maximum])
    micro = read(tmp_path, PARAMS.replace("{kind: mean}", "{kind: micro}")).pools().word
    assert micro(nats, num_tokens, torch.zeros(4, dtype=torch.int64), 1).item() == pytest.approx(24 / 8)


@pytest.mark.parametrize(
    ("good", "bad", "named"),
    [
        ("q: 0.5", "q: 0", "phrase_pool.q = 0"),
        ("q: 0.5", "q: 1.5", "phrase_pool.q = 1.5"),
        ("lambda: 1", "lambda: -1", "sentence_pool.lambda = -1"),
        (", q: 0.5", "", "phrase_pool.q: missing"),
        ("kind: mean", "kind: median", "'median'"),
        ("max_tokens_per_batch: 100", "max_tokens_per_batch: 0", "max_tokens_per_batch = 0"),
        ("{response}", "", "perplexity.template = '{prompt} Plan: ': holds {response} 0 times, it must hold it once"),
        ("{prompt}", "{response}", "holds {response} 2 times, it must hold it once"),
        ("Plan:", "{prompt}", "holds {prompt} 2 times, once is the most"),
        ("{prompt}", "{promt}", "holds {promt}; known are {prompt} and {response}"),
        ('template: "{prompt} Plan: {response}"', "", "perplexity.template: missing"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, good: str, bad: str, named: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, PARAMS.replace(good, bad))
    assert named in str(error.value)


def test_a_context_is_filled_in_one_pass(tmp_path: Path) -> None:
    config = read(tmp_path, PARAMS)
    assert config.context("A", " B") == "A Plan:  B"
    assert config.context("A {response} {", "{prompt}\\1 }") == "A {response} { Plan: {prompt}\\1 }"
    assert config.context("A", "") == "A Plan: "
    alone = read(tmp_path, PARAMS.replace("{prompt} Plan: ", ""))
    assert alone.context("A", "B") == "B"
    assert read(tmp_path, PARAMS.replace("Plan:", "{} {a b}")).context("A", "B") == "A {} {a b} B"
