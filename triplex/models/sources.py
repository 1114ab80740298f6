"""Models that others trained: a local folder or one of the hub, each pinned to its content."""

from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from pydantic import Field

from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
from triplex.runs.params import Section, described

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # never pickle, never code


class FolderConfig(Section):
    """`kind: folder`: a local Hugging Face folder. Its hash is a parameter, so that no change of it goes unnoticed."""

    kind: Literal["folder"]
    path: str = described("the folder, relative to the project, or absolute")
    sha256: str = Field(default="", description="what the folder must hash to; the error without it tells it")


class HubConfig(Section):
    """`kind: hub`: a model of the Hugging Face hub at one revision."""

    kind: Literal["hub"]
    name: str = described("org/model")
    revision: str = Field(description="a commit, so that the run can be repeated")


def model_folder(config: FolderConfig | HubConfig) -> Path:
    """The local folder of the model, downloaded when it is the hub's; InputError when it is not what was named."""
    return _download(config) if isinstance(config, HubConfig) else _checked(config)


def named(config: FolderConfig | HubConfig) -> str:
    """The model in Markdown: which one, and in which state."""
    if isinstance(config, HubConfig):
        return f"`{config.name}` of the Hugging Face hub, revision `{config.revision}`"
    return f"the folder `{config.path}`, SHA-256 `{config.sha256}`"


def _checked(config: FolderConfig) -> Path:
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise InputError(folder, "no such model folder", "name a folder written by save_pretrained")
    found = sha256_tree(folder)
    if config.sha256 != found:
        what = (
            f"SHA-256 is not {config.sha256}" if config.sha256 else "no sha256 is given, so a change would go unnoticed"
        )
        raise InputError(folder, what, f"restore the folder, or accept it in params.yaml: sha256: {found}")
    return folder


def _download(config: HubConfig) -> Path:
    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=_HUB_FILES))
    except (OSError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        remedy = "check name, revision and network"
        raise InputError(f"model {config.name!r}", f"not to be had from the hub ({reason})", remedy) from error
