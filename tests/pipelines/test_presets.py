from pathlib import Path

import pytest

from pipelines.presets import Change, descriptions, differences, read_preset
from tests.pipelines.conftest import PARAMS, run_pipelines
from triplex.runs.errors import InputError


@pytest.fixture(autouse=True)
def presets(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    Path("presets").mkdir()
    Path("presets/quick.yaml").write_text("# A quick look.\n" + PARAMS.replace("seed: 1", "seed: 2"))
    Path("presets/files.yaml").write_text("# Your own files.\n" + PARAMS.replace("a.txt", "DATA_DIR/a.txt"))


def test_the_first_comment_describes() -> None:
    assert descriptions() == {"files": "Your own files.", "quick": "A quick look."}


def test_differences() -> None:
    document, _ = read_preset("quick", None)
    assert differences(document) == [Change("seed", 1, 2)]
    del document["grpo"]
    assert differences(document) == [Change("seed", 1, 2), Change("grpo.learning_rate", 2e-5, None)]


def test_the_command_shows_the_difference_and_writes(tmp_path: Path) -> None:
    folder = tmp_path / "my: data #1"
    folder.mkdir()
    done = run_pipelines(Path(), "preset", "files", "--data", str(folder))
    assert done.returncode == 0, done.stderr
    assert "data.paths.0" in done.stdout
    document, _ = read_preset("files", folder)
    assert document["data"]["paths"][0] == f"{folder}/a.txt"
    assert differences(document) == []
    assert Path("params.yaml").read_text().startswith("# Your own files.\n")
    assert "# of Adam" in Path("params.yaml").read_text()


def test_the_command_lists() -> None:
    done = run_pipelines(Path(), "preset")
    assert done.returncode == 0
    assert [line.split(maxsplit=1) for line in map(str.strip, done.stdout.splitlines())][1:] == [
        ["files", "Your own files."],
        ["quick", "A quick look."],
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("quik", None, "did you mean 'quick'"),
        ("files", None, "--data FOLDER"),
        ("files", Path("nowhere"), "no such folder"),
        ("quick", Path(), "leave --data out"),
    ],
)
def test_mistakes(name: str, data: Path | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_preset(name, data)
