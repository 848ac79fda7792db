"""The table of packages in CONTRIBUTING.md, held against the imports of the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "leed_jax"
STARTERS = {"run.py", "generate.py", "evaluate.py", "compare.py", "study.py", "__main__.py", "__init__.py"}


def levels() -> dict[str, int]:
    """The level of each package, and of each module that stands beside them."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    return {name: int(level) for level, names in rows for name in re.findall(r"`(\w+)`", names)}


def imported(path: Path) -> Iterator[str]:
    """What a file imports of leed_jax, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.startswith("leed_jax."))


def modules() -> list[str]:
    found = [path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py"))]
    return [str(p) for p in found if not (len(p.parts) == 1 and p.name in STARTERS) and p.name != "__main__.py"]


def test_the_table_names_every_package() -> None:
    there = {Path(module).parts[0].removesuffix(".py") for module in modules()}
    assert there == set(levels())


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    table, own = levels(), Path(module).parts[0].removesuffix(".py")
    upward = [
        name
        for name in imported(SOURCE / module)
        if (package := name.split(".")[1]) != own and table.get(package, 99) >= table[own]
    ]
    assert upward == []


def test_only_the_configuration_knows_hydra() -> None:
    users = [m for m in modules() if re.search(r"^(from|import) hydra", (SOURCE / m).read_text(), flags=re.MULTILINE)]
    assert users == ["config/compose.py"]
