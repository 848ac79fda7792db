"""The generation loop: ask, execute, tell the model what came of it, and ask again; the best plans are kept."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from leed_jax.config import GenerationConfig, LLMConfig
from leed_jax.errors import BudgetError, LLMError
from leed_jax.generation.candidates import (
    Attempt,
    Candidate,
    execute_candidates,
    known_candidate,
    read_attempt,
)
from leed_jax.generation.control import Control, best_of, random_plan_scores
from leed_jax.generation.episodes import PerEpisode
from leed_jax.generation.kinds import Keys, Kind, Task
from leed_jax.generation.relational import Relational
from leed_jax.generation.template import load_template
from leed_jax.instructions import InstructedEnvironment, Triple
from leed_jax.llm import ChatModel, Journalled, Reply, Usage, complete_all

OnReply = Callable[[Reply | LLMError], None]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round in figures.

    Attributes:
        index: the round, from 0; from 1 where there were plans before.
        requests: how many requests it had, without those for which a cap left no room.
        replies: how many of them got a reply.
        candidates: how many plans these requests asked for.
        executable: how many of these plans could be executed.
        validity: mean share of executable triples over these plans, a missing or unreadable one counting as 0.
        mean_return: mean return per agent of the executable plans, or None.
        best_return: what the best plans of this round come to, or None.
        best_so_far: the same for this and all earlier rounds, or None.
        control: the best of as many random valid plans as were asked for up to this round; None if not wanted.
        prompt_tokens: tokens read by the model.
        completion_tokens: tokens written by it.
        seconds: how long it took.
    """

    index: int
    requests: int
    replies: int
    candidates: int
    executable: int
    validity: float
    mean_return: float | None
    best_return: float | None
    best_so_far: float | None
    control: Control | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A kept plan, and what it earns in episodes that played no part in its selection."""

    candidate: Candidate
    report_returns: Float[np.ndarray, "A"]

    @property
    def report_return(self) -> float:
        """Mean return per agent."""
        return float(np.mean(self.report_returns))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """All that a generation found.

    Attributes:
        kind: the kind of plans.
        states_seed: seed of the initial states that plans are for, or None.
        prompt: name and sha256 of the prompt template.
        rounds: a row per round.
        attempts: every request and what came of it, in order.
        kept: the kept plans, best first.
        random_return: the mean return per agent of random actions.
        stopped: why it ended.
    """

    kind: str
    states_seed: int | None
    prompt: tuple[str, str]
    rounds: tuple[Round, ...]
    attempts: tuple[Attempt, ...]
    kept: tuple[Kept, ...]
    random_return: float
    stopped: str

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate, in order."""
        return tuple(c for attempt in self.attempts for c in attempt.candidates)

    @property
    def usage(self) -> Usage:
        """The tokens behind the replies, whoever paid for them and when."""
        return sum((attempt.reply.usage for attempt in self.attempts if attempt.reply is not None), Usage())

    @property
    def report_return(self) -> float | None:
        """The best plan's return in the fresh episodes; with kind=episodes, the mean over the kept plans."""
        if not self.kept:
            return None
        shown = self.kept[:1] if self.states_seed is None else self.kept
        return float(np.mean([kept.report_return for kept in shown]))


class Generation:
    """Asks a model for plans, round by round.

    Args:
        environment: where plans are executed.
        model: who is asked.
        llm: temperature, length and concurrency of the requests.
        settings: rounds, candidates and episodes.
        seed: seed of the held-out initial states, of the control, and of the requests.
        states_seed: with kind=episodes, seed of the initial states that plans are for; None for `seed`.
        known: plans that are there already, each with its initial state or None. They are executed, told to the model,
            and may be kept; they stand in the record as round 0.
        with_control: whether to work out the control.
        on_reply: is told each outcome as it comes.
        on_note: is told, in a sentence, what takes long.

    Attributes:
        rounds: a row per round so far.
        attempts: every request so far and what came of it.

    Raises:
        ConfigurationError: the prompt template cannot be used, or the environment does not offer this kind of plan.
        InstructionError: a known plan is not executable.
    """

    def __init__(
        self,
        environment: InstructedEnvironment,
        model: ChatModel,
        llm: LLMConfig,
        settings: GenerationConfig,
        seed: int,
        *,
        states_seed: int | None = None,
        known: Sequence[tuple[int | None, Sequence[Triple]]] = (),
        with_control: bool = True,
        on_reply: OnReply = lambda _: None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._model, self._on_reply, self._on_note = model, on_reply, on_note
        self._task = Task(
            environment, llm, settings, load_template(settings.prompt, settings.kind), seed, Keys.from_seed(seed)
        )
        self._states_seed = (seed if states_seed is None else states_seed) if settings.kind == "episodes" else None
        self._kind: Kind = (
            Relational(self._task) if self._states_seed is None else PerEpisode(self._task, self._states_seed)
        )
        self._pool: Float[np.ndarray, "R M"] | None = None
        self._with_control = with_control
        self._ended: str | None = None
        self.rounds: list[Round] = []
        self.attempts: list[Attempt] = []
        # Round 0 is what was there before.
        self._next = 1 if known else 0
        if known:
            self._take_known(known)
        self._value_before = self._kind.value(self.candidates)

    def _take_known(self, known: Sequence[tuple[int | None, Sequence[Triple]]]) -> None:
        task = self._task
        read = [
            known_candidate(task.environment.vocabulary, task.settings.max_instructions, i, episode, triples)
            for i, (episode, triples) in enumerate(known)
        ]
        executed = execute_candidates(self._kind.scorer, read)
        self.attempts += [Attempt(0, i, None, None, None, True, (c,)) for i, c in enumerate(executed)]

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate so far, in order, those that were known before included."""
        return [c for attempt in self.attempts for c in attempt.candidates]

    @property
    def stopped(self) -> str | None:
        """Why there should be no further round, or None."""
        settings, rounds = self._task.settings, self.rounds
        if self._ended is not None:
            return self._ended
        if len(rounds) >= settings.rounds:
            return f"All {settings.rounds} rounds are done."
        values = [self._value_before, *(r.best_so_far for r in rounds)]
        patience = settings.patience
        if patience and len(values) > patience and values[-1] == values[-1 - patience]:
            return f"There was no better plan in {patience} rounds."
        return None

    async def round(self, account: Sequence[str] = ()) -> Round:
        """Ask, execute and compare once.

        Args:
            account: sentences on what others, such as policies in training, do well and badly; told to the model.

        Raises:
            BudgetError: a cap left no room for any request of the round.
            LLMError: no request of the round got a reply; the first error stands for all.
            EnvironmentContractError: a return is not finite.
        """
        started = time.monotonic()
        index = self._next
        self._next += 1
        questions = self._kind.questions(index, self.candidates, account)
        outcomes = await self._ask([q.request for q in questions])
        task = self._task
        read = [
            read_attempt(task.environment.vocabulary, task.settings.max_instructions, index, i, question, outcome)
            for i, (question, outcome) in enumerate(zip(questions, outcomes, strict=True))
        ]
        executed = iter(execute_candidates(self._kind.scorer, [c for attempt in read for c in attempt.candidates]))
        fresh = [dataclasses.replace(a, candidates=tuple(next(executed) for _ in a.candidates)) for a in read]
        self.attempts += fresh
        self._raise_if_none_answered(outcomes)
        self.rounds.append(self._summarise(index, fresh, started))
        return self.rounds[-1]

    async def _ask(self, requests: Sequence[Any]) -> list[Reply | LLMError]:
        outcomes = await complete_all(
            self._model, requests, self._task.llm.concurrency, lambda _, outcome: self._on_reply(outcome)
        )
        if isinstance(self._model, Journalled):
            # Later prompts are made of these outcomes; after an interruption they must be the same again.
            self._model.close_round(requests, outcomes)
        refused = next((outcome for outcome in outcomes if isinstance(outcome, BudgetError)), None)
        if refused is not None:
            self._ended = str(refused)
        return outcomes

    def _raise_if_none_answered(self, outcomes: Sequence[Reply | LLMError]) -> None:
        errors = [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
        if len(errors) == len(outcomes):
            raise next((error for error in errors if isinstance(error, BudgetError)), errors[0])

    def end(self, error: LLMError) -> None:
        """Have no further round, because the last one ended in this error; what was found before stays."""
        self._ended = self._ended or f"It ended in round {self._next}, no request of which got a reply: {error}"

    def kept(self) -> list[Candidate]:
        """The best plans so far, best first: those that behave differently, or one for each initial state."""
        return self._kind.kept(self.candidates)

    def outcome(self) -> Outcome:
        """All that was found, with the kept plans' returns in episodes that played no part in their selection."""
        kept = self.kept()
        template = self._task.template
        return Outcome(
            kind=self._task.settings.kind,
            states_seed=self._states_seed,
            prompt=(template.name, template.sha256),
            rounds=tuple(self.rounds),
            attempts=tuple(self.attempts),
            kept=tuple(Kept(c, returns) for c, returns in zip(kept, self._kind.report(kept), strict=True)),
            random_return=self.random_return,
            stopped=self.stopped or "It was ended from outside.",
        )

    @property
    def random_return(self) -> float:
        """The mean return per agent of random actions."""
        return float(np.mean([baseline.score for baseline in self._kind.baselines]))

    def _control(self) -> Control | None:
        """The best of as many random valid plans as the model was asked for."""
        if not self._with_control:
            return None
        task, kind = self._task, self._kind
        if self._pool is None:
            self._on_note(f"Executing {task.settings.control_plans} random valid plans, to compare with.")
            self._pool = random_plan_scores(
                task.environment.vocabulary,
                kind.scorer,
                task.keys.control,
                max_instructions=task.settings.max_instructions,
                candidates=task.settings.candidates,
                count=task.settings.control_plans,
                states=kind.states,
            )
        asked = [c for a in self.attempts if a.sent and a.request is not None for c in a.candidates]
        return best_of(self._pool, kind.asked(asked), np.array([baseline.score for baseline in kind.baselines]))

    def _summarise(self, index: int, fresh: Sequence[Attempt], started: float) -> Round:
        sent = [attempt for attempt in fresh if attempt.sent]
        asked = [c for attempt in sent for c in attempt.candidates]
        scores = [c.score for c in asked if c.score is not None]
        replies = [attempt.reply for attempt in fresh if attempt.reply is not None]
        usage = sum((reply.usage for reply in replies), Usage())
        return Round(
            index=index,
            requests=len(sent),
            replies=len(replies),
            candidates=len(asked),
            executable=len(scores),
            validity=float(np.mean([c.validity for c in asked])),
            mean_return=float(np.mean(scores)) if scores else None,
            best_return=self._kind.value(asked),
            best_so_far=self._kind.value(self.candidates),
            control=self._control(),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=time.monotonic() - started,
        )


async def generate(generation: Generation, on_round: Callable[[Round], None] = lambda _: None) -> Outcome:
    """Go on round by round until all are done, no better plan comes, a cap is reached, or a round gets no reply.

    The first round must get one; from then on what was found, and paid for, is worth more than an error.

    Args:
        generation: what to go on with.
        on_round: called after each round.

    Raises:
        LLMError: no request of the first round got a reply; BudgetError if that was for a cap.
    """
    while generation.stopped is None:
        try:
            on_round(await generation.round())
        except LLMError as error:
            if not generation.rounds:
                raise
            generation.end(error)
    return generation.outcome()
