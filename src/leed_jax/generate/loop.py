"""The generation loop: ask, execute, tell the model what came of it, and ask again; the best plan is kept."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leed_jax.config import GenerateConfig, LLMConfig
from leed_jax.errors import LLMError
from leed_jax.evaluate import play, random_chooser
from leed_jax.generate.candidates import Candidate, Scorer, best_candidate, read_candidate
from leed_jax.generate.control import Control, controls, random_plan_scores
from leed_jax.generate.feedback import feedback_lines
from leed_jax.generate.prompt import reply_schema, request_message, system_message, task_message
from leed_jax.instructions import InstructedEnvironment, stack_plans
from leed_jax.llm import ChatModel, ChatRequest, complete_all


@dataclasses.dataclass(frozen=True)
class Round:
    """One round in figures.

    Attributes:
        index: the round, from 0.
        replies: how many candidates got a reply.
        executable: how many gave a plan that could be executed.
        validity: mean share of executable triples over all candidates, a missing or unreadable reply counting as 0.
        mean_return: mean return per agent of the executable plans, or None.
        best_return: the best of this round, or None.
        best_so_far: the best of this and all earlier rounds, or None.
        control: the best of as many random valid plans as were asked for up to this round.
        prompt_tokens: tokens read by the model.
        completion_tokens: tokens written by it.
    """

    index: int
    replies: int
    executable: int
    validity: float
    mean_return: float | None
    best_return: float | None
    best_so_far: float | None
    control: Control
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that a generation found.

    Attributes:
        rounds: a row per round.
        candidates: every candidate, in order.
        requests: the request behind each candidate.
        best: the kept plan, or None if nothing was executable.
        best_report_return: its mean return per agent on fresh episodes that played no part in its selection.
        random_return: the mean return per agent of random actions.
    """

    rounds: tuple[Round, ...]
    candidates: tuple[Candidate, ...]
    requests: tuple[ChatRequest, ...]
    best: Candidate | None
    best_report_return: float | None
    random_return: float


@dataclasses.dataclass(frozen=True)
class _Keys:
    """Independent sources of randomness; the episodes that plans are reported on are not those they are selected on."""

    selection: Any
    report: Any
    control: Any
    random: Any

    @classmethod
    def from_seed(cls, seed: int) -> "_Keys":
        return cls(*jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x6E11), 4))


async def generate(
    environment: InstructedEnvironment,
    model: ChatModel,
    llm: LLMConfig,
    settings: GenerateConfig,
    seed: int,
    on_round: Callable[[Round], None] = lambda _: None,
) -> Outcome:
    """Ask a model for plans, round by round.

    Args:
        environment: where plans are executed.
        model: who is asked.
        llm: temperature, length and concurrency of the requests.
        settings: rounds, candidates and episodes.
        seed: seed of the held-out initial states, of the control, and of the requests.
        on_round: called after each round.

    Raises:
        LLMError: no request of a round got a reply; the first error stands for all.
    """
    keys = _Keys.from_seed(seed)
    scorer = Scorer(environment, jax.random.split(keys.selection, settings.selection_episodes), settings.candidates)
    candidates: list[Candidate] = []
    requests: list[ChatRequest] = []
    rounds: list[Round] = []
    feedback: list[str] = []
    for index in range(settings.rounds):
        batch = round_requests(environment, llm, settings, index, feedback, seed)
        outcomes = await complete_all(model, batch, llm.concurrency)
        _raise_if_none_answered(outcomes)
        if index == 0:
            # Not before the first answer: this takes a while, and an endpoint that is down should be told at once.
            random_return = _random_return(environment, keys.random, settings.report_episodes)
            control = _controls(environment, scorer, keys.control, settings)
        fresh = [
            read_candidate(environment, settings.max_instructions, index, i, outcome)
            for i, outcome in enumerate(outcomes)
        ]
        fresh = scorer.score_candidates(fresh)
        candidates += fresh
        requests += batch
        rounds.append(_summarise(index, fresh, candidates, control[index]))
        on_round(rounds[-1])
        feedback = feedback_lines(environment.vocabulary, candidates, scorer, random_return)
    best = best_candidate(candidates)
    report = None if best is None else _report_return(environment, best, keys.report, settings.report_episodes)
    return Outcome(tuple(rounds), tuple(candidates), tuple(requests), best, report, random_return)


def round_requests(
    environment: InstructedEnvironment,
    llm: LLMConfig,
    settings: GenerateConfig,
    index: int,
    feedback: Sequence[str],
    seed: int,
) -> list[ChatRequest]:
    """The requests of one round: one prompt, and a seed and a plan length of its own for each candidate.

    Lengths go round from 1 to `settings.max_instructions`, for the control's random plans as well.

    Args:
        environment: what to write plans for.
        llm: temperature and length of replies.
        settings: the number of candidates and the longest plan.
        index: the round, from 0.
        feedback: what earlier rounds showed; empty in the first.
        seed: seed of the whole generation.
    """
    head = (system_message(), task_message(environment, settings.max_instructions))
    first = seed + index * settings.candidates
    requests = []
    for i in range(settings.candidates):
        length = 1 + i % settings.max_instructions
        schema = reply_schema(environment.vocabulary, length)
        messages = (*head, request_message(environment.vocabulary.agents, feedback, length))
        requests.append(ChatRequest(messages, llm.temperature, first + i, llm.max_tokens, schema))
    return requests


def _controls(environment: InstructedEnvironment, scorer: Scorer, key: Any, settings: GenerateConfig) -> list[Control]:
    """For each round, the best of as many random valid plans as the model has been asked for by then."""
    pool = random_plan_scores(environment.vocabulary, scorer, key, settings.max_instructions, settings.control_plans)
    return controls(pool, [settings.candidates * (r + 1) for r in range(settings.rounds)])


def _raise_if_none_answered(outcomes: Sequence[Any]) -> None:
    errors = [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
    if len(errors) == len(outcomes):
        raise errors[0]


def _random_return(environment: InstructedEnvironment, key: Any, episodes: int) -> float:
    returns, _ = jax.jit(lambda k: play(environment, random_chooser, k, episodes))(key)
    return float(jnp.mean(returns))


def _report_return(environment: InstructedEnvironment, best: Candidate, key: Any, episodes: int) -> float:
    assert best.plan is not None  # noqa: S101 - only executable candidates are scored
    scorer = Scorer(environment, jax.random.split(key, episodes), batch=1)
    return float(scorer.scores(stack_plans([best.plan]))[0])


def _summarise(index: int, fresh: Sequence[Candidate], so_far: Sequence[Candidate], control: Control) -> Round:
    scores = [c.score for c in fresh if c.score is not None]
    best, best_before = best_candidate(fresh), best_candidate(so_far)
    replies = [c.reply for c in fresh if c.reply is not None]
    return Round(
        index=index,
        replies=len(replies),
        executable=len(scores),
        validity=float(np.mean([c.validity for c in fresh])),
        mean_return=float(np.mean(scores)) if scores else None,
        best_return=None if best is None else best.score,
        best_so_far=None if best_before is None else best_before.score,
        control=control,
        prompt_tokens=sum(reply.usage.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
    )
