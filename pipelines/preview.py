"""Samples as a model reads them: tokens, the mask, words, phrases and sentences, and how likely each token is.

Marks carry what colours show, so that it reads alike in a file, under NO_COLOR and in a screenshot without them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from pipelines.generate import visible
from triplex.evaluation.shading import SHADE_NATS
from triplex.perplexity.segment import segment

PHRASE_WORDS = 4  # of the sizes 2, 3 and 4; windows slide by a word, those shown stand side by side
_WORDS = ("cyan", "bright_cyan")
_PHRASES = ("magenta", "bright_magenta")
_SENTENCES = ("green", "yellow")
_BACKGROUNDS = ("black on #c7e9c0", "black on #ffffb2", "black on #fecc5c", "black on #fd8d3c", "white on #bd0026")
#: from these nats on a token has this background
SHADES = tuple(zip((0.0, *SHADE_NATS), _BACKGROUNDS, strict=True))


@dataclass(frozen=True)
class Sample:
    """A row: its name, prompt and completion."""

    name: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Tokens:
    """A sample's tokens as texts: of the prompt, of the completion, and the nats of the latter if scored."""

    prompt: list[str]
    response: list[str]
    nats: list[float] | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def legend(scored: bool) -> Text:
    """What the marks and colours mean."""
    text = Text.assemble(
        "tokens end at |: ", ("prompt", "blue"), ", ", ("response", "green"), ", ", ("·padding", "dim"),
        "; mask 1: the response\n",
        ("[word]", _WORDS[0]), (" <four words of a phrase>", _PHRASES[0]), (" sentence ‖", _SENTENCES[0]),
    )  # fmt: skip
    if scored:
        text.append("\nnats of a token, given what stands before it: ")
        for low, style in SHADES:
            text.append(f" {low:g}+ ", style)
    return text


def lines(sample: Sample, tokens: Tokens | None, longest: int, coloured: bool) -> Iterator[Text]:
    """The lines that show a sample; `longest` is the number of tokens that the batch is padded to."""
    yield visible(sample.name)
    if tokens is not None:
        yield _token_line(tokens, longest)
        yield _mask_line(tokens, longest)
        if tokens.nats is not None:
            yield _nats_line(tokens.response, tokens.nats, coloured)
    text = sample.prompt + sample.completion
    starts, sentences = segment(text)
    words = _parts(text, starts)
    yield _row("words", words, _WORDS, "[", "]")
    yield _row("phrases", list(_phrases(words, sentences)), _PHRASES, "<", ">")
    first_words = [starts[0], *(at for at, (a, b) in zip(starts[1:], pairwise(sentences), strict=True) if a != b)]
    yield _row("sentences", _parts(text, first_words), _SENTENCES, "", "‖")


def _token_line(tokens: Tokens, longest: int) -> Text:
    line = _label("tokens")
    for texts, style in ((tokens.prompt, "blue"), (tokens.response, "green")):
        for text in texts:
            line.append(visible(text).plain, style).append("|", "dim")
    return line.append("·" * (longest - len(tokens)), "dim")


def _mask_line(tokens: Tokens, longest: int) -> Text:
    parts = (("prompt", len(tokens.prompt), 0), ("response", len(tokens.response), 1),
             ("padding", longest - len(tokens), 0))  # fmt: skip
    return _label("mask").append(", ".join(f"{value} x {number} {name}" for name, number, value in parts))


def _nats_line(texts: Sequence[str], nats: Sequence[float], coloured: bool) -> Text:
    """Shades where there are colours, else the number behind each token."""
    line = _label("nats")
    for text, value in zip(texts, nats, strict=True):
        style = [style for low, style in SHADES if value >= low or low == 0][-1]
        line.append(visible(text).plain, style).append("" if coloured else f"({value:.1f})")
    mean = sum(nats) / max(1, len(nats))
    return line.append(f"   mean {mean:.2f} nats a token", "dim")


def _phrases(words: list[str], sentences: list[int]) -> Iterator[str]:
    """Runs of PHRASE_WORDS words inside of one sentence, side by side; what is left over is a shorter one."""
    at = 0
    while at < len(words):
        end = at
        while end < min(len(words), at + PHRASE_WORDS) and sentences[end] == sentences[at]:
            end += 1
        yield "".join(words[at:end])
        at = end


def _parts(text: str, starts: list[int]) -> list[str]:
    return [text[begin:end] for begin, end in pairwise([*starts, len(text)])]


def _row(name: str, parts: list[str], styles: tuple[str, str], before: str, after: str) -> Text:
    line = _label(name)
    for number, part in enumerate(parts):
        space = part[: len(part) - len(part.lstrip())]
        line.append(visible(space).plain).append(f"{before}{visible(part.strip()).plain}{after}", styles[number % 2])
    return line


def _label(name: str) -> Text:
    return Text(f"{name:<10}")
