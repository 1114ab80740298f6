"""The state of the git repository that DVC and Triplex stand on."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.doctor.finding import Finding
from pipelines.doctor.locked import LOCK_FILE


def no_git() -> Iterator[Finding]:
    """No git repository around the project: DVC refuses to work, unless it was told to do without."""
    from dvc.config import Config

    if _git("rev-parse", "--git-dir") is None and not Config(str(Path(".dvc").absolute()))["core"].get("no_scm"):
        yield Finding(
            "no git repository", ".", "every command of DVC fails, and nobody knows which code made what",
            "git init && git add --all && git commit; without git: dvc config core.no_scm true",
        )  # fmt: skip


def no_commits() -> Iterator[Finding]:
    """A repository without a commit: no record to compare with, and nothing that `verify` could clone."""
    if _git("rev-parse", "--git-dir") is not None and _git("rev-parse", "--verify", "HEAD") is None:
        yield Finding(
            "no commits", ".", "nothing can be restored from git or verified in a clone",
            "git add --all && git commit",
        )  # fmt: skip


def dirty_lock() -> Iterator[Finding]:
    """A dvc.lock that is not the one of the last commit: results that git does not know."""
    if LOCK_FILE.exists() and LOCK_FILE.stat().st_size and _git("status", "--porcelain", "--", str(LOCK_FILE)):
        committed = _git("cat-file", "-e", f"HEAD:./{LOCK_FILE}") is not None
        yield Finding(
            "dvc.lock differs from the committed one" if committed else "dvc.lock not committed", str(LOCK_FILE),
            f"git does not know these results; others get {'those before them' if committed else 'none'}",
            f"git add params.yaml {LOCK_FILE} && git commit", warning=True,
        )  # fmt: skip


def shallow_clone() -> Iterator[Finding]:
    """A clone without its history: results of earlier commits cannot be compared with."""
    if _git("rev-parse", "--is-shallow-repository") == "true":
        yield Finding(
            "shallow clone", ".", "earlier commits are missing: `dvc metrics diff` and `verify` of them fail",
            "git fetch --unshallow", warning=True,
        )  # fmt: skip


def carriage_returns() -> Iterator[Finding]:
    """Files that git has with LF and the checkout with CRLF: other bytes, so DVC runs every stage again."""
    listed = _git("-c", "core.quotePath=false", "ls-files", "--eol") or ""
    lines = [line.partition("\t") for line in listed.splitlines()]
    changed = [Path(name) for how, _, name in lines if how.split()[:2] == ["i/lf", "w/crlf"]]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        yield Finding(
            "line ends changed", f"{changed[0]}{more}", "checked out with CRLF: their hashes, and all results, differ",
            "git config core.autocrlf false, and check out again", partial(_line_feeds, changed),
        )  # fmt: skip


def _line_feeds(paths: list[Path]) -> str:
    """LF in the files where that gives the bytes of git's index; changes of the user's stay, with their line ends."""
    mended = []
    for path in paths:
        text = path.read_bytes().replace(b"\r\n", b"\n")
        shown = subprocess.run(["git", "show", f":./{path}"], check=True, capture_output=True).stdout
        if text == shown:
            path.write_bytes(text)
            mended.append(str(path))
    subprocess.run(["git", "config", "core.autocrlf", "false"], check=True)
    if mended:  # the index knows the sizes with CRLF and takes another size for a change
        subprocess.run(["git", "add", "--", *mended], check=True)
    return f"core.autocrlf is false in this clone; LF in {len(mended)} of {len(paths)} files"


def _git(*arguments: str) -> str | None:
    """What git prints, None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
