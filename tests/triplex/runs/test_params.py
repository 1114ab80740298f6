import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml
from ruamel.yaml import YAML

from triplex.data.derive import DataConfig
from triplex.models.base import BaseConfig
from triplex.models.sft import SFTConfig
from triplex.models.sources import FolderConfig
from triplex.rl.grpo import GRPO, GRPOConfig
from triplex.rl.ppo import PPO, PPOConfig
from triplex.rl.trainer import TrainConfig, check_sizes
from triplex.runs.errors import InputError
from triplex.runs.params import SECTIONS, ComputeConfig, Section, Seed, load_yaml, nearest, read_params

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
GOOD = FILES[0].read_text(encoding="utf-8")


class Params(Section):
    """Sections of several stages at once."""

    seed: Seed
    compute: ComputeConfig
    data: DataConfig
    base: BaseConfig
    sft: SFTConfig
    train: TrainConfig
    ppo: PPOConfig
    grpo: GRPOConfig


Read = Callable[[str], Params]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


@pytest.fixture
def read(file: Path) -> Read:
    """`read(text)`: the parameters in that text."""

    def read(text: str) -> Params:
        file.write_text(text, encoding="utf-8")
        return read_params(Params, file)

    return read


def edit(key: str, new: str, text: str = GOOD) -> str:
    """`text` with `new` where `key: value` stands, e.g. edit("grpo.group_size", "group_size: 1")."""
    lines, leaf = text.splitlines(keepends=True), key.rpartition(".")[2]
    number = line_of(key, text) - 1
    lines[number], count = re.subn(rf"\b{leaf}:( +[^ ,}}#\n]+)?", lambda _: new, lines[number], count=1)
    assert count == 1
    return "".join(lines)


def line_of(key: str, text: str = GOOD) -> int:
    """The number of the line in which the key stands."""
    *parents, leaf = key.split(".")
    node = YAML(typ="rt", pure=True).load(text)
    for parent in parents:
        node = node[parent]
    return int(node.lc.key(leaf)[0]) + 1


def with_model(model: str) -> str:
    """GOOD with another `base.model`."""
    start, end = GOOD.index("\n  model:") + 1, GOOD.index("  block_size:")
    return f"{GOOD[:start]}  model: {model}\n{GOOD[end:]}"


def test_good_file(read: Read) -> None:
    params = read(edit("seed", "seed: 11", edit("compute.precision", "precision: bfloat16")))
    assert (params.seed, params.compute.precision, params.base.model.kind) == (11, "bfloat16", "scratch")


def test_a_stage_reads_its_sections_alone(file: Path) -> None:
    class OnlySeed(Section):
        seed: Seed

    file.write_text("seed: 3\nbase: anything at all\n")
    assert read_params(OnlySeed, file).seed == 3


def test_what_is_read_cannot_be_changed(read: Read) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(GOOD).seed = 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_projects_files_have_known_sections_alone(path: Path) -> None:
    assert set(load_yaml(path)) <= set(SECTIONS)


@pytest.mark.parametrize(
    "text", [pytest.param(t, id=f"bad-33-{t}") for t in ("1e-5", "1E-5", "1.0e-5", "0.00001", "+1e-5")]
)
def test_scientific_notation_is_a_number(read: Read, text: str) -> None:
    """YAML 1.1 takes 1e-5 for a string."""
    good = edit("sft.optim.learning_rate", f"learning_rate: {text}")
    value = read(good).sft.optim.learning_rate
    assert isinstance(value, float)
    assert value == 0.00001
    assert parse_yaml(good, "params.yaml")["sft"]["optim"]["learning_rate"] == value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dvc_reads_the_same_values(path: Path) -> None:
    """What DVC records as a stage's parameters is what the stage gets."""
    assert load_yaml(path) == parse_yaml(path.read_text(encoding="utf-8"), path)


def test_bad_34_dvc_and_we_fall_into_no_trap_of_yaml_1_1(file: Path) -> None:
    """What looks like a number is that number, the rest a string, which no number's key takes."""
    file.write_text(
        "a: no\nb: on\nc: 0\nd: 0.5\ne: 12:30\nf: 1e5\ng: 0o17\nh: ~\ni: 0x1F\nj: 1_a\nk: 01.02.03\nl: '08'\n"
    )
    expected = {
        "a": "no", "b": "on", "c": 0, "d": 0.5, "e": "12:30", "f": 1e5, "g": 15, "h": None, "i": 31, "j": "1_a",
        "k": "01.02.03", "l": "08",
    }  # fmt: skip
    assert load_yaml(file) == expected
    assert parse_yaml(file.read_text(), file) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param(text, number, id=f"bad-34-{text}")
        for text, number in {
            "08": "8", "010": "10", "-007": "-7", "1_000": "1000", "1_0.5": "10.5", "08.5": "8.5", "01e3": "1000.0",
            "0b11": "3", "0x1_0": "16",
        }.items()
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["seed: {}", "data: {{x: [1, {}]}}", "compute:\n  - {}"])
def test_a_number_that_others_read_as_another_is_refused(file: Path, text: str, number: str, place: str) -> None:
    file.write_text("# first line\n" + place.format(text))
    with pytest.raises(InputError) as raised:
        load_yaml(file)
    line = 1 + (2 if place.startswith("compute") else 1)
    what = f'{text} is not one number to all readers of YAML, write {number}, or "{text}"'
    assert str(raised.value).startswith(f"{file} line {line}: {what}\n  remedy: ")


def bad(number: int, name: str, key: str, new: str, said: str) -> object:
    return pytest.param(key, new, said, id=f"bad-{number}-{name}")


@pytest.mark.parametrize(
    ("key", "new", "said"),
    [
        bad(34, "no", "seed", "seed: no", "seed = 'no': Input should be a valid integer"),
        bad(34, "on", "compute.threads", "threads: on", "compute.threads = 'on': Input should be a valid integer"),
        bad(34, "12:30", "seed", "seed: 12:30", "seed = '12:30': Input should be a valid integer"),
        bad(34, "date", "seed", "seed: 2026-01-31", "Input should be a valid integer"),
        bad(35, "section", "seed", "seed: 7\nseed: 8", 'found duplicate key "seed" with value "8"'),
        bad(35, "key", "data.max_words", "max_words: 4\n  max_words: 5", 'found duplicate key "max_words"'),
        bad(
            36, "key", "sft.optim.learning_rate", "learing_rate: 0.1",
            "sft.optim.learing_rate: unknown key, did you mean 'learning_rate'?",
        ),
        bad(36, "no-idea", "grpo.group_size", "group_size: 4\n  xyzzy: 1", "grpo.xyzzy: unknown key, known: adv"),
        bad(
            36, "in-a-union", "base.model.num_layers", "num_layers: 2\n    num_hedas: 2",
            "base.model.num_hedas: unknown key, did you mean 'num_heads'?",
        ),
        bad(36, "section", "sft", "sftt:", "unknown section 'sftt'\n  remedy: did you mean 'sft'?"),
        bad(36, "number", "sft", "8:", "unknown section 8"),
        bad(37, "key", "grpo.group_size", "", "grpo.group_size: missing; add it (presets/ holds complete files)"),
        bad(37, "section", "seed", "", "seed: missing; add it"),
        bad(37, "kind", "base.model.kind", "", "base.model: has no key 'kind'; add it"),
        bad(38, "empty", "seed", "seed:", "seed = None: Input should be a valid integer"),
        bad(38, "null", "train.num_steps", "num_steps: null", "train.num_steps = None: Input should be a valid int"),
        bad(38, "tilde", "data.max_words", "max_words: ~", "data.max_words = None: Input should be a valid integer"),
        bad(39, "string", "train.num_steps", 'num_steps: "8"', "train.num_steps = '8': Input should be a valid int"),
        bad(39, "float", "train.num_steps", "num_steps: 8.5", "train.num_steps = 8.5: Input should be a valid int"),
        bad(39, "bool", "train.num_steps", "num_steps: true", "train.num_steps = True: Input should be a valid int"),
        bad(39, "bool-for-float", "ppo.gamma", "gamma: true", "ppo.gamma = True: Input should be a valid number"),
        bad(39, "list", "compute.threads", "threads: [2]", "compute.threads = [2]: Input should be a valid integer"),
        bad(39, "choice", "compute.precision", "precision: fp16", "Input should be 'float32' or 'bfloat16'"),
        bad(39, "kind", "base.model.kind", "kind: scrach", "kind = 'scrach': no such kind, did you mean 'scratch'?"),
        bad(40, "learning-rate", "sft.optim.learning_rate", "learning_rate: -1e-5", "should be greater than 0"),
        bad(40, "clip-0", "ppo.clip_range", "clip_range: 0", "ppo.clip_range = 0: Input should be greater than 0"),
        bad(40, "value-coef", "ppo.value_coef", "value_coef: -0.1", "should be greater than or equal to 0"),
        bad(40, "gamma", "ppo.gamma", "gamma: 1.01", "ppo.gamma = 1.01: Input should be less than or equal to 1"),
        bad(40, "gae-lambda", "ppo.gae_lambda", "gae_lambda: -0.1", "should be greater than or equal to 0"),
        bad(40, "kl", "train.kl_coef", "kl_coef: -0.05", "should be greater than or equal to 0"),
        bad(40, "temperature", "train.temperature", "temperature: 0", "should be greater than 0"),
        bad(40, "nan", "train.temperature", "temperature: .nan", "should be a finite number"),
        bad(40, "inf", "train.temperature", "temperature: .inf", "should be a finite number"),
        bad(40, "group-of-one", "grpo.group_size", "group_size: 1", "should be greater than or equal to 2"),
        bad(40, "eval-frac", "data.eval_frac", "eval_frac: 1.0", "should be less than 1"),
        bad(40, "rank", "sft.lora.rank", "rank: -1", "should be greater than or equal to 0"),
        bad(40, "vocabulary", "base.model.vocab_size", "vocab_size: 10", "should be greater than or equal to 300"),
        bad(40, "5000-digits", "train.num_steps", "num_steps: " + "9" * 5000, "not valid YAML"),
        bad(40, "words", "data.max_words", "max_words: 2", "max_words is below prompt_words + min_completion_words"),
        bad(40, "heads", "base.model.num_heads", "num_heads: 7", "is no multiple of 2 * num_heads = 14"),
        bad(41, "negative", "seed", "seed: -1", "seed = -1: Input should be greater than or equal to 0"),
        bad(41, "2**64", "seed", f"seed: {2**64}", "should be less than 9223372036854775808"),
        bad(41, "2**63", "seed", f"seed: {2**63}", "should be less than 9223372036854775808"),
        bad(41, "random", "seed", "seed: random", "seed = 'random': Input should be a valid integer"),
        bad(43, "tab", "seed", "seed:\t7\n\tx: 1", "cannot start any token"),
        bad(43, "alias", "seed", "seed: {a: *nowhere}", "alias *nowhere, write its value out"),
        bad(43, "merge", "seed", "seed: &s {a: 1}\nppo: {<<: *s}\nold: 1", "alias *s, write its value out"),
        bad(43, "open-quote", "seed", "seed: '7", "params.yaml line "),
        bad(43, "control-character", "seed", "seed: \x07", "special characters are not allowed"),
        bad(43, "impossible-date", "seed", "seed: 2026-13-45", "month must be in 1..12"),
        bad(43, "python-tag", "seed", "seed: !!python/object:os.system x", "could not determine a constructor"),
        bad(43, "brackets", "seed", "seed: " + "[" * 10_000, "more than 50 brackets or indentations deep"),
        bad(44, "placeholder", "seed", "seed: ${SEED}", "seed = '${SEED}' has a placeholder, and none is filled in"),
        bad(44, "part", "base.model.architecture", "architecture: a${B}", "base.model.architecture = 'a${B}' has a pl"),
        bad(44, "braces", "seed", 'seed: "{{ seed }}"', "seed = '{{ seed }}': Input should be a valid integer"),
        pytest.param("compute.deepspeed.offload", "offload: true", "zero_stage = 0 divides nothing", id="offload"),
        pytest.param("compute.num_workers", "num_workers: 2", "one process, but num_workers = 2", id="local"),
        bad(47, "world-size", "compute.threads", "world_size: 4\n  threads: 2", "compute.world_size: unknown key"),
        bad(43, "documents", "seed", "seed: 7\n---", "but found another document"),
    ],
)  # fmt: skip
def test_mistake_is_named(read: Read, key: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read(edit(key, new))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("key", "new", "line"),
    [
        ("grpo.group_size", "group_size: 1", line_of("grpo.group_size")),
        ("sft.optim.learning_rate", "learing_rate: 0.1", line_of("sft.optim.learning_rate")),
        ("data.max_words", "max_words: 4\n  max_words: 5", line_of("data.max_words") + 1),
        ("sft", "sftt:", line_of("sft")),
        ("grpo.group_size", "", line_of("grpo")),  # missing: where it belongs
        ("base.model.kind", "kind: scrach", line_of("base.model")),
        ("seed", "seed:\t7\n\tx: 1", line_of("seed")),
    ],
)
def test_line_is_named(read: Read, file: Path, key: str, new: str, line: int) -> None:
    with pytest.raises(InputError) as raised:
        read(edit(key, new))
    assert f"{file} line {line}:" in str(raised.value)


def test_all_mistakes_are_told_at_once(read: Read) -> None:
    text = edit("seed", "seed: x", edit("ppo.gamma", "gamma: 2", edit("grpo.group_size", "group_size: 1")))
    with pytest.raises(InputError, match="3 mistake") as raised:
        read(text)
    assert all(key in str(raised.value) for key in ("seed = 'x'", "ppo.gamma = 2", "grpo.group_size = 1"))


def test_a_long_value_is_shortened(read: Read) -> None:
    with pytest.raises(InputError) as raised:
        read(edit("seed", f"seed: {'x' * 100_000}"))
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("algorithm", "size", "said"),
    [
        pytest.param("grpo", 12, "train.batch_size = 12: not a multiple of group_size", id="bad-40-groups"),
        pytest.param("ppo", 7, "train.batch_size = 7: not a multiple of num_minibatches", id="bad-40-minibatches"),
    ],
)
def test_batch_is_whole_groups_and_minibatches(read: Read, algorithm: str, size: int, said: str) -> None:
    params = read(edit("train.batch_size", f"batch_size: {size}", edit("grpo.group_size", "group_size: 8")))
    with pytest.raises(InputError, match=said):
        check_sizes(params.train, PPO(params.ppo) if algorithm == "ppo" else GRPO(params.grpo), num_prompts=10)


def test_bad_44_the_line_of_a_placeholder_in_a_list_is_named(file: Path) -> None:
    file.write_text("seed: 1\ndata:\n  files:\n    - a.txt\n    - ${HOME}/b.txt\n")
    with pytest.raises(InputError, match=r"params.yaml line 5: data.files.1 = '\$\{HOME\}/b.txt' has a placeholder"):
        read_params(Params, file)


def test_bad_47_one_process_of_several_is_refused(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert read(GOOD).seed == 7
    monkeypatch.setenv("WORLD_SIZE", "4")
    line = line_of("compute")
    with pytest.raises(InputError, match=rf"line {line}: compute: WORLD_SIZE = 4 in the environment, \d+ CPUs here: a"):
        read(GOOD)


def test_bad_43_billion_laughs_fails_at_once(file: Path) -> None:
    laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    file.write_text("\n".join(laughs))
    started = time.monotonic()
    with pytest.raises(InputError, match=r"line 2: alias \*a0, write its value out"):
        load_yaml(file)
    assert time.monotonic() - started < 1


def test_bad_43_large_file(file: Path) -> None:
    file.write_text("# " + "x" * 10_000_000)
    with pytest.raises(InputError, match="10000002 bytes, above the limit of 1 MB"):
        load_yaml(file)


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- 1", "list"), ("seed", "str")])
def test_file_without_sections(file: Path, text: str, kind: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=f"holds {kind}, not a mapping"):
        load_yaml(file)


def test_missing_file(file: Path) -> None:
    with pytest.raises(InputError, match=r"params.yaml: no such file\n  remedy: run from the repository's root"):
        load_yaml(file)


def test_bytes_that_are_no_utf8(file: Path) -> None:
    file.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 at byte 6"):
        load_yaml(file)


def test_bom_is_no_part_of_the_first_key(read: Read) -> None:
    assert read("\ufeff" + edit("seed", "seed: 11")).seed == 11


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=f"bad-45-{path}")
        for path in ("data dir/a b", "données/模型", "../outside", "~/models", r"C:\models", "a#b", "trailing ")
    ],
)
def test_a_path_is_read_as_it_is_written(read: Read, path: str) -> None:
    model = read(with_model(f"{{kind: folder, path: '{path}'}}")).base.model
    assert isinstance(model, FolderConfig)
    assert model.path == path


def test_suggestion_in_a_union_knows_its_kind(read: Read) -> None:
    with pytest.raises(InputError, match=r"base.model.revison: unknown key, did you mean 'revision'"):
        read(with_model("{kind: hub, name: org/model, revison: main}"))


def test_nearest() -> None:
    assert nearest("tempratur", ["seed", "temperature"]) == "did you mean 'temperature'?"
    assert nearest("xyz", ["seed", "data"]) == "known: data, seed"


def test_a_whole_number_serves_as_a_float(read: Read) -> None:
    assert read(edit("ppo.gae_lambda", "gae_lambda: 1")).ppo.gae_lambda == 1.0
