"""Refined demonstrations: while training runs, a language model is asked for better plans in the background.

Every `generate.refresh_every` updates the model gets the returns of the learners and of the plan that they imitate, and
writes new plans. If these are better, their demonstrations replace those in use between two chunks. A new set is on
disk, under `refreshes/`, before it is used, so that a resumed run uses the same one. Training never waits for a reply.
"""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from leed_jax.config import RunConfig
from leed_jax.demonstrations import DemonstrationSet, load_demonstrations
from leed_jax.errors import RunDirectoryError
from leed_jax.files import append_line, write_whole
from leed_jax.generation.candidates import Candidate
from leed_jax.generation.connect import JOURNAL, connect, meter_for
from leed_jax.generation.feedback import learner_lines
from leed_jax.generation.loop import Generation
from leed_jax.generation.record import write_set
from leed_jax.instructions import InstructedEnvironment
from leed_jax.learning.episodes import measured_play
from leed_jax.learning.experts import Experts
from leed_jax.training.background import Background
from leed_jax.training.loop import Callback
from leed_jax.training.program import Program, Setup, make_experts

FOLDER = "refreshes"
LOG = "refreshes.jsonl"


@dataclasses.dataclass(frozen=True)
class RefreshRequest:
    """A request for better plans.

    Attributes:
        update: the number of updates so far.
        parameters: the networks of the first seed.
    """

    update: int
    parameters: Any


@dataclasses.dataclass(frozen=True)
class Refresh:
    """The result of a request.

    Attributes:
        update: the number of updates at the time of the request.
        best_return: the return per agent of the best plans so far.
        demonstrations: the new set; None if the plans in use are still the best.
        experts: its demonstrations, in the shapes of those in use.
    """

    update: int
    best_return: float | None
    demonstrations: DemonstrationSet | None = None
    experts: Experts | None = None


class Refinement(Callback):
    """Asks a model for better plans while training goes on, and replaces the program's demonstrations by them.

    Args:
        setup: the run, with an algorithm that imitates.
        program: its training.
        directory: its directory.
    """

    def __init__(self, setup: Setup, program: Program, directory: Path) -> None:
        assert setup.demonstrations is not None  # noqa: S101 - algorithm=leed has demonstrations
        self._setup, self._program, self._directory = setup, program, directory
        self._used: DemonstrationSet = setup.demonstrations
        self._every = setup.config.generate.refresh_every
        self._last = 0
        self.note: Callable[[str], None] = lambda _: None
        self._background: Background[RefreshRequest, Refresh] | None = None

    def restore(self, chunk: int) -> None:
        """Use the demonstrations that were in use after `chunk` chunks, and remove later entries of the log.

        Raises:
            RunDirectoryError: the record cannot be read.
            DemonstrationError: the set is missing or damaged.
        """
        path = self._directory / LOG
        self._last = chunk * self._setup.schedule.updates_per_chunk
        if not path.exists():
            return
        entries = [entry for entry in _entries(path) if entry["chunk"] <= chunk]
        write_whole(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        swaps = [entry["set"] for entry in entries if entry["set"] is not None]
        if swaps:
            self._used = load_demonstrations(str(self._directory / FOLDER / swaps[-1]), self._setup.environment)
            self._program.swap(make_experts(self._setup.config, self._used))

    def on_start(self, setup: Setup) -> None:
        """Start the background thread."""
        del setup
        self._background = Background(self._session)

    def on_end(self) -> None:
        """End the background thread."""
        if self._background is not None:
            self._background.close()

    def wants_state(self, chunk: int) -> bool:
        """Parameters are copied in `after_dispatch`."""
        del chunk
        return False

    def before_chunk(self, chunk: int) -> None:
        """Learn from better demonstrations from this chunk on, if there are any; returns at once."""
        finished = None if self._background is None else self._background.collect()
        if finished is None:
            return
        if finished.result is None:
            self.note(f"Asking for better plans after update {finished.job.update} failed: {finished.problem}")
            return
        refresh = finished.result
        folder = None if refresh.demonstrations is None else refresh.demonstrations.path.name
        entry = {"chunk": chunk - 1, "asked_after_update": refresh.update, "best_return": refresh.best_return}
        append_line(self._directory / LOG, json.dumps({**entry, "set": folder}))
        if refresh.demonstrations is None or refresh.experts is None:
            return
        self._program.swap(refresh.experts)
        self._used = refresh.demonstrations
        self.note(f"Better plans, {refresh.best_return:.2f} per agent; learning from {FOLDER}/{folder} from now on.")

    def after_dispatch(self, chunk: int, state: Any) -> None:
        """Ask for better plans if it is time and no request is running; returns at once."""
        update = chunk * self._setup.schedule.updates_per_chunk
        due = update // self._every > self._last // self._every
        if due and self._background is not None and not self._background.busy:
            self._last = update
            self._background.submit(RefreshRequest(update, self._program.first_parameters(state)))

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[Callable[[RefreshRequest], Awaitable[Refresh]]]:
        used = self._used
        config = conversation_settings(self._setup.config, used)
        journal = self._directory / JOURNAL
        async with connect(config, journal, meter_for(config, journal)) as model:
            known = [(plan["episode"], [tuple(t) for t in plan["triples"]]) for plan in used.manifest["plans"]]
            generation = Generation(
                used.environment,
                model,
                config.llm,
                config.generate,
                config.seed,
                states_seed=used.manifest["states_seed"],
                known=known,
                with_control=False,
            )
            asking = _Conversation(self._setup, self._program, self._directory, config, generation, used.environment)
            yield asking.refresh


class _Conversation:
    """One conversation with the model, over all refreshes of a run."""

    def __init__(
        self,
        setup: Setup,
        program: Program,
        directory: Path,
        config: RunConfig,
        generation: Generation,
        environment: InstructedEnvironment,
    ) -> None:
        self._setup, self._program, self._directory = setup, program, directory
        self._config, self._generation, self._environment = config, generation, environment
        self._in_use = self._plans()

        def play(parameters: Any) -> Any:
            actor = setup.algorithm.actor(parameters, True)
            episodes = setup.config.generate.selection_episodes
            returns, measures = measured_play(setup.environment, actor, jax.random.key(setup.config.seed), episodes)
            return jax.tree.map(lambda x: x.mean(axis=0), (returns, measures))

        self._play = jax.jit(play)

    async def refresh(self, request: RefreshRequest) -> Refresh:
        """Ask for one round of plans, and make demonstrations of them if they are better."""
        figures = await self._generation.round(self._account(request.parameters))
        plans = self._plans()
        if plans == self._in_use:
            return Refresh(request.update, figures.best_so_far)
        folder = self._directory / FOLDER / f"{request.update:08d}"
        write_set(folder, self._config, self._environment, self._generation.result())
        fresh = load_demonstrations(str(folder), self._setup.environment)
        experts = jax.block_until_ready(make_experts(self._setup.config, fresh))
        # Checked here, where an error is only a note, and not between two chunks.
        self._program.check_experts(experts)
        self._in_use = plans
        return Refresh(request.update, figures.best_so_far, fresh, experts)

    def _plans(self) -> list[Any]:
        """The plans that the learners would imitate."""
        return [(candidate.episode, candidate.triples) for candidate in self._generation.kept()]

    def _account(self, parameters: Any) -> list[str]:
        returns, measures = self._play(parameters)
        kept: Sequence[Candidate] = self._generation.kept()
        results = [candidate.result for candidate in kept if candidate.result is not None]
        if not results:
            return []
        return learner_lines(
            self._environment,
            np.asarray(returns),
            np.mean([result.by_agent for result in results], axis=0),
            {name: float(value) for name, value in measures.items()},
            {name: float(np.mean([result.measures[name] for result in results])) for name in measures},
        )


def conversation_settings(config: RunConfig, used: DemonstrationSet) -> RunConfig:
    """The settings for asking for better plans, so that their set can replace the one in use.

    Args:
        config: the run's configuration.
        used: the set in use; it decides the kind and the capacity of plans, and how many of them are imitated.
    """
    manifest, wanted = used.manifest, config.demonstrations
    plans = manifest["plans"]
    generate = dataclasses.replace(
        config.generate,
        kind=manifest["kind"],
        max_instructions=manifest["max_instructions"],
        keep=len(plans) if wanted.plans is None else min(wanted.plans, len(plans)),
        recorded_episodes=0,
    )
    if manifest["kind"] == "episodes":
        generate = dataclasses.replace(generate, episodes=1 + max(plan["episode"] for plan in plans))
    if wanted.episodes is None:
        # Learning uses recorded arrays: record as many episodes, with the same noise, as in the set in use.
        recorded = manifest["recorded"]
        count = len(used.episodes(plans=wanted.plans).reward)
        generate = dataclasses.replace(generate, recorded_episodes=count)
        least = recorded.get("noise_from", 0.0)
        wanted = dataclasses.replace(wanted, noise=recorded["noise"], noise_from=least, seed=recorded["seed"])
    return dataclasses.replace(config, generate=generate, demonstrations=wanted)


def _entries(path: Path) -> list[dict[str, Any]]:
    """The complete lines of the log; what follows the last line end was cut short by a crash."""
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}); restore it from a copy.") from None
