"""`python -m leed_jax.demonstrations list|show|verify|replay|export`: demonstration sets at the command line."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from leed_jax.cli.common import exit_on_error
from leed_jax.cli.replay import draw_plan
from leed_jax.cli.show import list_sets, read_contents, show_set
from leed_jax.demonstrations import DemonstrationSet, find_set, load_verified, read_manifest
from leed_jax.demonstrations.export import ABOUT, as_arrays, as_npz
from leed_jax.demonstrations.loading import environment_of
from leed_jax.environments import Environment
from leed_jax.errors import DemonstrationError
from leed_jax.files import write_whole
from leed_jax.generation.verify import verify_set
from leed_jax.instructions import printable

EXAMPLES = """
examples:
  python -m leed_jax.demonstrations list runs
  python -m leed_jax.demonstrations show mpe_spread/qwen2.5-coder-1.5b
  python -m leed_jax.demonstrations verify demos/mpe_spread/qwen2.5-coder-1.5b
  python -m leed_jax.demonstrations replay mpe_spread/qwen2.5-coder-1.5b --out spread.gif --episodes 2
  python -m leed_jax.demonstrations export mpe_spread/qwen2.5-coder-1.5b --out spread.npz --episodes 1000 --quantile 0.5

A set is a folder, or the name of one that comes with leed_jax.
"""
_SET = "a folder, or the name of a set"
_CHOICE = ("episodes", "noise", "noise_from", "seed", "plans", "quantile", "per_agent", "number")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Args:
        arguments: the command line; that of the process if None.

    Returns:
        The exit status: 0, 2 after an error, 141 if the output was closed.
    """
    parsed = _parser().parse_args(arguments)
    return exit_on_error(lambda: parsed.run(parsed) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leed_jax.demonstrations",
        description="List, show, verify, replay and export demonstration sets.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = _command(commands, "list", _list, "the sets that come with leed_jax, and those below a folder")
    add("folder", nargs="?", metavar="FOLDER", help="look for sets below it, too")
    add = _command(commands, "show", _show, "what a set was made for and from, its rounds, plans and scores")
    add("set", metavar="SET", help=_SET)
    add("--json", action="store_true", help="print the manifest and the same figures as JSON")
    add = _command(commands, "verify", _verify, "check the files, parse the replies and execute the plans again")
    add("sets", nargs="+", metavar="SET", help=_SET)
    add("--quick", action="store_true", help="play only some of the control's random plans: seconds")
    _add_environment(add)
    add = _command(commands, "replay", _replay, "draw an executed plan as an animated GIF")
    _add_files(add, "FILE.gif")
    add("--plan", type=_whole(0), default=0, metavar="N", help="which plan, from 0; default 0, the best")
    add("--seed", type=_whole(0), default=0, metavar="S", help="seed of the episodes; default 0")
    add("--episodes", type=_whole(1), default=3, metavar="N", help="how many episodes; default 3")
    add = _command(commands, "export", _export, "write episodes as a plain NumPy archive", ABOUT)
    _add_files(add, "FILE.npz")
    add("--episodes", type=_whole(1), metavar="N", help="execute the plans on N episodes; default: the recorded ones")
    add("--noise", type=_share, default=0.0, metavar="X", help="largest share of disturbed actions then; default 0")
    add("--noise-from", type=_share, default=0.0, metavar="X", help="smallest share of them; default 0")
    add("--seed", type=_whole(0), default=0, metavar="S", help="seed of that; default 0")
    add("--plans", type=_whole(1), metavar="N", help="only the best N plans")
    quantile = "leave out episodes with a return below this quantile"
    add("--quantile", type=_share, default=0.0, metavar="Q", help=quantile)
    add("--number", type=_whole(1), metavar="N", help="of what is left, only the best N episodes")
    add("--per-agent", action="store_true", help="let each agent have the episodes that were best for itself")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], about: str, more: str = ""
) -> Callable[..., Any]:
    examples = "\n".join(line for line in EXAMPLES.splitlines() if f"demonstrations {name} " in line)
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"{more}\nexample:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser.add_argument


def _add_environment(add: Callable[..., Any]) -> None:
    add(
        "--environment",
        metavar="package.module:Class",
        help="the class that the set was made for, if it does not come with leed_jax; it is not imported just because "
        "a manifest names it",
    )


def _add_files(add: Callable[..., Any], out: str) -> None:
    add("set", metavar="SET", help=_SET)
    _add_environment(add)
    add("--out", required=True, metavar=out, help="the file to write")
    add("--force", action="store_true", help="write it even if it is there already")


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} to {2**31 - 1}")
        return value

    parse.__name__ = "whole number"
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _list(arguments: argparse.Namespace) -> None:
    _print(list_sets(None if arguments.folder is None else Path(arguments.folder)))


def _show(arguments: argparse.Namespace) -> None:
    contents = read_contents(find_set(arguments.set, "SET"))
    _print([json.dumps(contents, indent=2)] if arguments.json else show_set(contents))


def _verify(arguments: argparse.Namespace) -> None:
    for name in arguments.sets:
        folder = find_set(name, "SET")
        _print([printable(str(folder), 300)])
        manifest = read_manifest(folder)
        environment = environment_of(folder, manifest, arguments.environment)
        _print(f"  {fact}" for fact in verify_set(folder, manifest, environment, arguments.quick))


def _replay(arguments: argparse.Namespace) -> None:
    out = _checked_out(arguments, ".gif")
    loaded, environment = _load(arguments)
    _write(out, draw_plan(loaded, environment, arguments.plan, arguments.seed, arguments.episodes))
    _print([f"Plan {arguments.plan}, episodes: {arguments.episodes}, in {printable(str(out), 300)}"])


def _export(arguments: argparse.Namespace) -> None:
    out = _checked_out(arguments, ".npz")
    loaded, _ = _load(arguments)
    chosen = {name: getattr(arguments, name) for name in _CHOICE}
    episodes = loaded.episodes(**chosen)
    arrays = as_arrays(loaded, episodes, chosen if arguments.episodes else {**chosen, **loaded.manifest["recorded"]})
    _write(out, as_npz(arrays))
    count, steps = len(arrays["episode_lengths"]), int(arrays["episode_lengths"].sum())
    _print([f"{count:,} episodes, {steps:,} steps in {printable(str(out), 300)}"])


def _load(arguments: argparse.Namespace) -> tuple[DemonstrationSet, Environment]:
    folder = find_set(arguments.set, "SET")
    manifest = read_manifest(folder)
    environment = environment_of(folder, manifest, arguments.environment)
    return load_verified(folder, manifest, environment), environment


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _checked_out(arguments: argparse.Namespace, suffix: str) -> Path:
    """The file to write, checked before anything is computed."""
    out = Path(arguments.out)
    shown = f"--out {printable(str(out), 300)}"
    if out.suffix != suffix:
        raise DemonstrationError(f"{shown}: the file's name must end in {suffix}.")
    try:
        there, folder = out.exists(), out.parent.is_dir()
    except OSError as error:
        raise DemonstrationError(f"{shown} cannot be looked up: {error.strerror}. Name another file.") from None
    if not folder:
        raise DemonstrationError(f"{shown}: there is no folder {printable(str(out.parent), 300)}; make it first.")
    if there and not arguments.force:
        raise DemonstrationError(f"{shown}: the file exists already; name another one, or add --force.")
    return out


def _write(out: Path, content: bytes) -> None:
    try:
        write_whole(out, content)
    except OSError as error:
        shown = printable(str(out), 300)
        raise DemonstrationError(f"--out {shown} cannot be written: {error.strerror}. Name another file.") from None
