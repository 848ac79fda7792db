"""Verification of a demonstration set: replies are parsed, plans executed and the control played again."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from leed_jax.config import GenerationConfig, LLMConfig
from leed_jax.demonstrations import ARRAYS, MANIFEST, TRANSCRIPT, DemonstrationSet, demonstration_key, execute_episodes
from leed_jax.demonstrations.execution import execute_batch, plan_batch
from leed_jax.demonstrations.format import (
    ADVICE,
    is_number,
    is_whole,
    plan_triples,
    read_listed,
    transcript_entries,
    transcript_lines,
)
from leed_jax.demonstrations.loading import load_verified
from leed_jax.environments import Environment
from leed_jax.errors import DemonstrationError, LeedError
from leed_jax.generation.candidates import Candidate, PlanRequest, execute_candidates, known_candidate, read_attempt
from leed_jax.generation.planner import Planner
from leed_jax.instructions import Trajectory, printable
from leed_jax.llm import ChatRequest, Message, Reply

# Other processors round differently, which changes a close decision now and then.
_AGREEING_STEPS = 0.99
_SHARE_OF_SCALE = 0.01
_STANDARD_ERRORS = 5.0
_FRESH_EPISODES = 1024
_QUICK_CONTROL = 400
_SIZES = {"candidates": 10**4, "selection_episodes": 2**17, "report_episodes": 2**17, "control_plans": 10**6}
# Replies are parsed without their requests.
_NO_REQUEST = ChatRequest((Message("user", "-"),))


class _Plan(NamedTuple):
    """A plan of the transcript: its line, its recorded entry, the plan parsed again, and whether a model was asked."""

    where: str
    entry: Mapping[str, Any]
    candidate: Candidate
    asked: bool


def verify_set(folder: Path, manifest: dict[str, Any], environment: Environment, quick: bool = False) -> Iterator[str]:
    """Verify a set whose manifest has been read, and yield what has been checked, a sentence each.

    Args:
        folder: its folder.
        manifest: the result of `read_manifest`.
        environment: what it was made for.
        quick: play only some of the control's random plans.

    Raises:
        DemonstrationError: the first thing that is wrong.
    """
    loaded, path = load_verified(folder, manifest, environment), folder / TRANSCRIPT
    yield f"The sha256 of {MANIFEST} and of each file ({', '.join(manifest['files'])}) is right."
    count = len(manifest["plans"])
    yield (
        f"Plans for this environment that are in the transcript, too: {count}."
        if count
        else ("It was made for this environment, and is an attempt without an executable plan.")
    )
    lines = list(transcript_lines(path, read_listed(folder, manifest)[TRANSCRIPT]))
    plans = [p for i, line in enumerate(lines, start=1) for p in _read_line(loaded, f"{path}, line {i}", line)]
    yield f"Replies that give the recorded plans: {sum(line.get('reply') is not None for line in lines)}."
    if loaded.recorded is not None:
        share = _check_recorded(loaded, loaded.recorded)
        yield f"Executed again, the plans give the recorded episodes: {share:.2%} of the steps agree."
    planner = _planner(loaded, quick)
    if planner is None:
        reported = [i for i in range(count) if manifest["plans"][i]["report_return_per_agent"] is not None]
        for index in reported:
            _check_fresh(loaded, index)
        yield f"Plans with the recorded return on {_FRESH_EPISODES:,} other episodes: {len(reported)}."
    else:
        yield from _check_returns(loaded, plans, planner)
        yield from _check_control(loaded, plans, planner, quick)
    yield f"Not verified: that {printable(manifest['model'])} wrote the replies, and what they cost."


def _read_line(loaded: DemonstrationSet, where: str, line: Mapping[str, Any]) -> list[_Plan]:
    vocabulary, capacity = loaded.environment.vocabulary, loaded.manifest["max_instructions"]
    entries, asked = transcript_entries(line), line.get("request") is not None
    round_ = line["round"] if is_whole(line.get("round"), 0, 2**31) else 0
    try:
        if line.get("reply") is not None:
            episodes = tuple(entry["episode"] for entry in entries if entry.get("episode") is not None)
            request, reply = PlanRequest(_NO_REQUEST, episodes), Reply.from_dict(line["reply"])
            found = read_attempt(vocabulary, capacity, round_, 0, request, reply).candidates
        else:
            found = tuple(
                known_candidate(vocabulary, capacity, 0, entry.get("episode"), plan_triples(entry))
                if entry["triples"] and not asked
                else Candidate(round_, 0, entry.get("episode"), (), 0.0)
                for entry in entries
            )
        same = all(list(c.triples) == plan_triples(entry) for entry, c in zip(entries, found, strict=True))
    except (LeedError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _wrong(where, f"cannot be parsed again ({printable(str(error), 200)})") from None
    if asked and not same:
        what = "a plan without a reply" if line.get("reply") is None else "other triples than its reply"
        raise _wrong(where, f"has {what}")
    sent = asked and line.get("sent") is not False
    return [_Plan(where, entry, candidate, sent) for entry, candidate in zip(entries, found, strict=True)]


def _check_recorded(loaded: DemonstrationSet, recorded: Trajectory) -> float:
    """The share of the steps in which the recorded episodes are those that execution gives."""
    how = loaded.manifest["recorded"]
    key, noise, noise_from = demonstration_key(how["seed"]), float(how["noise"]), float(how.get("noise_from", 0.0))
    plans, reset_keys = loaded.plans, loaded.reset_keys
    again = execute_episodes(loaded.environment, plans, key, how["episodes"], noise, reset_keys, noise_from)
    agree = np.ones(recorded.active.shape, bool)
    for field in dataclasses.fields(Trajectory):
        a, b = np.asarray(getattr(recorded, field.name)), np.asarray(getattr(again, field.name))
        same = np.isclose(a, b, rtol=1e-4, atol=1e-5) if a.dtype == np.float32 else a == b
        agree &= same.all(axis=tuple(range(agree.ndim, same.ndim)))
    share = float(agree.mean())
    starts = np.isclose(recorded.observation[:, 0], again.observation[:, 0], rtol=1e-4, atol=1e-5)
    if share < _AGREEING_STEPS or not np.all(starts):
        what = f"does not hold what the plans give with seed {how['seed']} and noise {how['noise']:g}"
        raise _wrong(str(loaded.path / ARRAYS), f"{what}: {share:.2%} of the steps agree")
    return share


def _planner(loaded: DemonstrationSet, quick: bool) -> Planner | None:
    """What executes plans as the generation did; None for a set without a generation's settings."""
    manifest, path = loaded.manifest, str(loaded.path / MANIFEST)
    settings, states_seed = manifest["settings"], manifest["states_seed"]
    if not manifest["rounds"] and "seed" not in settings:
        return None
    most = _SIZES if states_seed is None else {**_SIZES, "episodes": 10**4}
    for name, high in {"seed": 2**63, **most}.items():
        if not is_whole(settings.get(name), 0 if name == "seed" else 1, high):
            raise _wrong(path, f"has settings.{name}={printable(repr(settings.get(name)))}, at most {high} is possible")
    sizes = {name: settings[name] for name in most}
    if quick:
        sizes["control_plans"] = min(_QUICK_CONTROL, sizes["control_plans"])
    keep = min(64, max(1, len(manifest["plans"])))
    wanted = GenerationConfig(kind=manifest["kind"], max_instructions=manifest["max_instructions"], keep=keep, **sizes)
    try:
        return Planner(loaded.environment, LLMConfig(), wanted, settings["seed"], states_seed)
    except LeedError as error:
        raise _wrong(path, f"has plans that cannot be executed again ({printable(str(error), 300)})") from None


def _check_returns(loaded: DemonstrationSet, plans: Sequence[_Plan], planner: Planner) -> Iterator[str]:
    """Execute all plans on the episodes of their selection, and the kept ones on those of the report."""
    manifest, vocabulary = loaded.manifest, loaded.environment.vocabulary
    for plan in plans:
        if plan.candidate.episode not in planner.states:
            raise _wrong(plan.where, "is for an initial state that the settings do not have")
    executed = execute_candidates(planner.scorer, [plan.candidate for plan in plans])
    for plan, candidate in zip(plans, executed, strict=True):
        scale = 0.0 if candidate.result is None else candidate.result.returns
        _compare(plan.where, "return_per_agent", plan.entry.get("return_per_agent"), candidate.score, scale)
    count = sum(candidate.score is not None for candidate in executed)
    yield f"Plans with the recorded return on the episodes of their selection: {count}."
    entries, capacity = manifest["plans"], manifest["max_instructions"]
    kept = [known_candidate(vocabulary, capacity, 0, entry["episode"], plan_triples(entry)) for entry in entries]
    for index, returns in enumerate(planner.report(kept)):
        _compare_report(loaded, index, returns)
    yield f"Kept plans with the recorded return on the episodes of the report: {len(kept)}."


def _check_control(loaded: DemonstrationSet, plans: Sequence[_Plan], planner: Planner, quick: bool) -> Iterator[str]:
    """Play random actions and the control of each round."""
    path, manifest = str(loaded.path / MANIFEST), loaded.manifest
    scores = np.array([baseline.score for baseline in planner.baselines])
    _compare(path, "random_return_per_agent", manifest["random_return_per_agent"], float(np.mean(scores)), scores)
    yield f"Random actions earn the recorded return: {np.mean(scores):.4g} per agent."
    rounds = [r for r in manifest["rounds"] if isinstance(r.get("control"), dict)]
    for r in rounds:
        asked = [p.candidate for p in plans if p.asked and is_whole(r.get("index"), p.candidate.round, 2**31)]
        found, what = planner.control(asked), printable(f"of the control of round {r.get('index')}")
        slack = 2 * _STANDARD_ERRORS * found.error if quick else 0.0
        _compare(path, f"candidates {what}", r["control"].get("candidates"), float(found.candidates), 0.0)
        for name in ("mean",) if quick else ("mean", "low", "high"):
            _compare(path, f"{name} {what}", r["control"].get(name), getattr(found, name), found.mean, slack)
    some = f" (from at most {_QUICK_CONTROL} random plans)" if quick else ""
    yield f"Rounds with the recorded control{some}: {len(rounds)}."


def _check_fresh(loaded: DemonstrationSet, index: int) -> None:
    """Compare a reported return with that on other episodes, where the set does not say which ones were played."""
    plan, reset_key = jax.tree.map(lambda x: x[index : index + 1], (loaded.plans, loaded.reset_keys))
    batch = plan_batch(plan, jax.random.fold_in(jax.random.key(0), 0x5EC0D), _FRESH_EPISODES, 0.0, reset_key)
    returns = np.asarray(execute_batch(loaded.environment, batch, Trajectory.episode_return))
    _compare_report(loaded, index, returns, _STANDARD_ERRORS * np.sqrt(2 / _FRESH_EPISODES))


def _compare_report(loaded: DemonstrationSet, index: int, returns: np.ndarray, standard_errors: float = 0.0) -> None:
    """Compare the reported return of a plan, and those of the agents, with `returns` `[N, A]`."""
    entry, where = loaded.manifest["plans"][index], str(loaded.path / MANIFEST)
    recorded = [entry["report_return_per_agent"], *(entry["report_returns"] or [])]
    for value, found in zip(recorded, [returns.mean(axis=1), *returns.T], strict=False):
        slack = standard_errors * float(found.std())
        _compare(where, f"the reported return of plans[{index}]", value, float(found.mean()), returns, slack)


def _compare(where: str, what: str, recorded: Any, found: float | None, scale: Any, slack: float = 0.0) -> None:
    """Raise unless a recorded figure is the one found again, within rounding and `slack`."""
    if found is None and recorded is None:
        return
    tolerance = _SHARE_OF_SCALE * float(np.mean(np.abs(scale))) + 1e-3 + slack
    if found is None or not is_number(recorded) or abs(recorded - found) > tolerance:
        again = "none" if found is None else f"{found:.4g} (within {tolerance:.2g})"
        raise _wrong(where, f"gives {printable(repr(recorded))} as {what}, and executed again it is {again}")


def _wrong(where: str, what: str) -> DemonstrationError:
    return DemonstrationError(f"{where} {what}. {ADVICE}")
