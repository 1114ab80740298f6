"""Which modules of the project a module imports: what a stage's `deps` must list."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("pipelines", "stages", "triplex")


def closure(module: str, root: Path = Path(".")) -> set[str]:
    """Paths, relative to `root`, of `module` and of every project module that it imports, directly or not.

    Imports inside functions count; `__init__.py` files do not, they hold a docstring only.
    """
    found: set[str] = set()
    pending = {_path(module, root)}
    while pending:
        path = pending.pop()
        if path is not None and path not in found:
            found.add(path)
            pending |= {_path(name, root) for name in imports(root / path)}
    return found


def imports(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, `from a import b` as both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: a relative import"  # noqa: PT018
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _path(module: str, root: Path) -> str | None:
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if module.split(".")[0] in PACKAGES and (root / path).is_file() else None
