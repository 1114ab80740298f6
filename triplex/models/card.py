"""The model card of a trained folder: what it was made from, with which parameters, and how to make it again."""

from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from pydantic import BaseModel
from ruamel.yaml import YAML

from triplex.models.saving import ADAPTER
from triplex.runs.files import sha256_tree, write_text
from triplex.runs.manifest import declarations

CARD = "README.md"
_CODE, _PLUGINS = (".py", ".j2"), "plugins"  # no inputs: the parameters have the hash of a plug-in that is in use
_TEMPLATE = Path(__file__).with_name("card.md.j2")
_LIMITS = {
    "text-generation": (
        "It goes on with texts like those that it was trained on, and answers no instructions. Nothing was filtered,\n"
        "nothing tested for safety. A tuned model writes what its reward pays, which need not be what a reader likes."
    ),
    "text-classification": (
        "It tells apart texts like those that it was trained on. Its number is a signal to train on; a policy that is\n"
        "trained on it finds where it is wrong."
    ),
}
_LOADED_BY = {"text-generation": "AutoModelForCausalLM", "text-classification": "AutoModelForSequenceClassification"}


def write_card(folder: Path, stage: str, params: BaseModel, made: str, task: str = "text-generation") -> None:
    """Write the README.md of `folder`, an out of `stage`; `made` says in a sentence what the stage did.

    It holds nothing but the hashes of inputs and the parameters that the weights depend on: in any environment it is
    the same, and what reads the folder runs again only where the weights may have moved.
    """
    yaml, parameters = YAML(typ="rt", pure=True), StringIO()
    yaml.dump(params.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_unmoving(params)), parameters)
    inputs = [dep for dep in declarations()[stage]["deps"] if Path(dep).suffix not in _CODE and dep != _PLUGINS]
    data = ModelCardData(
        library_name="transformers", pipeline_tag=task, license="unknown", tags=["triplex", stage.replace("@", "-")]
    )
    card = ModelCard.from_template(
        data, template_path=str(_TEMPLATE), folder=folder, stage=stage, made=made, auto=_LOADED_BY[task],
        inputs={dep: sha256_tree(dep) for dep in inputs},
        parameters=parameters.getvalue(), limits=_LIMITS[task],
        adapter=ADAPTER if (folder / ADAPTER).is_dir() else None,
    )  # fmt: skip
    write_text(folder / CARD, f"{card}\n")


def _unmoving(section: BaseModel) -> dict[str, Any]:
    """The parameters that no weight depends on, in the form of `model_dump`'s `exclude`."""
    found: dict[str, Any] = {}
    for name, value in section:
        extra = type(section).model_fields[name].json_schema_extra
        if isinstance(value, BaseModel):
            found[name] = _unmoving(value)
        elif isinstance(extra, dict) and extra.get("moves_weights") is False:
            found[name] = True
    return found
