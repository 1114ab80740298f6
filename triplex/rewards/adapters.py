"""A reward inside other trainers: TRL, OpenRLHF and verl call it, each in its own way, and get the same numbers."""

import json
import math
import pkgutil
import pprint
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import torch

from triplex.runs.errors import InputError
from triplex.runs.files import write_text

AnyAdapter = TypeVar("AnyAdapter", bound="Adapter")
Messages = Sequence[Mapping[str, Any]]  # a conversation as TRL and verl have it: each with `role` and `content`

#: for loading (twice would hold the weights twice) and for scoring (a fast tokenizer fails in two threads)
_ONE_AT_A_TIME = threading.RLock()
_LOADED: dict[str, "Portable"] = {}


class Recipe(NamedTuple):
    """How a reward is loaded again: `function(**arguments)`. JSON values only, so that it travels as text."""

    function: str  # "module:name", inside the package triplex
    arguments: dict[str, Any]

    def load(self) -> "Portable":
        """The reward, loaded once a process. InputError for a function that is not Triplex's own."""
        key = json.dumps(self, sort_keys=True, allow_nan=False)
        with _ONE_AT_A_TIME:
            if key not in _LOADED:
                _LOADED[key] = self._resolve()(**self.arguments)
            return _LOADED[key]

    def _resolve(self) -> Callable[..., "Portable"]:
        if self.function.startswith("triplex."):
            found = pkgutil.resolve_name(self.function)
            if getattr(found, "__module__", "").startswith("triplex."):  # not what a module of ours imports
                return found
        raise InputError(
            f"recipe {self.function!r}", "no function of the package triplex", "name one that loads a reward"
        )


class Portable(ABC):
    """A reward that other trainers can call. Its loader calls `loaded_by`, so that other processes can load it too."""

    __name__ = "reward"  # by which trainers log it
    recipe: Recipe | None = None
    tokenizer: Any = None  # of the models that score; for trainers which hand over text alone

    @abstractmethod
    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Sequence[float | None]: ...

    def loaded_by(self, recipe: Recipe, tokenizer: Any) -> Self:
        """This reward, told how it was loaded and which tokenizer its models have."""
        self.recipe, self.tokenizer = recipe, tokenizer
        return self

    def as_trl(self) -> "TRLReward":
        """For `GRPOTrainer(reward_funcs=[...])` of TRL, and of Unsloth, which trains with TRL's."""
        return TRLReward(self.recipe, self, self.__name__)

    def as_openrlhf(self, path: str | Path | None = None) -> "OpenRLHFReward":
        """OpenRLHF's `reward_func`; with `path` also as a Python file for `--reward.remote_url`."""
        return _written(OpenRLHFReward(self.recipe, self, self.__name__), "reward_func", path)

    def as_verl(self, path: str | Path | None = None) -> "VerlReward":
        """verl's `compute_score`; with `path` also as a Python file for `reward.custom_reward_function.path`."""
        return _written(VerlReward(self.recipe, self, self.__name__), "compute_score", path)


class Adapter:
    """A reward as another trainer calls it. It is pickled as its recipe and loaded again at the first call."""

    def __init__(self, recipe: Recipe | None, reward: Portable | None = None, name: str = "reward") -> None:
        self.recipe, self._reward, self.__name__ = recipe, reward, name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.known_recipe(), None, self.__name__)

    def known_recipe(self) -> Recipe:
        """The recipe; InputError for a reward that only this process has."""
        if self.recipe is None:
            raise InputError(
                f"reward {self.__name__}",
                "was built in memory, so no other process can load it",
                "load it from its folder: triplex.rewards.folder.load_reward",
            )
        return self.recipe

    @property
    def reward(self) -> Portable:
        """The reward itself."""
        if self._reward is None:
            self._reward = self.known_recipe().load()
        return self._reward

    @property
    def tokenizer(self) -> Any:
        """The reward's tokenizer; InputError where it has none."""
        if self.reward.tokenizer is None:
            raise InputError(
                f"reward {self.__name__}",
                "has no tokenizer, and this trainer hands over text without token ids",
                "load the reward from its folder, or set reward.tokenizer",
            )
        return self.reward.tokenizer

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> tuple[list[float | None], dict[str, list[Any]]]:
        """(the rewards, what the reward logged on the way: by name one value a completion)."""
        logged: dict[str, list[Any]] = {}

        def log_extra(name: str, values: Sequence[Any]) -> None:
            logged[name] = list(values)

        with _ONE_AT_A_TIME:
            totals = self.reward(prompts, completions, completion_ids, **columns, log_extra=log_extra)
        return list(totals), logged

    def token_ids(self, text: str, ended: bool) -> list[int]:
        """The tokens of a response of which only the text is known; with the end-of-text token if it `ended`."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id] if ended else ids

    def prompt_text(self, prompt: str | Messages) -> str:
        """A prompt as the text that the reward's models read.

        Messages become the tokenizer's chat template, opened for the answer: what the policy saw where both have one
        template. Without a template they are their contents, a line each. A token that the tokenizer itself puts
        before every text (Llama's begin-of-text, which its template writes too) is taken off.
        """
        tokenizer = self.reward.tokenizer
        if isinstance(prompt, str):
            text = prompt
        elif tokenizer is not None and tokenizer.chat_template:
            text = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        else:
            text = "".join(f"{content(message)}\n" for message in prompt)
        return text if tokenizer is None else text.removeprefix(tokenizer.decode(tokenizer("")["input_ids"][:1]))


class TRLReward(Adapter):
    """A reward function of TRL's trainers."""

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]],
        *,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion; None where the reward does not apply.

        Of a conversational dataset the prompt is scored as `prompt_text` says, and the completion is the content of
        its assistant messages. Whatever the reward logs goes to `log_extra`, the mean of what is a number to
        `log_metric` (in reports beside `reward`). TRL's `trainer_state` and the dataset's columns reach the reward.
        """
        texts = [text if isinstance(text, str) else answer(text) for text in completions]
        totals, logged = self.score([self.prompt_text(p) for p in prompts], texts, completion_ids, **columns)
        if log_extra:
            for name, values in logged.items():
                log_extra(name, values)
        if log_metric:
            for name, numbers in numeric(logged).items():
                log_metric(name, torch.tensor(numbers).nanmean().item())
        return totals


class OpenRLHFReward(Adapter):
    """OpenRLHF's `reward_func(queries, prompts, labels)`, which it calls in threads with lists of one."""

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        """`rewards` and `scores` (B,), which are equal, and `extra_logs`: by name (B,).

        A query is the decoded prompt and response, special tokens with them. The response is what follows the prompt;
        it ended when it closes with the end-of-text token; its special tokens are taken out, as TRL does. A label is
        the column `reference`. `scores` is what OpenRLHF filters prompts by: `--algo.dynamic_filtering_range` must
        name bounds in the reward's own range. Where the reward does not apply it is 0. InputError naming the row for a
        query that does not begin with its prompt.
        """
        special = re.compile("|".join(re.escape(token) for token in self.tokenizer.all_special_tokens))
        responses = [after_prompt(row, *pair) for row, pair in enumerate(zip(queries, prompts, strict=True))]
        completions = [special.sub("", response) for response in responses]
        ended = [response.endswith(self.tokenizer.eos_token) for response in responses]
        ids = [self.token_ids(*pair) for pair in zip(completions, ended, strict=True)]
        totals, logged = self.score([self.prompt_text(p) for p in prompts], completions, ids, reference=list(labels))
        rewards = torch.tensor([total or 0.0 for total in totals], dtype=torch.float32)
        return {
            "rewards": rewards,
            "scores": rewards.clone(),
            "extra_logs": {name: torch.tensor(numbers) for name, numbers in numeric(logged).items()},
        }


class VerlReward(Adapter):
    """verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`, one response a call."""

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **router: Any,
    ) -> dict[str, float]:
        """`score` and beside it what the reward logged, by name.

        The prompt is `extra_info["prompt"]`, text or messages (see `prompt_text`); InputError when it is missing.
        `ground_truth` is the column `reference`; `data_source` and the rest of `extra_info` are columns too. verl takes
        special tokens out of the response, so that one which was cut off cannot be told from one that ended: all count
        as ended. Where the reward does not apply it is 0. `router`, verl's own reward models, has no use here.
        """
        columns = dict(extra_info or {})
        if "prompt" not in columns:
            raise InputError(
                f"extra_info of a row of data_source {data_source!r}",
                f"holds no prompt ({', '.join(columns) or 'nothing at all'})",
                "write each row's prompt into extra_info.prompt of the dataset: verl hands over the response alone",
            )
        prompt = self.prompt_text(columns.pop("prompt"))
        columns |= {"data_source": data_source, "reference": ground_truth}
        ids = self.token_ids(solution_str, ended=True)
        (total,), logged = self.score(
            [prompt], [solution_str], [ids], **{name: [value] for name, value in columns.items()}
        )
        return {"score": total or 0.0} | {name: number for name, (number,) in numeric(logged).items()}


def after_prompt(row: int, query: str, prompt: str) -> str:
    """The response in a query that begins with its prompt; else an InputError naming the row."""
    if not query.startswith(prompt):
        raise InputError(
            f"row {row}",
            f"the query {query[:60]!r} does not begin with its prompt {prompt[:60]!r}",
            "keep prompts within the trainer's length limit, with a tokenizer that decodes them to themselves",
        )
    return query.removeprefix(prompt)


def answer(messages: Messages) -> str:
    """The content of the assistant's messages, a line between two."""
    return "\n".join(content(message) for message in messages if message["role"] == "assistant")


def content(message: Mapping[str, Any]) -> str:
    """A message's text: its content, or its content's text blocks; nothing for a bare tool call."""
    given = message.get("content") or ""
    return given if isinstance(given, str) else "".join(block.get("text", "") for block in given)


def numeric(logged: Mapping[str, Sequence[Any]]) -> dict[str, list[float]]:
    """What was logged as numbers, NaN where there is none; what else was logged is left out."""
    return {
        name: [math.nan if value is None else float(value) for value in values]
        for name, values in logged.items()
        if all(value is None or isinstance(value, Real) for value in values)
    }


def _written(adapter: AnyAdapter, name: str, path: str | Path | None) -> AnyAdapter:
    """The adapter; with a `path` also as a Python file that defines it under the `name` its trainer looks for."""
    if path is None:
        return adapter
    if Path(path).suffix != ".py":
        raise InputError(path, "no Python file to the trainer that reads it", "give a name that ends with .py")
    recipe, kind = adapter.known_recipe(), type(adapter).__name__
    write_text(
        path,
        f'"""A reward of Triplex: {name}."""\n\n'
        f"from triplex.rewards.adapters import {kind}, Recipe\n\n"
        f"RECIPE = Recipe({recipe.function!r}, {pprint.pformat(recipe.arguments, width=100)})\n"
        f"{name} = {kind}(RECIPE, name={adapter.__name__!r})\n",
    )
    return adapter
