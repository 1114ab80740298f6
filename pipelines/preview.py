"""Samples as a model reads them: tokens, the mask, words, phrases and sentences, and how likely each token is.

Marks carry what colours show, so that it reads alike in a file, under NO_COLOR and in a screenshot without them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from pipelines.generate import visible
from triplex.evaluation.shading import SHADE_NATS
from triplex.perplexity.segment import segment

PHRASE_WORDS = 4  # of the sizes 2, 3 and 4; windows slide by a word, those shown stand side by side
_WORDS = ("cyan", "bright_cyan")
_PHRASE, _SENTENCE = "magenta", "green"
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


def legend(has_tokens: bool, scored: bool) -> Text:
    """What the marks and colours mean."""
    tokens = Text.assemble(
        "tokens end at |: ", ("prompt", "blue"), ", ", ("response", "green"), ", ", ("·padding", "dim"),
        "; mask 1: the response\n",
    )  # fmt: skip
    text = Text.assemble(
        tokens if has_tokens else "",
        ("[word]", _WORDS[0]), (" <four words of a phrase>", _PHRASE), (" end of a sentence‖", _SENTENCE),
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
        yield _token_line(tokens, longest, coloured)
        yield _mask_line(tokens, longest)
        if tokens.nats is not None:
            yield _label("nats").append(f"{sum(tokens.nats) / max(1, len(tokens.nats)):.2f} a token, on average")
    yield _unit_line(sample.prompt + sample.completion)


def _token_line(tokens: Tokens, longest: int, coloured: bool) -> Text:
    """Nats are shades where there are colours, else the number behind each token."""
    line = _label("tokens")
    for text in tokens.prompt:
        line.append(visible(text).plain, "blue").append("|", "dim")
    for number, text in enumerate(tokens.response):
        style, mark = "green", "|"
        if tokens.nats is not None:
            value = tokens.nats[number]
            style = [style for low, style in SHADES if value >= low or low == 0][-1]
            mark = "|" if coloured else f"({value:.1f})|"
        line.append(visible(text).plain, style).append(mark, "dim")
    return line.append("·" * (longest - len(tokens)), "dim")


def _mask_line(tokens: Tokens, longest: int) -> Text:
    parts = (("prompt", len(tokens.prompt), 0), ("response", len(tokens.response), 1),
             ("padding", longest - len(tokens), 0))  # fmt: skip
    return _label("mask").append(", ".join(f"{value} x {number} {name}" for name, number, value in parts))


def _unit_line(text: str) -> Text:
    """Words in runs of PHRASE_WORDS inside of one sentence, side by side; what is left over of it is a shorter one."""
    starts, sentences = segment(text)
    line = _label("units")
    for number, word in enumerate(_parts(text, starts)):
        place = number - sentences.index(sentences[number])  # in its sentence
        is_last = sentences[number] not in sentences[number + 1 : number + 2]
        line.append(visible(word[: len(word) - len(word.lstrip())]).plain)
        line.append("<" * (place % PHRASE_WORDS == 0), _PHRASE)
        line.append(f"[{visible(word.strip()).plain}]", _WORDS[number % 2])
        line.append(">" * (is_last or (place + 1) % PHRASE_WORDS == 0), _PHRASE)
        line.append("‖" * is_last, _SENTENCE)
    return line


def _parts(text: str, starts: list[int]) -> list[str]:
    return [text[begin:end] for begin, end in pairwise([*starts, len(text)])]


def _label(name: str) -> Text:
    return Text(f"{name:<10}")
