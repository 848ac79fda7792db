"""`python -m leed_jax.run experiment=NAME [key=value ...]`: train, and write down everything about it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from leed_jax.cli.common import answer_flags, exit_on_error, use_compilation_cache
from leed_jax.config import RunConfig
from leed_jax.config.compose import compose_config, split_setting, whole_number
from leed_jax.errors import ConfigurationError

ABOUT = """
usage: python -m leed_jax.run experiment=NAME [key=value ...]
       python -m leed_jax.run experiment=path/to/file.yaml [key=value ...]
       python -m leed_jax.run resume=DIR [total_steps=N [schedule=restart|hold]]

Train independent policies with PPO and an expert term from demonstrations (LEED), or one of the baselines: without the
term (ippo), with a central critic (mappo), imitation alone (bc), or Q-learning of a team's value (vdn, qmix). An
experiment may hold settings of its own for each algorithm.
Ctrl-C stops after the current chunk and writes a checkpoint; resume=DIR continues from there as if never stopped. With
total_steps=N it trains a finished run further.

Compiled programs are kept in the cache folder (~/.cache/leed_jax, or $LEED_JAX_CACHE), which may be deleted.

Examples:
  python -m leed_jax.run experiment=mpe_spread
  python -m leed_jax.run experiment=mpe_spread algorithm=ippo num_seeds=4 total_steps=1e6 out=runs/ippo
  python -m leed_jax.run env.name=my_package.my_module:MyEnvironment env.size=7 algorithm=ippo
  python -m leed_jax.run resume=runs/ippo
  python -m leed_jax.run resume=runs/ippo total_steps=2e6
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or resume a run.

    Args:
        arguments: `key=value` settings; those of the command line if None.

    Returns:
        The exit status: 0, 2 after an error in what was asked for, 130 or 143 if a signal stopped the run.
    """
    return exit_on_error(lambda: _main(sys.argv[1:] if arguments is None else list(arguments)))


def _main(arguments: list[str]) -> int:
    if answer_flags(arguments, ABOUT, RunConfig):
        return 0
    # Imported here, so that other command lines can compose a configuration without everything that trains.
    from leed_jax.training.runner import resume_run, start_run  # noqa: PLC0415

    use_compilation_cache()
    console = Console()
    resumed = _resume_settings(arguments)
    if resumed is None:
        result = start_run(compose_config(arguments), console)
    else:
        directory, settings = resumed
        result = resume_run(directory, console, **settings)
    return 0 if result.stopped_by is None else 128 + result.stopped_by


def _resume_settings(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """The directory of `resume=DIR`, and the settings that may be given with it; None without it."""
    settings = dict(split_setting(argument) for argument in arguments)
    if "resume" not in settings:
        if "schedule" in settings:
            raise ConfigurationError("schedule says what schedules do in added steps; it goes with resume=DIR.")
        return None
    directory = settings.pop("resume")
    if extra := set(settings) - {"total_steps", "schedule"}:
        raise ConfigurationError(
            f"resume={directory} continues with the recorded configuration; leave out {', '.join(sorted(extra))}, or "
            "start a new run without resume. With total_steps=N (and schedule=restart or hold) a finished run is "
            "trained further."
        )
    if "schedule" in settings and "total_steps" not in settings:
        raise ConfigurationError("schedule says what schedules do in added steps; add total_steps=N.")
    schedule, total_steps = settings.get("schedule", "restart"), None
    if schedule not in ("restart", "hold"):
        raise ConfigurationError(f"schedule={schedule}: must be one of restart, hold.")
    if "total_steps" in settings:
        digits = whole_number(settings["total_steps"])
        if not digits.isdecimal():
            raise ConfigurationError(f"total_steps={settings['total_steps']}: must be a whole number.")
        total_steps = int(digits)
    return Path(directory).expanduser(), {"total_steps": total_steps, "schedule": schedule}
