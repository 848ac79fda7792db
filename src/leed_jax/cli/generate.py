"""The command line of demonstration generation."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from leed_jax.cli.common import answer_flags, exit_on_error, use_compilation_cache
from leed_jax.config import GenerateConfig, Settings
from leed_jax.config.compose import compose_config
from leed_jax.config.environments import check_contract, make_environment
from leed_jax.demonstrations import instructed
from leed_jax.errors import DemonstrationError
from leed_jax.generation.connect import JOURNAL, connect, make_model, meter_for, model_name, remove_journal
from leed_jax.generation.display import GenerationProgress, draw_rounds, print_table, summary_lines
from leed_jax.generation.loop import Generation, GenerationResult, generate
from leed_jax.generation.record import PLOT, effective_settings, locked_folder, output_folder, spending, write_set
from leed_jax.instructions import InstructedEnvironment
from leed_jax.llm import Spending

ABOUT = """
python -m leed_jax.generate experiment=NAME llm=PROVIDER [key=value ...]

Asks a language model for instructions, round by round, executes them, and records the best as a demonstration set.
Without llm=PROVIDER the recorded replies of demonstrations.path are used again, with no network.

  python -m leed_jax.generate experiment=mpe_spread
  python -m leed_jax.generate experiment=mpe_spread llm=local llm.path=MODEL.gguf
  python -m leed_jax.generate experiment=mpe_spread llm=openai llm.base_url=http://127.0.0.1:8081/v1 llm.model=NAME
  python -m leed_jax.generate experiment=mpe_spread llm=anthropic llm.model=NAME llm.max_total_tokens=100000
  python -m leed_jax.generate experiment=mpe_spread llm=local llm.path=MODEL.gguf generate.kind=episodes
  python -m leed_jax.generate experiment=mpe_spread llm=random       # random valid plans: the control
  python -m leed_jax.generate experiment=mpe_spread llm=written llm.path=plan.json       # a plan of your own

A written plan is a JSON file with a list of [command, parameter, agent] for at least one instruction per agent:

  {"instructions": [["MoveTo", "nearest_landmark", "agent_0"], ["Hold", "until_end", "agent_1"], ...]}

"all_agents" stands for every agent. With generate.kind=episodes there is a plan for each initial state:

  {"episodes": [{"episode": "e0", "instructions": [...]}, {"episode": "e1", "instructions": [...]}, ...]}

A generation that was stopped continues when the same command is given again: no answered request is repeated, and
what was spent stays counted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate a demonstration set and record it.

    Args:
        arguments: `key=value` settings; those of the command line if None.

    Returns:
        The exit status: 0, or 2 if a setting is wrong or no plan could be executed.
    """
    return exit_on_error(lambda: _main(sys.argv[1:] if arguments is None else list(arguments)))


def _main(arguments: list[str]) -> int:
    if answer_flags(arguments, ABOUT, GenerateConfig):
        return 0
    config, states_seed = effective_settings(compose_config(arguments, GenerateConfig))
    make_model(config)
    use_compilation_cache()
    plain = make_environment(config.env)
    check_contract(config.env["name"], plain)
    environment = instructed(plain)
    console = Console()
    out = output_folder(config)
    with locked_folder(out) as folder:
        started = time.monotonic()
        try:
            result, counted = asyncio.run(_generate(config, environment, folder, states_seed, console))
        finally:
            if not (folder / JOURNAL).exists():
                remove_journal(folder)
        problems = [a.error for a in result.attempts if a.error] + [p for c in result.candidates for p in c.problems]
        written = config.llm.provider == "written"
        if written and not result.kept:
            # The folder stays free for another attempt.
            remove_journal(folder)
            raise DemonstrationError(_nothing_executable(config, result, problems, out))
        spent = spending(result, counted)
        print_table(console, result)
        left_out = [f"Left out: {problem}" for problem in problems] if written else []
        seconds = time.monotonic() - started
        for line in (*left_out, *summary_lines(config, environment, result, spent, seconds)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        if out is not None:
            write_set(folder, config, environment, result, spent)
            draw_rounds(folder / PLOT, result, model_name(config))
            # By now the transcript holds every reply.
            remove_journal(folder)
            console.print(f"Recorded in {folder}.", soft_wrap=True)
    if not result.kept:
        raise DemonstrationError(_nothing_executable(config, result, problems, out))
    return 0


def _nothing_executable(config: Settings, result: GenerationResult, problems: list[str], out: Path | None) -> str:
    if config.llm.provider == "written":
        return (
            f"llm.path={config.llm.path} holds no executable plan: {' '.join(problems[:5])} Correct the file and give "
            "the same command again; --help shows the format."
        )
    where = "" if out is None else f" The attempt is recorded in {out}, without a plan."
    return (
        f"None of the {len(result.attempts)} replies of {model_name(config)} could be executed (the first problem: "
        f"{problems[0] if problems else 'there was none'}){where} Try a larger model, more rounds, or a lower "
        "llm.temperature."
    )


async def _generate(
    config: Settings, environment: InstructedEnvironment, folder: Path, states_seed: int | None, console: Console
) -> tuple[GenerationResult, Spending | None]:
    """The result and what was paid; None for recorded replies, which are counted with their cost when recorded."""
    meter = meter_for(config, folder / JOURNAL)
    replayed = config.llm.provider == "replay"
    with GenerationProgress(console, config, meter) as progress:
        progress.note(
            f"Asking {model_name(config)} for {config.generate.rounds} rounds of {config.generate.candidates} "
            f"candidates, by {config.llm.provider}."
        )
        async with connect(config, folder / JOURNAL, meter, remember_failures=not replayed) as model:
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
            result = await generate(generation, progress.round)
        if not replayed:
            progress.note(
                f"{model.sent} requests sent, {model.reused} answered from the journal of an earlier attempt."
            )
    return result, None if replayed else meter.spent
