"""`python -m leed_jax.study NAME [key=value ...]`: all runs behind one result."""

import sys
from collections.abc import Sequence

from rich.console import Console

from leed_jax.cli.common import ERROR_STATUS, exit_on_error, use_compilation_cache
from leed_jax.config.options import options
from leed_jax.errors import ConfigurationError
from leed_jax.studies.study import CHANGEABLE, StudyFile, read_study, read_study_file, study_names
from leed_jax.version import __version__

ABOUT = """
usage: python -m leed_jax.study NAME [out=DIR] [variants=LABELS] [points=VALUES] [key=value ...]
       python -m leed_jax.study path/to/file.yaml [...]
       python -m leed_jax.study list

Do all runs behind one result, and write the result down. Ctrl-C stops; the same command resumes: finished runs are not
repeated, and an interrupted one resumes from its last checkpoint.

A study of kind=compare trains every variant at every point on every seed, and writes tables and pictures to
OUT/README.md. A study of kind=tune tries the same number of settings of every variant, and writes the best ones to
OUT/tuning.md.

Examples:
  python -m leed_jax.study sample_efficiency
  python -m leed_jax.study sample_efficiency out=runs/look total_steps=20000 seeds.count=2
  python -m leed_jax.study agents points=3,5 variants=leed,ippo
  python -m leed_jax.study tune_mpe_spread budget=4

out is runs/studies/NAME if it is not given. variants and points choose some of those in the file; a later command for
the others adds to the same folder. Other keys are those of python -m leed_jax.run, and hold for every run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study.

    Args:
        arguments: NAME and `key=value` settings; those of the command line if None.

    Returns:
        The exit status: 0, 2 after an error in what was asked for, 130 or 143 if a signal stopped it.
    """
    return exit_on_error(lambda: _main(sys.argv[1:] if arguments is None else list(arguments)))


def _main(arguments: list[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0 if arguments else ERROR_STATUS
    if "--version" in arguments:
        print(f"leed_jax {__version__}")
        return 0
    name, *settings = arguments
    if "=" in name:
        raise ConfigurationError(f"{name}: the study comes first, as in python -m leed_jax.study NAME {name}.")
    if name == "list":
        if settings:
            raise ConfigurationError(f"list takes no settings; leave out {' '.join(settings)}.")
        print("\n".join(_listed()))
        return 0
    study = read_study(name, settings)
    use_compilation_cache()
    # Imported here, so that an error in what was asked for comes before everything that trains is loaded.
    if study.file.kind == "tune":
        from leed_jax.studies.tuning import run_tuning  # noqa: PLC0415

        return run_tuning(study, Console())
    from leed_jax.studies.comparison import run_comparison  # noqa: PLC0415

    return run_comparison(study, Console())


def help_text() -> str:
    """Usage, and the keys of a study file."""
    lines = [ABOUT.strip(), "", "Keys of a study file; a star marks those that the command line may set, too:", ""]
    for option in options(StudyFile):
        star = "*" if option.key in CHANGEABLE else " "
        lines.append(f"  {star} {option.key:<18}{option.meaning}".rstrip())
    return "\n".join([*lines, "", "Studies that come with leed_jax:", "", *_listed(), "", "Flags: --help, --version"])


def _listed() -> list[str]:
    files = {name: read_study_file(name, {})[1] for name in study_names()}
    return [f"  {name:<{max(map(len, files)) + 2}}{file.kind}: {file.title}" for name, file in files.items()]
