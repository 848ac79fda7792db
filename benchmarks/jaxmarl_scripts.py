"""Scripts of a JaxMARL checkout, which are no package."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def load_script(path: Path, log: list[dict[str, Any]]) -> Any:
    """Import one of JaxMARL's scripts, with a stand-in for wandb that appends to `log`."""
    sys.modules["wandb"] = types.SimpleNamespace(log=log.append)  # type: ignore[assignment]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path} cannot be loaded; give --jaxmarl the folder of a JaxMARL checkout.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
