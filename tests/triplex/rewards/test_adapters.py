import importlib.util
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from triplex.models.saving import save_model
from triplex.perplexity.baselines import (
    EMPTY_COLUMNS,
    NATS_COLUMNS,
    scorer_identity,
    text_sha256,
    to_table,
    write_baselines,
)
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.rewards.adapters import OpenRLHFReward, Portable, Recipe, TRLReward, VerlReward
from triplex.rewards.composite import CompositeReward
from triplex.rewards.folder import RewardSpec, load_reward, save_spec
from triplex.rewards.server import RewardServer
from triplex.runs.errors import InputError

PROMPTS = ["The tea", "I like", "A good book", "The chair"]
COMPLETIONS = [" kettle kettle kettle boils.", " this lamp. It is bright!", "", " broke after a week; I want it"]
REFERENCES = [" kettle boils fast.", " it.", " is good.", " broke."]
EOS = "<|endoftext|>"
PERPLEXITY = {
    "max_tokens_per_batch": 256,
    "template": "{prompt}{response}",
    "word_pool": {"kind": "mean"},
    "phrase_pool": {"kind": "cvar", "q": 0.5},
    "sentence_pool": {"kind": "mean"},
}
CONFIG = {
    "repetition": {"weight": 0.5, "ngram_size": 1, "unit": "word"},
    "length": {"weight": 0.25, "min_tokens": 16, "max_tokens": 18},
    "perplexity": {
        "weight": 2.0,
        "level_weights": {"word": 0.2, "phrase": 0.3, "sentence": 0.5},
        "target": {"kind": "response", "shape": "band", "band_width": 0.5},
    },
}


@pytest.fixture(scope="module")
def golden(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> CompositeReward:
    """A composite of repetition, length and the perplexity under a tiny model, from its folders."""
    root = tmp_path_factory.mktemp("golden")
    save_model(root / "sft", tiny_lm(seed=3), tiny_tokenizer)
    hashes = {"prompt_sha256": text_sha256("p"), "reference_sha256": text_sha256("r")}
    rows = [
        {
            "id": str(i),
            "split": "train",
            "num_tokens": 9,
            **hashes,
            **dict.fromkeys(NATS_COLUMNS + EMPTY_COLUMNS, 5.76 + 0.01 * i),
        }
        for i in range(2)
    ]
    levels = PerplexityConfig.model_validate(PERPLEXITY)
    noise = {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
    write_baselines(
        root / "baselines.parquet", [to_table(rows)], scorer_identity(root / "sft", "float32", levels), noise
    )
    spec = {"config": CONFIG, "perplexity": PERPLEXITY, "accuracy": {}, "calibration": {}}
    save_spec(root / "reward", RewardSpec.model_validate(spec))
    return load_reward(root / "reward", root / "sft", root / "baselines.parquet", "float32")


def alone(tokenizer: Any, text: str) -> list[int]:
    """The text's tokens without what the tokenizer puts before it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def ids(tiny_tokenizer: Any) -> list[list[int]]:
    return [[*alone(tiny_tokenizer, text), tiny_tokenizer.eos_token_id] for text in COMPLETIONS]


@pytest.fixture(scope="module")
def expected(golden: CompositeReward, ids: list[list[int]]) -> list[float]:
    """The direct call's numbers: four that differ."""
    values = golden(PROMPTS, COMPLETIONS, ids, reference=REFERENCES)
    assert len({round(value, 3) for value in values if value is not None}) == 4
    return [value for value in values if value is not None]


def module_of(path: Path) -> Any:
    """A Python file as OpenRLHF and verl import it."""
    spec = importlib.util.spec_from_file_location("reward_func", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trl_gives_the_direct_calls_numbers(
    golden: CompositeReward, expected: list[float], ids: list[list[int]]
) -> None:
    adapter = golden.as_trl()
    assert adapter(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=ids, reference=REFERENCES) == expected
    assert adapter.__name__ == golden.__name__


def test_openrlhfs_file_gives_the_direct_calls_numbers(
    tmp_path: Path, golden: CompositeReward, expected: list[float], ids: list[list[int]]
) -> None:
    golden.as_openrlhf(tmp_path / "reward.py")
    reward_func = module_of(tmp_path / "reward.py").reward_func
    queries = [prompt + text + EOS for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)]
    found = reward_func(queries, PROMPTS, REFERENCES)
    assert found["rewards"].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found["rewards"], found["scores"])
    alone = [reward_func([q], [p], [r])["rewards"] for q, p, r in zip(queries, PROMPTS, REFERENCES, strict=True)]
    assert torch.cat(alone).tolist() == pytest.approx(expected, abs=1e-5)
    components = golden.score(PROMPTS, COMPLETIONS, ids, reference=REFERENCES).components
    for name, values in components.items():
        torch.testing.assert_close(found["extra_logs"][f"rewards/{name}"], values, rtol=0, atol=1e-5)


def test_verls_file_gives_the_direct_calls_numbers(
    tmp_path: Path, golden: CompositeReward, expected: list[float], ids: list[list[int]]
) -> None:
    golden.as_verl(tmp_path / "reward.py")
    compute_score = module_of(tmp_path / "reward.py").compute_score
    rows = zip(PROMPTS, COMPLETIONS, REFERENCES, strict=True)
    found = [compute_score("test", text, reference, {"prompt": prompt}) for prompt, text, reference in rows]
    assert [one["score"] for one in found] == pytest.approx(expected, abs=1e-5)
    components = golden.score(PROMPTS, COMPLETIONS, ids, reference=REFERENCES).components
    for name, values in components.items():
        assert [one[f"rewards/{name}"] for one in found] == pytest.approx(values.tolist(), abs=1e-5)


def test_the_server_gives_the_direct_calls_numbers(golden: CompositeReward, expected: list[float]) -> None:
    with RewardServer(golden, port=0, max_batch_size=4, max_wait_ms=0, token="0123456789abcdef") as server:
        queries = [prompt + text + EOS for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)]
        rows = zip(queries, PROMPTS, REFERENCES, strict=True)
        found = [server.batcher.score([q], [p], [r])["rewards"][0] for q, p, r in rows]
    assert found == pytest.approx(expected, abs=1e-5)


def test_another_process_loads_the_reward_again(
    tmp_path: Path, golden: CompositeReward, expected: list[float], ids: list[list[int]]
) -> None:
    pickled = pickle.dumps(golden.as_trl())
    assert len(pickled) < 2000  # the recipe, not the weights
    (tmp_path / "adapter").write_bytes(pickled)
    code = (
        "import pickle, sys, torch; torch.set_num_threads(1)\n"
        f"adapter = pickle.load(open({str(tmp_path / 'adapter')!r}, 'rb'))\n"
        "assert 'triplex.perplexity.scorer' not in sys.modules\n"  # nothing is loaded before the first call
        "name = adapter.__name__\n"
        f"print(name, *adapter({PROMPTS!r}, {COMPLETIONS!r}, {ids!r}, reference={REFERENCES!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), check=False)
    assert run.returncode == 0, run.stderr
    name, *values = run.stdout.split()
    assert name == golden.__name__
    assert [float(value) for value in values] == pytest.approx(expected, abs=1e-5)


def test_a_recipe_is_loaded_once_whatever_the_threads(golden: CompositeReward) -> None:
    assert golden.recipe
    start = threading.Barrier(4)

    def load(_: int) -> Portable:
        assert golden.recipe
        start.wait()
        return Recipe(golden.recipe.function, dict(golden.recipe.arguments)).load()

    with ThreadPoolExecutor(4) as threads:
        assert len({id(reward) for reward in threads.map(load, range(4))}) == 1


def test_threads_get_the_direct_calls_numbers(golden: CompositeReward, expected: list[float]) -> None:
    reward_func = golden.as_openrlhf()

    def one(i: int) -> float:
        found = reward_func([PROMPTS[i % 4] + COMPLETIONS[i % 4] + EOS], [PROMPTS[i % 4]], [REFERENCES[i % 4]])
        return found["rewards"].item()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(32))) == pytest.approx(expected * 8, abs=1e-5)


class Recorder(Portable):
    """Says what it was called with, and gives the number of ids, or None for an empty completion."""

    __name__ = "recorder"

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        self.calls.append({"prompts": prompts, "completions": completions, "ids": completion_ids, **columns})
        values = [float(len(ids)) if text else None for ids, text in zip(completion_ids, completions, strict=True)]
        columns["log_extra"]("length", values)
        columns["log_extra"]("text", list(completions))
        return values


def test_trl_passes_columns_on_and_takes_what_was_logged() -> None:
    reward, extras, metrics = Recorder(), {}, {}
    totals = reward.as_trl()(
        ["a", "b", "c"], ["x", "", "z"], [[1, 0], [0], [2, 3, 4, 0]], trainer_state="state", label=[1, 0, 1],
        log_extra=extras.__setitem__, log_metric=metrics.__setitem__,
    )  # fmt: skip
    assert totals == [2.0, None, 4.0]
    (call,) = reward.calls
    assert (call["trainer_state"], call["label"]) == ("state", [1, 0, 1])
    assert extras == {"length": [2.0, None, 4.0], "text": ["x", "", "z"]}
    assert metrics == {"length": 3.0}  # of those to which it applies


ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tea?"}]
BLOCKS = [
    {"role": "user", "content": [{"type": "text", "text": "Te"}, {"type": "image"}, {"type": "text", "text": "a?"}]}
]
TOOLS = [
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "Yes."},
]


def test_trl_conversations_without_a_template_are_their_contents(tiny_tokenizer: Any) -> None:
    reward = Recorder(tiny_tokenizer)
    assert tiny_tokenizer.chat_template is None
    reward.as_trl()([ASK, BLOCKS], [[{"role": "assistant", "content": "Yes."}], TOOLS], [[1], [2]])
    assert reward.calls[0]["prompts"] == ["Be brief.\nTea?\n", "Tea?\n"]
    assert reward.calls[0]["completions"] == ["Yes.", "\nYes."]


def templated(tokenizer: Any, opening: bool) -> Any:
    """The tokenizer with a chat template, which itself puts `<|endoftext|>` before every text if `opening`."""
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
    copy.chat_template = (
        "<|endoftext|>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    before = f"{EOS} $A" if opening else "$A"
    copy.backend_tokenizer.post_processor = TemplateProcessing(single=before, special_tokens=[(EOS, 0)])
    return copy


@pytest.mark.parametrize("opening", [False, True])
def test_conversations_become_the_chat_template_with_one_opening(tiny_tokenizer: Any, opening: bool) -> None:
    reward = Recorder(templated(tiny_tokenizer, opening))
    text = "[system]Be brief.[user]Tea?[assistant]"
    reward.as_trl()([ASK], [[{"role": "assistant", "content": "Yes."}]], [[1]])
    reward.as_openrlhf()([EOS + text + "Yes."], [EOS + text], [""])
    reward.as_verl()("data", "Yes.", "", {"prompt": ASK})
    wanted = text if opening else EOS + text
    assert [(call["prompts"], call["completions"]) for call in reward.calls] == [([wanted], ["Yes."])] * 3


def test_openrlhfs_response_is_what_follows_the_prompt(tiny_tokenizer: Any) -> None:
    reward = Recorder(tiny_tokenizer)
    queries = ["Tea? Yes.<|endoftext|>", "Tea? Tea? No", "Tea?<|endoftext|>", "Tea? a<|pad|>b<|endoftext|>"]
    found = reward.as_openrlhf()(queries, ["Tea?"] * 4, ["r0", "r1", "r2", "r3"])
    (call,) = reward.calls
    assert call["prompts"] == ["Tea?"] * 4
    assert call["completions"] == [" Yes.", " Tea? No", "", " ab"]
    ended = [alone(tiny_tokenizer, text) for text in (" Yes.", " Tea? No", "", " ab")]
    assert call["ids"] == [[*ended[0], 0], ended[1], [0], [*ended[3], 0]]  # the second was cut off
    assert call["reference"] == ["r0", "r1", "r2", "r3"]
    lengths = [len(ended[0]) + 1, len(ended[1]), 0, len(ended[3]) + 1]  # 0 where the reward is None
    assert found["rewards"].dtype == torch.float32
    assert found["rewards"].tolist() == found["scores"].tolist() == lengths
    assert set(found["extra_logs"]) == {"length"}  # texts are no numbers
    assert math.isnan(found["extra_logs"]["length"][2])


def test_openrlhfs_query_without_its_prompt_is_refused_by_row(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"row 1: the query 'a\? Yes\.' does not begin with its prompt 'Tea\?'"):
        Recorder(tiny_tokenizer).as_openrlhf()(["Tea? Yes.", "a? Yes."], ["Tea?", "Tea?"], ["", ""])


def test_verl_passes_columns_on(tiny_tokenizer: Any) -> None:
    reward = Recorder(tiny_tokenizer)
    score = reward.as_verl()
    extra = {"prompt": "Tea?", "index": 7, "num_turns": None}
    found = score(
        data_source="d", solution_str=" Yes.", ground_truth="gold", extra_info=extra, reward_router_address=""
    )
    length = len(alone(tiny_tokenizer, " Yes.")) + 1
    assert found == {"score": length, "length": length}
    call = reward.calls[0]
    assert call["ids"] == [[*alone(tiny_tokenizer, " Yes."), 0]]
    assert "prompt" not in call
    assert {key: call[key] for key in ("prompts", "reference", "index", "num_turns", "data_source")} == {
        "prompts": ["Tea?"], "reference": ["gold"], "index": [7], "num_turns": [None], "data_source": ["d"],
    }  # fmt: skip
    assert extra == {"prompt": "Tea?", "index": 7, "num_turns": None}
    assert score("d", "", "gold", extra)["score"] == 0.0  # None: does not apply


@pytest.mark.parametrize("extra", [None, {}, {"index": 7}])
def test_verl_without_a_prompt_is_refused(tiny_tokenizer: Any, extra: dict[str, Any] | None) -> None:
    with pytest.raises(
        InputError, match=r"data_source 'd': holds no prompt .*\n  remedy: write each row's prompt into"
    ):
        Recorder(tiny_tokenizer).as_verl()("d", " Yes.", "gold", extra)


def test_text_alone_needs_a_tokenizer() -> None:
    with pytest.raises(InputError, match="reward recorder: has no tokenizer"):
        Recorder().as_openrlhf()(["Tea? Yes."], ["Tea?"], [""])
    assert Recorder().as_trl()(["Tea?"], [" Yes."], [[1]]) == [1.0]  # TRL brings the ids


def test_what_was_built_in_memory_stays_in_its_process(tmp_path: Path) -> None:
    reward = Recorder()
    with pytest.raises(InputError, match=r"reward recorder: was built in memory.*\n  remedy: load it from its folder"):
        pickle.dumps(reward.as_trl())
    for write in (reward.as_openrlhf, reward.as_verl):
        with pytest.raises(InputError, match="was built in memory"):
            write(tmp_path / "reward.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "function", ["os:system", "builtins:eval", "triplexity.a:b", "triplex.runs.files:os.system", ""]
)
def test_a_recipe_names_functions_of_triplex_alone(function: str) -> None:
    with pytest.raises(InputError, match=r"no function of the package triplex"):
        Recipe(function, {"command": "true"}).load()


@pytest.mark.parametrize(
    ("kind", "name"), [("as_openrlhf", "reward_func"), ("as_verl", "compute_score")], ids=["openrlhf", "verl"]
)
def test_written_file_holds_the_recipe_whatever_its_characters(tmp_path: Path, kind: str, name: str) -> None:
    recipe = Recipe(
        "triplex.rewards.folder:load_reward", {"folder": 'a\'"\\\n""" é\u2028', "x": [1, None, True, {"y": 0.1}]}
    )
    reward = Recorder().loaded_by(recipe, None)
    for number in range(2):
        getattr(reward, kind)(tmp_path / f"{number}.py")
    adapter = getattr(module_of(tmp_path / "0.py"), name)
    assert adapter.recipe == recipe
    assert adapter.__name__ == "recorder"
    assert (tmp_path / "0.py").read_bytes() == (tmp_path / "1.py").read_bytes()


def test_file_that_is_no_python_file_is_refused(tmp_path: Path) -> None:
    reward = Recorder().loaded_by(Recipe("triplex.rewards.folder:load_reward", {}), None)
    with pytest.raises(InputError, match=r"reward.txt: no Python file .*\n  remedy: give a name that ends with .py"):
        reward.as_openrlhf(tmp_path / "reward.txt")


@pytest.mark.parametrize("kind", [TRLReward, OpenRLHFReward, VerlReward])
def test_every_adapter_is_pickled_as_its_recipe(kind: Any) -> None:
    recipe = Recipe("triplex.rewards.folder:load_reward", {"folder": "x"})
    again = pickle.loads(pickle.dumps(kind(recipe, Recorder(), "recorder")))  # noqa: S301
    assert (type(again), again.recipe, again.__name__) == (kind, recipe, "recorder")
