"""What `dvc repro` and the stage under it print, as lines for a log, and what became of the stage."""

import codecs
import re
import time
from collections.abc import Iterable, Iterator

PROGRESS_SECONDS = 5.0
_LINE_END = re.compile(r"\r?\n|\r")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 65536
_HINT = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core\.autostage"
    r"|Use `dvc push`|Data and pipelines are up to date|(Generating|Updating) lock file"
    r"|Stage '[^']+' (didn't change|is cached)"
)


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """The non-empty lines of UTF-8 output; of a progress bar (lines that end in a carriage return) one in 5 seconds."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, shown = "", float("-inf")
    for piece in pieces:
        rest += decoder.decode(piece)
        start = 0
        for end in _LINE_END.finditer(rest):
            text, start = _ANSI.sub("", rest[start : end.start()]).rstrip(), end.end()
            progress = end[0] == "\r"
            if not text or (progress and time.monotonic() - shown < PROGRESS_SECONDS):
                continue
            if progress:
                shown = time.monotonic()
            yield text
        rest = rest[start:]
        if len(rest) > _LONGEST:
            yield rest
            rest = ""
    if rest.strip():
        yield _ANSI.sub("", rest).rstrip()


def is_hint(line: str) -> bool:
    """Whether the line is DVC's advice on git and remotes, or says that a stage was not run, as the flow does."""
    return _HINT.match(line) is not None


def outcome(line: str, stage: str) -> str | None:
    """`Ran`, `Restored` (from the run cache) or `Skipped` (up to date) if DVC's line tells it of the stage."""
    for text, name in (
        (f"Running stage '{stage}':", "Ran"),
        (f"Stage '{stage}' is cached - skipping run", "Restored"),
        (f"Stage '{stage}' didn't change, skipping", "Skipped"),
    ):
        if line.startswith(text):
            return name
    return None
