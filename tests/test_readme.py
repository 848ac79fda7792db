"""The README's examples of the library, as they stand there."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import pytest
from probes import Choice

README = Path(__file__).resolve().parents[1] / "README.md"


@dataclasses.dataclass(frozen=True)
class MyEnvironment(Choice):
    """Something to learn, with the field that the README gives it."""

    size: int = 3


def test_the_examples_run_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = types.ModuleType("my_package.my_module")
    module.MyEnvironment = MyEnvironment  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package", types.ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.my_module", module)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    # Three chunks in place of thirty show that a state can be given away and taken up again.
    code = "\n".join(blocks)
    assert code.count("range(30)") == 1
    exec(code.replace("range(30)", "range(3)"), {})  # noqa: S102 - the project's own page
    returns = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(returns) == 3
    assert all(re.fullmatch(r"\[ *-?[\d.]+ +-?[\d.]+ *\]", line) for line in returns)
