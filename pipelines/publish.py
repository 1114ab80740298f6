"""`python -m pipelines publish`: a trained model with its card, into a folder or onto the Hugging Face hub."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from triplex.runs.errors import InputError

if TYPE_CHECKING:
    from pipelines.rehash import Locked

EXAMPLES = """
* `python -m pipelines publish models/ppo --to ../kind-reviews`: a folder to hand on
* `python -m pipelines publish models/ppo --to hub:acme/kind-reviews --dry-run`: what would be uploaded; no network
* `python -m pipelines publish models/ppo --to hub:acme/kind-reviews --license cc-by-4.0`: upload it
"""
HUB = "hub:"


def publish(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A trained folder of this run, models/ppo say.")],
    to: Annotated[str, typer.Option("--to", metavar="DIR|hub:ORG/NAME", help="A new folder, or a model of the hub.")],
    license_id: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="As the hub calls it: apache-2.0, cc-by-4.0, other.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new model of the hub is a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list; write and send nothing.")] = False,
) -> None:
    """Write a trained model and its card where others find it: the card of its folder, with licence, data, results.

    Every file of the run is hashed anew first, and nothing is published that is not what dvc.lock, the manifests and
    the last commit say. Exit code 0; 2: it does not verify, has no licence, or the target cannot be written.
    """
    from pipelines.origin import Origin, license_of  # with it torch, which takes seconds
    from pipelines.published_card import published_card
    from triplex.models.card import CARD
    from triplex.runs.manifest import hash_files
    from triplex.runs.params import read_params

    check_target(to, dry_run)
    model, lock = Path(os.path.relpath(model)), verified_run(Path("."))
    check_trained(model, [out for locked in lock.values() for out in locked.outs])
    files = {Path(file).relative_to(model): entry for file, entry in hash_files(model).items()}
    del files[Path(CARD)]
    name = to.removeprefix(HUB) if to.startswith(HUB) else Path(to).resolve().name
    origin = read_params(Origin)
    license_id = license_of(model, origin, license_id)
    card = published_card(model, name, origin, license_id, files).encode()
    show(to, {file: entry["size"] for file, entry in files.items()} | {Path(CARD): len(card)}, license_id)
    if dry_run:
        typer.echo("dry run: nothing was written")
    elif to.startswith(HUB):
        upload(model, name, list(files), card, private)
    else:
        copy(model, Path(to), list(files), card)


def check_target(to: str, dry_run: bool) -> None:
    """InputError for a target that is there, is no name of the hub, or that nobody is logged in for."""
    if not to.startswith(HUB):
        if Path(to).exists():
            raise InputError(f"--to {to}", "is there already", "name a folder that is not, or move this one away")
        return
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = to.removeprefix(HUB)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--to {to}", str(error).splitlines()[0], "write hub:ORG/NAME") from error
    if not dry_run and get_token() is None:
        raise InputError(f"--to {to}", "nobody is logged in to the hub", "`hf auth login`, or set HF_TOKEN")


def verified_run(root: Path) -> "dict[str, Locked]":
    """What dvc.lock says of the run; InputError unless it is whole, every file as its stage left it, and committed."""
    from pipelines.clone import check_committed
    from pipelines.rehash import LOCK_FILE, check_whole, first_problem, read_lock

    lock = read_lock(root)
    check_whole(root, lock)
    if (found := first_problem(root, lock)) is not None:
        what = f"the run does not verify: {found[1]}"
        remedy = "`dvc repro` runs what has changed, `python -m pipelines doctor` tells what mends a damaged file"
        raise InputError(f"stage {found[0]}", what, remedy)
    check_committed(root, LOCK_FILE)
    return lock


def check_trained(model: Path, outs: list[str]) -> None:
    """InputError for a folder that is no model of the run."""
    from triplex.runs.params import nearest

    there = [file.parent.as_posix() for out in outs for file in Path(out).rglob("config.json")]
    if model.as_posix() not in there:
        raise InputError(model, "no model that a stage of this run wrote", nearest(model.as_posix(), there))


def show(to: str, sizes: dict[Path, int], license_id: str) -> None:
    """What goes where, with sizes."""
    table = Table("file", "bytes", box=None)
    table.columns[1].justify = "right"
    for file, size in sorted(sizes.items()):
        table.add_row(file.as_posix(), f"{size:,}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{len(sizes)} files, {sum(sizes.values()):,} bytes, licence {license_id} -> {to}", markup=False)


def copy(model: Path, target: Path, files: list[Path], card: bytes) -> None:
    """Write the files and the card as the folder `target`, whole or not at all."""
    from triplex.models.card import CARD
    from triplex.runs.files import atomic_folder

    with atomic_folder(target, sum((model / file).stat().st_size for file in files)) as aside:
        for file in files:
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model / file, aside / file)
        (aside / CARD).write_bytes(card)
    typer.echo(f"written: {target}")


def upload(model: Path, name: str, files: list[Path], card: bytes, private: bool) -> None:
    """Put the files and the card into a model of the hub, in one commit; InputError where it refuses."""
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from triplex.models.card import CARD

    adds = [CommitOperationAdd(file.as_posix(), model / file) for file in files]
    api = HfApi(library_name="triplex")
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        done = api.create_commit(name, [*adds, CommitOperationAdd(CARD, card)], commit_message=f"Triplex: {model}")
    except (HfHubHTTPError, ConnectionError, httpx.TransportError) as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "see the name, your rights there (`hf auth whoami`) and the network; nothing is published"
        raise InputError(f"{HUB}{name}", f"the hub did not take it ({reason})", remedy) from error
    typer.echo(f"written: {done.repo_url}")
