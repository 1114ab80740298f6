"""A training run's state between two optimiser steps, as a checkpoint; the randomness is counter-based and needs none.

Tensors are safetensors, the rest is JSON, in which numbers come back to the last bit.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triplex.rewards.contract import RewardOutput
from triplex.rl.batch import Batch
from triplex.rl.rollout import Responses
from triplex.rl.step import Place, Rollout, Sampled
from triplex.runs.checkpoint import identity_of, newest, write_checkpoint
from triplex.runs.digests import digest
from triplex.runs.errors import InputError

if TYPE_CHECKING:
    from triplex.rl.trainer import Trainer

POLICY, OPTIMIZER, SAMPLED, STATE = "policy.safetensors", "optimizer.safetensors", "sampled.safetensors", "state.json"


def save_checkpoint(trainer: "Trainer") -> None:
    """Write the state of `trainer` at its place, also inside a step, into the folder of its run.

    Weights and moments are in whole, however many workers hold them; the first worker writes, the others wait for it.
    """
    files = {POLICY: trainer.strategy.weights(), OPTIMIZER: trainer.strategy.moments()}
    identity = _identity(trainer)
    if trainer.strategy.is_first:
        _write(trainer, files, identity)
    trainer.strategy.largest(0)


def _write(trainer: "Trainer", files: dict[str, dict[str, Tensor]], identity: dict[str, Any]) -> None:
    place = trainer.place
    state: dict[str, Any] = {
        "step": place.step, "descents": place.descents, "sums": place.sums, "kl": trainer.kl.state(),
        "stopped": trainer.stopped, "metrics": trainer.metrics, "completions": trainer.completions,
    }  # fmt: skip
    if place.sampled is not None:
        files[SAMPLED] = _tensors_of(place.sampled)
        state["sampled"] = _rest_of(place.sampled)
    text = json.dumps(state).encode()
    num_bytes = len(text) + sum(t.nbytes for tensors in files.values() for t in tensors.values())
    within = None if place.sampled is None else place.descents
    with write_checkpoint(
        trainer.run.state, place.step, within, identity=identity, num_bytes=num_bytes
    ) as folder:  # fmt: skip
        for name, tensors in files.items():
            save_file(tensors, folder / name)
        (folder / STATE).write_bytes(text)


def load_checkpoint(trainer: "Trainer") -> None:
    """Put the newest state of this run that verifies, if any, into `trainer`.

    InputError when it belongs to another run: another seed, or another reference or frozen weights.
    """
    (path, *_) = trainer.strategy.gather_lists([newest(trainer.run.state) if trainer.strategy.is_first else None])
    if path is None:
        return
    _check_identity(path, trainer)
    state = json.loads((path / STATE).read_bytes())
    trainer.strategy.load(load_file(path / POLICY), load_file(path / OPTIMIZER))
    trainer.kl.load(state["kl"])
    trainer.metrics, trainer.completions, trainer.stopped = state["metrics"], state["completions"], state["stopped"]
    sampled = None
    if "sampled" in state:
        sampled = _sampled(load_file(path / SAMPLED), state["sampled"], trainer.device)
    trainer.place = Place(state["step"], sampled, state["descents"], state["sums"])
    if trainer.strategy.is_first:
        print(f"{trainer.run.name}: goes on after step {state['step']} of {trainer.config.num_steps}", flush=True)


def digest_of_frozen(policy: nn.Module, reference: nn.Module) -> str:
    """Of all weights that do not learn, while each process has them in whole; in eval mode no buffer changes."""
    return digest(p for module in (policy, reference) for p in module.parameters() if not p.requires_grad)


def _identity(trainer: "Trainer") -> dict[str, Any]:
    return {"run": trainer.run.name, "seed": trainer.run.seed, "reference": trainer.frozen_digest}


def _check_identity(path: Path, trainer: "Trainer") -> None:
    there = identity_of(path)
    for name, value in _identity(trainer).items():
        if there[name] != value:
            what = f"its {name} is {there[name]}, that of this run is {value}"
            raise InputError(path, what, f"restore the {name}, or remove {path.parent} to start again")


def _tensors_of(sampled: Sampled) -> dict[str, Tensor]:
    """Copies, since some of them are the same tensors, which safetensors does not take."""
    rollout, scored, rewards = sampled
    found = {"prompt_ids": rollout.prompt_ids, "prompt_mask": rollout.prompt_mask}
    found |= {f"responses.{name}": value for name, value in rollout.responses._asdict().items()}
    found |= {f"scored.{f.name}": getattr(scored, f.name) for f in fields(Batch)}
    found |= {"total": rewards.total, "valid": rewards.valid}
    found |= {f"components.{name}": value for name, value in rewards.components.items()}
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


def _rest_of(sampled: Sampled) -> dict[str, Any]:
    rollout, _, rewards = sampled
    return {"rows": rollout.rows, "texts": rollout.texts, "ids": rollout.ids, "extras": rewards.extras}


def _sampled(tensors: dict[str, Tensor], rest: dict[str, Any], device: torch.device) -> Sampled:
    def under(prefix: str, device: torch.device) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t.to(device) for n, t in tensors.items() if n.startswith(prefix)}

    rollout = Rollout(
        rest["rows"], tensors["prompt_ids"].to(device), tensors["prompt_mask"].to(device),
        Responses(**under("responses.", device)), rest["texts"], rest["ids"],
    )  # fmt: skip
    components = under("components.", torch.device("cpu"))
    rewards = RewardOutput(tensors["total"], components, tensors["valid"], rest["extras"])
    return Sampled(rollout, Batch(**under("scored.", device)), rewards)
