"""The generation loop: ask for plans, execute them, feed the results back, and keep the best."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from leed_jax.config import GenerationConfig, LLMConfig
from leed_jax.errors import BudgetError, LLMError
from leed_jax.generation.candidates import Attempt, Candidate, execute_candidates, known_candidate, read_attempt
from leed_jax.generation.planner import Planner
from leed_jax.generation.scoring import Control
from leed_jax.instructions import InstructedEnvironment, Triple
from leed_jax.llm import ChatModel, Journalled, Reply, Usage, complete_all

OnReply = Callable[[Reply | LLMError], None]


@dataclasses.dataclass(frozen=True)
class Round:
    """The figures of a round.

    Attributes:
        index: the round, from 0; from 1 where there were known plans.
        requests: its requests, without those that a limit of the budget kept back.
        replies: how many of them got a reply.
        candidates: how many plans these requests asked for.
        executable: how many of these plans could be executed.
        validity: mean share of executable triples over these plans; 0 for a missing or unreadable one.
        mean_return: mean return per agent of the executable plans, or None.
        best_return: return per agent of the best plans of this round, or None.
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
class KeptPlan:
    """A kept plan and each agent's mean return in episodes that played no part in its selection."""

    candidate: Candidate
    report_returns: Float[np.ndarray, "A"]

    @property
    def report_return(self) -> float:
        """Mean return per agent."""
        return float(np.mean(self.report_returns))


@dataclasses.dataclass(frozen=True, eq=False)
class GenerationResult:
    """The result of a generation.

    Attributes:
        kind: the kind of plans.
        states_seed: seed of the initial states that plans are for, or None.
        prompt: name and sha256 of the prompt template.
        rounds: the figures of each round.
        attempts: every request and its candidates, in order.
        kept: the kept plans, best first.
        random_return: the mean return per agent of random actions.
        stopped: why it ended.
    """

    kind: str
    states_seed: int | None
    prompt: Mapping[str, str]
    rounds: tuple[Round, ...]
    attempts: tuple[Attempt, ...]
    kept: tuple[KeptPlan, ...]
    random_return: float
    stopped: str

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate, in order."""
        return tuple(c for attempt in self.attempts for c in attempt.candidates)

    @property
    def usage(self) -> Usage:
        """The tokens of all replies, those from a cache included."""
        return sum((attempt.reply.usage for attempt in self.attempts if attempt.reply is not None), Usage())

    @property
    def report_return(self) -> float | None:
        """The best plan's return in fresh episodes; with kind=episodes, the mean over the kept plans."""
        if not self.kept:
            return None
        counted = self.kept[:1] if self.states_seed is None else self.kept
        return float(np.mean([plan.report_return for plan in counted]))


class Generation:
    """Asks a model for plans, round by round.

    Args:
        environment: where plans are executed.
        model: the model.
        llm: temperature, length and concurrency of the requests.
        settings: rounds, candidates and episodes.
        seed: seed of the held-out initial states, of the control, and of the requests.
        states_seed: with kind=episodes, seed of the initial states that plans are for; None for `seed`.
        known: plans that exist already, each with its initial state or None. They are executed, fed back to the model
            and may be kept; they are recorded as round 0.
        with_control: whether to compute the control.
        on_reply: called with each reply or error.
        on_note: called with a sentence before something slow.

    Attributes:
        planner: requests, scores and selects the plans.
        rounds: the figures of each round so far.
        attempts: every request so far.

    Raises:
        ConfigurationError: the prompt template cannot be used, or the environment does not support this kind of plan.
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
        self._settings, self._concurrency, self._vocabulary = settings, llm.concurrency, environment.vocabulary
        self._states_seed = (seed if states_seed is None else states_seed) if settings.kind == "episodes" else None
        self.planner = Planner(environment, llm, settings, seed, self._states_seed)
        self._with_control = with_control
        self._ended: str | None = None
        self.rounds: list[Round] = []
        self.attempts: list[Attempt] = []
        self._next = 1 if known else 0
        read = [
            known_candidate(self._vocabulary, settings.max_instructions, i, episode, triples)
            for i, (episode, triples) in enumerate(known)
        ]
        executed = execute_candidates(self.planner.scorer, read)
        self.attempts += [Attempt(0, i, None, None, None, True, (c,)) for i, c in enumerate(executed)]
        self._value_before = self.planner.value(self.candidates)

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate so far, in order, known plans included."""
        return [c for attempt in self.attempts for c in attempt.candidates]

    @property
    def stopped(self) -> str | None:
        """Why there should be no further round, or None."""
        settings, rounds = self._settings, self.rounds
        if self._ended is not None:
            return self._ended
        if len(rounds) >= settings.rounds:
            return f"All {settings.rounds} rounds are done."
        values = [self._value_before, *(r.best_so_far for r in rounds)]
        patience = settings.patience
        if patience and len(values) > patience and values[-1] == values[-1 - patience]:
            return f"There was no better plan in {patience} rounds."
        return None

    async def round(self, learner_feedback: Sequence[str] = ()) -> Round:
        """Ask for plans, execute and compare them, once.

        Args:
            learner_feedback: sentences for the model on how other policies do, such as those in training.

        Raises:
            BudgetError: a limit left no room for any request of the round.
            LLMError: no request of the round got a reply; this is the first error.
            EnvironmentContractError: a return is not finite.
        """
        started = time.monotonic()
        index = self._next
        self._next += 1
        requests = self.planner.requests(index, self.candidates, learner_feedback)
        outcomes = await self._ask([r.request for r in requests])
        read = [
            read_attempt(self._vocabulary, self._settings.max_instructions, index, i, asked, outcome)
            for i, (asked, outcome) in enumerate(zip(requests, outcomes, strict=True))
        ]
        executed = iter(execute_candidates(self.planner.scorer, [c for attempt in read for c in attempt.candidates]))
        fresh = [dataclasses.replace(a, candidates=tuple(next(executed) for _ in a.candidates)) for a in read]
        self.attempts += fresh
        errors = [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
        if len(errors) == len(outcomes):
            raise next((error for error in errors if isinstance(error, BudgetError)), errors[0])
        self.rounds.append(self._summarise(index, fresh, started))
        return self.rounds[-1]

    async def _ask(self, requests: Sequence[Any]) -> list[Reply | LLMError]:
        outcomes = await complete_all(
            self._model, requests, self._concurrency, lambda _, outcome: self._on_reply(outcome)
        )
        if isinstance(self._model, Journalled):
            # Later prompts depend on these outcomes, which must be the same after an interruption.
            self._model.close_round(requests, outcomes)
        refused = next((outcome for outcome in outcomes if isinstance(outcome, BudgetError)), None)
        if refused is not None:
            self._ended = str(refused)
        return outcomes

    def end(self, error: LLMError) -> None:
        """Ask no more, because the last round ended in this error; earlier results stay."""
        self._ended = self._ended or f"It ended in round {self._next}, no request of which got a reply: {error}"

    def kept(self) -> list[Candidate]:
        """The best plans so far, best first: those that behave differently, or one for each initial state."""
        return self.planner.kept(self.candidates)

    def result(self) -> GenerationResult:
        """The result so far, with the kept plans' returns in episodes that played no part in their selection."""
        kept = self.kept()
        template = self.planner.template
        reports = [np.mean(returns, axis=0) for returns in self.planner.report(kept)]
        return GenerationResult(
            kind=self._settings.kind,
            states_seed=self._states_seed,
            prompt={"name": template.name, "sha256": template.sha256},
            rounds=tuple(self.rounds),
            attempts=tuple(self.attempts),
            kept=tuple(KeptPlan(c, returns) for c, returns in zip(kept, reports, strict=True)),
            random_return=self.random_return,
            stopped=self.stopped or "It was ended from outside.",
        )

    @property
    def random_return(self) -> float:
        """The mean return per agent of random actions."""
        return float(np.mean([baseline.score for baseline in self.planner.baselines]))

    def _control(self) -> Control | None:
        if not self._with_control:
            return None
        if not self.rounds:
            self._on_note(f"Executing {self._settings.control_plans} random valid plans, to compare with.")
        return self.planner.control(
            [c for a in self.attempts if a.sent and a.request is not None for c in a.candidates]
        )

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
            best_return=self.planner.value(asked),
            best_so_far=self.planner.value(self.candidates),
            control=self._control(),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=time.monotonic() - started,
        )


async def generate(generation: Generation, on_round: Callable[[Round], None] = lambda _: None) -> GenerationResult:
    """Run rounds until all are done, no better plan comes, a limit is reached, or a round gets no reply.

    Args:
        generation: what to run.
        on_round: called after each round.

    Raises:
        LLMError: no request of the first round got a reply. Later errors end the generation; its results stay.
    """
    while generation.stopped is None:
        try:
            on_round(await generation.round())
        except LLMError as error:
            if not generation.rounds:
                raise
            generation.end(error)
    return generation.result()
