"""The command line of demonstration generation."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from leed_jax.cli.common import answer_flags, exit_on_error
from leed_jax.config import RunConfig
from leed_jax.config import RunConfig as Config
from leed_jax.config.compose import compose_config
from leed_jax.config.environments import check_contract, make_environment
from leed_jax.demonstrations import instructed
from leed_jax.errors import DemonstrationError
from leed_jax.generation.connect import connect, make_model, model_name
from leed_jax.generation.loop import Generation, Outcome, generate
from leed_jax.generation.progress import GenerationProgress
from leed_jax.generation.record import (
    JOURNAL,
    PLOT,
    claimed,
    meter_for,
    output_folder,
    recorded_settings,
    remove_journal,
    spending,
    write_set,
)
from leed_jax.generation.table import draw_rounds, print_table, summary_lines
from leed_jax.instructions import InstructedEnvironment
from leed_jax.llm import Spending

ABOUT = """
python -m leed_jax.generate experiment=NAME llm=PROVIDER [key=value ...]

Asks a language model for instructions, round by round, executes them, and records the best as a demonstration set.
Without llm=PROVIDER the recorded replies of demonstrations.path are gone through again, with no network.

  python -m leed_jax.generate experiment=mpe_spread
  python -m leed_jax.generate experiment=mpe_spread llm=local llm.path=MODEL.gguf
  python -m leed_jax.generate experiment=mpe_spread llm=openai llm.base_url=http://127.0.0.1:8081/v1 llm.model=NAME
  python -m leed_jax.generate experiment=mpe_spread llm=anthropic llm.model=NAME llm.max_total_tokens=100000
  python -m leed_jax.generate experiment=mpe_spread llm=local llm.path=MODEL.gguf generate.kind=episodes
  python -m leed_jax.generate experiment=mpe_spread llm=random       # random valid plans: the control
  python -m leed_jax.generate experiment=mpe_spread llm=written llm.path=plan.json generate.rounds=1 \
      generate.candidates=1                                          # a plan of your own

A generation that was stopped goes on where it was when the same command is given again: no answered request is
repeated, and what was spent stays counted.
"""
# Keys that only training uses.
HIDDEN = (
    *("algorithm", "num_seeds", "total_steps", "num_envs", "rollout_steps", "updates_per_chunk", "checkpoint_every"),
    *("out", "resume", "network", "ppo", "expert", "evaluation"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate a demonstration set and record it.

    Args:
        arguments: `key=value` settings; those of the command line if None.

    Returns:
        The exit status: 0, or 2 if something in what was asked for is wrong or no plan could be executed.
    """
    return exit_on_error(lambda: _main(sys.argv[1:] if arguments is None else list(arguments)))


def _main(arguments: list[str]) -> int:
    if answer_flags(arguments, ABOUT, RunConfig):
        return 0
    config, states_seed = compose_config(arguments), None
    if config.llm.provider == "replay":
        config, states_seed = recorded_settings(config)
    make_model(config)
    plain = make_environment(config.env)
    check_contract(config.env["name"], plain)
    environment = instructed(plain)
    console = Console()
    wanted = output_folder(config)
    with claimed(wanted) as folder:
        started = time.monotonic()
        try:
            outcome, counted = asyncio.run(_generate(config, environment, folder, states_seed, console))
        finally:
            _forget_empty_journal(folder)
        spent = spending(outcome, counted)
        print_table(console, outcome)
        for line in summary_lines(config, environment, outcome, spent, time.monotonic() - started):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        if wanted is not None:
            write_set(folder, config, environment, outcome, spent)
            draw_rounds(folder / PLOT, outcome, model_name(config))
            # The transcript holds every reply by now; the journal's work is done.
            remove_journal(folder)
            console.print(f"Recorded in {folder}.", soft_wrap=True)
    _raise_if_nothing(config, outcome, wanted)
    return 0


def _forget_empty_journal(folder: Path) -> None:
    if not (folder / JOURNAL).exists():
        remove_journal(folder)


def _raise_if_nothing(config: Config, outcome: Outcome, folder: Path | None) -> None:
    if outcome.kept:
        return
    told = [a.error for a in outcome.attempts if a.error] + [p for c in outcome.candidates for p in c.problems]
    where = "" if folder is None else f" The attempt is recorded in {folder}, without a plan."
    raise DemonstrationError(
        f"None of the {len(outcome.attempts)} replies of {model_name(config)} could be executed (the first problem: "
        f"{told[0] if told else 'there was none'}){where} Try a larger model, more rounds, or a lower llm.temperature."
    )


async def _generate(
    config: Config, environment: InstructedEnvironment, folder: Path, states_seed: int | None, console: Console
) -> tuple[Outcome, Spending | None]:
    meter = meter_for(config, folder / JOURNAL)
    with GenerationProgress(console, config, meter) as progress:
        progress.note(
            f"Asking {model_name(config)} for {config.generate.rounds} rounds of {config.generate.candidates} "
            f"candidates, by {config.llm.provider}."
        )
        remember = config.llm.provider != "replay"
        async with connect(config, folder / JOURNAL, meter, remember_failures=remember) as model:
            generation = Generation(
                environment,
                model,
                config.llm,
                config.generate,
                config.seed,
                states_seed=states_seed,
                on_reply=lambda outcome: progress.reply(outcome, model.reused),
                on_note=progress.note,
            )
            outcome = await generate(generation, progress.round)
        if config.llm.provider != "replay":
            told = f"{model.sent} requests sent, {model.reused} answered from the journal of an earlier attempt."
            progress.note(told)
    # Recorded replies are told with what they took when they were recorded.
    return outcome, None if config.llm.provider == "replay" else meter.spent
