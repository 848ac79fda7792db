"""The environment that a manifest names. A manifest may come from anywhere, so it does not choose what is imported."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leed_jax.config.environments import make_environment
from leed_jax.demonstrations.format import MANIFEST, MEND
from leed_jax.environments import Environment
from leed_jax.errors import DemonstrationError, LeedError
from leed_jax.instructions import printable

MAX_AGENTS = 1_000
MAX_INTEGER = 10_000
_OWN = re.compile(r"leed_jax\.envs\.[A-Za-z_]\w*:[A-Za-z_]\w*", re.ASCII)


def environment_of(folder: Path, manifest: Mapping[str, Any], named: str | None = None) -> Environment:
    """Build the environment that a set was made for.

    Args:
        folder: the set's folder, for messages.
        manifest: its checked manifest.
        named: the class that the user names, as `package.module:Class`; without it, only what comes with leed_jax is
            imported.

    Raises:
        DemonstrationError: the manifest names another class, one that is not imported unasked, or one that cannot be
            built as it says.
    """
    name = manifest["environment"]["name"]
    shown = printable(name, 200)
    if named is not None and named != name:
        raise DemonstrationError(f"{folder} was made for {shown}, not for --environment {named}; name that class.")
    if named is None and not _OWN.fullmatch(name):
        raise DemonstrationError(
            f"{folder} was made for {shown}, which does not come with leed_jax, and a manifest alone does not make it "
            f"import code. If you trust that class, add --environment {shown}"
        )
    config = manifest["environment"]["config"]
    large = [field for field, value in config.items() if isinstance(value, int) and abs(value) > MAX_INTEGER]
    if named is None and large:
        field = printable(large[0])
        raise DemonstrationError(
            f"{folder / MANIFEST}: its environment has {field}={config[large[0]]}, and such numbers are not built "
            f"unasked. If it is meant so, add --environment {name}"
        )
    try:
        environment = make_environment({**config, "name": name})
        agents = environment.num_agents
    except LeedError as error:
        problem = printable(str(error), 500)
        raise DemonstrationError(f"{folder / MANIFEST}: its environment cannot be built: {problem} {MEND}") from None
    if agents > MAX_AGENTS:
        raise DemonstrationError(f"{folder / MANIFEST}: it has {agents} agents, more than {MAX_AGENTS}. {MEND}")
    return environment
