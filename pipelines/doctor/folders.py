"""Folders of DVC and Triplex that other users of this machine could write to."""

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.doctor.finding import Finding

PRIVATE = Path(".triplex")


def site_cache() -> Iterator[Finding]:
    """DVC's site cache: it makes the folder world-writable, so it must lie in one that is closed."""
    from dvc.config import Config
    from dvc.dirs import site_cache_dir

    configured = Config(str(Path(".dvc").absolute()))["core"].get("site_cache_dir")
    folder = Path(site_cache_dir(configured)).absolute()
    if not folder.is_relative_to(PRIVATE.absolute()):
        yield Finding(
            "site cache in a shared place", str(folder), "DVC makes it world-writable and trusts what it reads there",
            f"dvc config --local core.site_cache_dir '{PRIVATE.absolute()}/dvc'",
        )  # fmt: skip


def open_folders() -> Iterator[Finding]:
    """.triplex with a mode other than 0700, and folders in .dvc that everybody may write to."""
    if PRIVATE.is_dir() and stat.S_IMODE(PRIVATE.stat().st_mode) & 0o077:
        yield _open(PRIVATE, 0o700, "open to other users; checkpoints, locks and DVC's site cache lie there")
    for folder in (path for path in [Path(".dvc"), *Path(".dvc").rglob("*")] if path.is_dir()):
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & stat.S_IWOTH:
            yield _open(folder, mode & ~stat.S_IWOTH, "world-writable: anybody can change what DVC will restore")


def _open(folder: Path, mode: int, meaning: str) -> Finding:
    now = stat.S_IMODE(folder.stat().st_mode)
    return Finding(
        "open folder", f"{folder} ({now:04o})", meaning, f"chmod {mode:04o} {folder}", partial(_close, folder, mode)
    )


def _close(folder: Path, mode: int) -> str:
    folder.chmod(mode)
    return f"mode {mode:04o}"
