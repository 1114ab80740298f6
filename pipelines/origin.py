"""What a run was made of: whose data and whose models, and the licence of what came out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triplex.data.derive import DataConfig
from triplex.data.sources import FilesSource, HubSource
from triplex.models.base import BaseConfig
from triplex.models.sources import FolderConfig, HubConfig, named
from triplex.rewards.folder import RewardConfig
from triplex.runs.errors import InputError
from triplex.runs.params import Section, Seed

OWN_LICENSE = "apache-2.0"  # of Triplex, and of the texts that it makes


class Origin(Section):
    """The sections of params.yaml that say whose data and models a run uses."""

    seed: Seed
    data: DataConfig
    base: BaseConfig
    reward: RewardConfig

    def others(self) -> Iterator[str]:
        """What is not Triplex's own: data, base model, models of the reward."""
        source = self.data.source
        if isinstance(source, FilesSource | HubSource):
            names = [source.name] if isinstance(source, HubSource) else [file.path for file in source.files]
            yield f"the data `{', '.join(names)}`" + (f" ({source.licence})" if source.licence else "")
        parts = {"base": self.base, "sentiment": self.reward.sentiment, "preference": self.reward.preference}
        for what, part in parts.items():
            if part is not None and isinstance(part.model, FolderConfig | HubConfig):
                yield f"the {what} model {named(part.model)}"

    def on_the_hub(self) -> dict[str, Any]:
        """The base model and the data set, as the hub links them, where they are there."""
        found: dict[str, Any] = {}
        if isinstance(self.base.model, HubConfig):
            found["base_model"] = self.base.model.name
        if isinstance(self.data.source, HubSource) and not Path(self.data.source.name).is_dir():
            found["datasets"] = [self.data.source.name]
        return found


def license_of(model: Path, origin: Origin, given: str | None) -> str:
    """`given`, or that of Triplex where it alone made what the model is made of; InputError where it did not."""
    if given is None and (others := list(origin.others())):
        what = f"not known, since others made {'; '.join(others)}"
        raise InputError(f"the licence of {model}", what, "read what they ask for, then name one: --license ID")
    return given or OWN_LICENSE
