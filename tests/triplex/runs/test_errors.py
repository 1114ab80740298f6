import copy
import errno

import pytest

from triplex.runs.errors import BusyError, DiskFullError, Exit, InputError, errors_in_words


def test_message_says_where_what_and_remedy() -> None:
    error = InputError("params.yaml: seed", "missing", "add it")
    assert str(error) == "params.yaml: seed: missing\n  remedy: add it"
    assert (error.where, error.what, error.remedy) == ("params.yaml: seed", "missing", "add it")


def test_message_without_remedy_is_one_line() -> None:
    assert str(InputError("a.txt", "empty")) == "a.txt: empty"


def test_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        raise InputError("a.txt", "empty")


def test_passes_from_process_to_process_whole() -> None:
    error = copy.copy(InputError("a.txt", "empty", "write into it"))  # as pickle does
    assert str(error) == "a.txt: empty\n  remedy: write into it"
    assert (error.where, error.what, error.remedy) == ("a.txt", "empty", "write into it")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("a.txt", "empty", "write into it"), 2, "error: a.txt: empty\n  remedy: write into it\n"),
        (BusyError("stage sft", "runs"), 75, "error: stage sft: runs\n"),
        (DiskFullError("models/sft", "no space"), 74, "error: models/sft: no space\n"),
        (OSError(errno.ENOSPC, "x", "a.txt"), 74, "error: a.txt: no space left on the disk\n"),
        (OSError(errno.EDQUOT, "x"), 74, "error: a file: no space left on the disk\n"),
        (MemoryError(), 71, "error: memory: used up\n"),
        (MemoryError("4 GB"), 71, "error: memory: used up: 4 GB\n"),
    ],
)
def test_words_and_exit_code(error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_in_words():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "x", "a.txt"), ValueError("ours"), KeyError("ours")])
def test_other_errors_are_ours(error: Exception) -> None:
    with pytest.raises(type(error)), errors_in_words():
        raise error


def test_the_table_of_exit_codes() -> None:
    assert {code.name: code.value for code in Exit} == {
        "DONE": 0, "FAILED": 1, "BAD_INPUT": 2, "NO_MEMORY": 71, "NO_SPACE": 74, "BUSY": 75, "CTRL_C": 130,
        "KILLED": 137, "TERMINATED": 143,
    }  # fmt: skip
