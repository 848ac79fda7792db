"""The command line of demonstration generation."""

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Sequence

from rich.console import Console

from leed_jax.cli import answer_flags, exit_on_error, leave
from leed_jax.config import Config
from leed_jax.demonstrations import instructed
from leed_jax.environment_class import check_contract, make_environment
from leed_jax.errors import RunDirectoryError
from leed_jax.generate.loop import Outcome, Round, generate
from leed_jax.generate.record import JOURNAL, PLOT, draw_rounds, output_folder, print_table, write_set
from leed_jax.instructions import InstructedEnvironment
from leed_jax.llm import Journal, Journalled, OpenAICompatible, RetryPolicy
from leed_jax.run import compose_config

ABOUT = """
python -m leed_jax.generate experiment=NAME llm.base_url=URL llm.model=NAME [key=value ...]

Asks a language model for instructions, round by round, executes them, and records the best as a demonstration set.

  python -m leed_jax.generate experiment=mpe_spread llm.base_url=http://127.0.0.1:8081/v1 llm.model=qwen2.5
  python -m leed_jax.generate experiment=mpe_spread llm.base_url=https://HOST/v1 llm.model=NAME llm.api_key_env=MY_KEY
  python -m leed_jax.generate experiment=mpe_spread llm.model=NAME generate.rounds=2 generate.out=my_demonstrations

A generation that was stopped goes on where it was when the same command is given again: no answered request is
repeated.
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
        The exit status.
    """
    return exit_on_error(lambda: _main(sys.argv[1:] if arguments is None else list(arguments)))


def _main(arguments: list[str]) -> int:
    if answer_flags(arguments, ABOUT, HIDDEN):
        return 0
    config = compose_config(arguments)
    plain = make_environment(config.env)
    check_contract(config.env["name"], plain)
    environment = instructed(plain)
    folder = output_folder(config)
    console = Console()
    # A retried request is no news to the user; one that failed for good is reported with its round.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    outcome = asyncio.run(_generate(config, environment, console))
    write_set(folder, config, environment, outcome)
    draw_rounds(folder / PLOT, outcome, config.llm.model)
    # The transcript holds every reply by now; the journal's work is done.
    (folder / JOURNAL).unlink(missing_ok=True)
    print_table(console, outcome)
    console.print(f"Recorded in {folder}.", soft_wrap=True)
    return 0


async def _generate(config: Config, environment: InstructedEnvironment, console: Console) -> Outcome:
    llm = config.llm
    policy = RetryPolicy(attempts=llm.max_attempts)
    # As long as all attempts may take, with the waits between them.
    longest = llm.max_attempts * (llm.timeout_s + policy.wait_max_s + policy.wait_jitter_s)
    policy = dataclasses.replace(policy, total_s=longest)
    client = OpenAICompatible(
        llm.base_url,
        llm.model,
        api_key_env=llm.api_key_env or None,
        timeout_s=llm.timeout_s,
        response_format=llm.response_format,
        retry=policy,
    )
    folder = output_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"{folder} cannot be made ({error.strerror}); choose another folder with generate.out=."
        ) from None
    console.print(
        f"Asking {llm.model} at {llm.base_url} for {config.generate.rounds} rounds "
        f"of {config.generate.candidates} plans.",
        soft_wrap=True,
    )

    def report(r: Round) -> None:
        best = "none yet" if r.best_so_far is None else f"{r.best_so_far:.2f}"
        console.print(
            f"round {r.index + 1}/{config.generate.rounds}: {r.executable} of {config.generate.candidates} executable, "
            f"best so far {best} per agent",
            soft_wrap=True,
        )

    async with client:
        model = Journalled(client, Journal(folder / JOURNAL))
        outcome = await generate(environment, model, llm, config.generate, config.seed, report)
    console.print(f"{model.sent} requests sent, {model.reused} answered from the journal of an earlier attempt.")
    return outcome


if __name__ == "__main__":
    leave(main())
