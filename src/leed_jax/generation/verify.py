"""Verification of a demonstration set: replies are parsed, plans executed and the control played again."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from leed_jax.config import GenerateConfig, LLMConfig
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
from leed_jax.generation.candidates import (
    Attempt,
    Candidate,
    PlanRequest,
    execute_candidates,
    known_candidate,
    read_attempt,
)
from leed_jax.generation.kinds import Keys, PlanKind, Task, make_kind
from leed_jax.generation.prompts import load_template
from leed_jax.instructions import Trajectory, printable
from leed_jax.llm import ChatRequest, Message, Reply

# Other processors round differently, which changes a close decision now and then.
_AGREEING_STEPS = 0.99
_SHARE_OF_SCALE = 0.01
_STANDARD_ERRORS = 5.0
_FRESH_EPISODES = 1024
_QUICK_CONTROL = 400
_LIMITS = {
    "seed": (0, 2**63),
    "candidates": (1, 10**4),
    "selection_episodes": (1, 2**17),
    "report_episodes": (1, 2**17),
    "control_plans": (1, 10**6),
}
# Replies are parsed without their requests.
_NO_REQUEST = ChatRequest((Message("user", "-"),))


class _Line(NamedTuple):
    """A line of the transcript: where it is, its reply parsed again, and the recorded plans."""

    where: str
    attempt: Attempt
    entries: Sequence[Mapping[str, Any]]


def verify_set(folder: Path, manifest: dict[str, Any], environment: Environment, quick: bool = False) -> Iterator[str]:
    """Verify a set whose manifest has been read.

    Args:
        folder: its folder.
        manifest: the result of `read_manifest`.
        environment: what it was made for.
        quick: play only some of the control's random plans.

    Yields:
        What has been checked, a sentence each.

    Raises:
        DemonstrationError: the first thing that is wrong.
    """
    loaded = load_verified(folder, manifest, environment)
    yield f"The sha256 of {MANIFEST} and of each file ({', '.join(manifest['files'])}) is right."
    plans = len(manifest["plans"])
    yield (
        f"Plans for this environment that are in the transcript, too: {plans}."
        if plans
        else ("It was made for this environment, and is an attempt without an executable plan.")
    )
    content = read_listed(folder, manifest)[TRANSCRIPT]
    lines = [
        _read_line(loaded, f"{folder / TRANSCRIPT}, line {number}", line)
        for number, line in enumerate(transcript_lines(folder / TRANSCRIPT, content), start=1)
    ]
    yield f"Replies that give the recorded plans: {sum(line.attempt.reply is not None for line in lines)}."
    if loaded.recorded is not None:
        share = _check_recorded(loaded, loaded.recorded)
        yield f"Executed again, the plans give the recorded episodes: {share:.2%} of the steps agree."
    kind = _kind(loaded, quick)
    if kind is None:
        reported = [i for i in range(plans) if manifest["plans"][i]["report_return_per_agent"] is not None]
        for index in reported:
            _check_fresh(loaded, index)
        yield f"Plans with the recorded return on {_FRESH_EPISODES:,} other episodes: {len(reported)}."
    else:
        yield from _check_returns(loaded, lines, kind)
        yield from _check_control(loaded, lines, kind, quick)
    yield f"Not verified: that {printable(manifest['model'])} wrote the replies, and what they cost."


def _read_line(loaded: DemonstrationSet, where: str, line: Mapping[str, Any]) -> _Line:
    vocabulary, capacity = loaded.environment.vocabulary, loaded.manifest["max_instructions"]
    entries = transcript_entries(line)
    asked = None if line.get("request") is None else _NO_REQUEST
    try:
        reply = None if line.get("reply") is None else Reply.from_dict(line["reply"])
        if reply is not None:
            episodes = tuple(entry["episode"] for entry in entries if entry.get("episode") is not None)
            candidates = read_attempt(vocabulary, capacity, 0, 0, PlanRequest(_NO_REQUEST, episodes), reply).candidates
        else:
            candidates = tuple(
                known_candidate(vocabulary, capacity, 0, entry.get("episode"), plan_triples(entry))
                if entry["triples"] and asked is None
                else Candidate(0, 0, entry.get("episode"), (), 0.0)
                for entry in entries
            )
        same = [list(c.triples) == plan_triples(entry) for entry, c in zip(entries, candidates, strict=True)]
    except (LeedError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _wrong(where, f"cannot be parsed again ({printable(str(error), 200)})") from None
    if reply is not None and not all(same):
        raise _wrong(where, "has other triples than its reply")
    if asked is not None and reply is None and not all(same):
        raise _wrong(where, "has a plan without a reply")
    round_ = line["round"] if is_whole(line.get("round"), 0, 2**31) else 0
    return _Line(where, Attempt(round_, 0, asked, reply, None, line.get("sent") is not False, candidates), entries)


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
        raise _wrong(
            str(loaded.path / ARRAYS),
            f"does not hold what the plans give with seed {how['seed']} and noise {how['noise']:g}: {share:.2%} of the "
            "steps agree",
        )
    return share


def _kind(loaded: DemonstrationSet, quick: bool) -> PlanKind | None:
    """What executes plans as the generation did; None for a set without a generation's settings.

    Raises:
        DemonstrationError: there are rounds, but not the settings that they depend on.
    """
    manifest = loaded.manifest
    settings, states_seed = manifest["settings"], manifest["states_seed"]
    if not manifest["rounds"] and "seed" not in settings:
        return None
    limits = _LIMITS if states_seed is None else {**_LIMITS, "episodes": (1, 10**4)}
    for name, (low, high) in limits.items():
        if not is_whole(settings.get(name), low, high):
            shown = printable(repr(settings.get(name)))
            raise _wrong(str(loaded.path / MANIFEST), f"has settings.{name}={shown}, which must be {low} to {high}")
    sizes = {name: settings[name] for name in limits if name != "seed"}
    if quick:
        sizes["control_plans"] = min(_QUICK_CONTROL, sizes["control_plans"])
    keep = min(64, max(1, len(manifest["plans"])))
    wanted = GenerateConfig(kind=manifest["kind"], max_instructions=manifest["max_instructions"], keep=keep, **sizes)
    seed, template = settings["seed"], load_template("", manifest["kind"])
    try:
        task = Task(loaded.environment, LLMConfig(), wanted, template, seed, Keys.from_seed(seed))
        return make_kind(task, states_seed)
    except LeedError as error:
        raise _wrong(str(loaded.path), f"cannot be executed again ({printable(str(error), 300)})") from None


def _check_returns(loaded: DemonstrationSet, lines: Sequence[_Line], kind: PlanKind) -> Iterator[str]:
    """Execute all plans on the episodes of their selection, and the kept ones on those of the report."""
    path, manifest = str(loaded.path / MANIFEST), loaded.manifest
    rows = [
        (line.where, entry, candidate)
        for line in lines
        for entry, candidate in zip(line.entries, line.attempt.candidates, strict=True)
    ]
    for where, _, candidate in rows:
        if not (candidate.episode is None if kind.states == 0 else is_whole(candidate.episode, 0, kind.states - 1)):
            raise _wrong(where, "is for an initial state that the settings do not have")
    executed = execute_candidates(kind.scorer, [candidate for _, _, candidate in rows])
    for (where, entry, _), candidate in zip(rows, executed, strict=True):
        scale = 0.0 if candidate.result is None else candidate.result.returns
        _compare(where, "return_per_agent", entry.get("return_per_agent"), candidate.score, scale)
    count = sum(c.score is not None for c in executed)
    yield f"Plans with the recorded return on the episodes of their selection: {count}."
    kept = [
        known_candidate(
            loaded.environment.vocabulary, manifest["max_instructions"], i, plan["episode"], plan_triples(plan)
        )
        for i, plan in enumerate(manifest["plans"])
    ]
    for i, (plan, returns) in enumerate(zip(manifest["plans"], kind.report(kept), strict=True)):
        recorded = [plan["report_return_per_agent"], *(plan["report_returns"] or [])]
        for value, found in zip(recorded, [np.mean(returns), *np.mean(returns, axis=0)], strict=False):
            _compare(path, f"the reported return of plans[{i}]", value, float(found), returns)
    yield f"Kept plans with the recorded return on the episodes of the report: {len(kept)}."


def _check_control(loaded: DemonstrationSet, lines: Sequence[_Line], kind: PlanKind, quick: bool) -> Iterator[str]:
    """Play the control of each round, and random actions."""
    path, manifest = str(loaded.path / MANIFEST), loaded.manifest
    scores = np.array([baseline.score for baseline in kind.baselines])
    _compare(path, "random_return_per_agent", manifest["random_return_per_agent"], float(np.mean(scores)), scores)
    yield f"Random actions earn the recorded return: {np.mean(scores):.4g} per agent."
    rounds = [r for r in manifest["rounds"] if r.get("control") is not None]
    for r in rounds:
        attempts = [line.attempt for line in lines if line.attempt.sent and line.attempt.request is not None]
        asked = [c for a in attempts if is_whole(r.get("index"), a.round, 2**31) for c in a.candidates]
        found = dataclasses.asdict(kind.control(asked))
        recorded = r["control"] if isinstance(r["control"], dict) else {}
        slack = 2 * _STANDARD_ERRORS * found["error"] if quick else 0.0
        for name in ("candidates", "mean") if quick else ("candidates", "mean", "low", "high"):
            what = f"{name} of the control of round {r.get('index')}"
            scale = 0.0 if name == "candidates" else found["mean"]
            _compare(path, printable(what), recorded.get(name), found[name], scale, slack * (name != "candidates"))
    if rounds:
        some = f"; of the random plans only {_QUICK_CONTROL} at most were played" if quick else ""
        yield f"Rounds with the recorded control: {len(rounds)}{some}."


def _check_fresh(loaded: DemonstrationSet, index: int) -> None:
    """Compare a reported return with other episodes, where nothing says which ones it was measured on."""
    plan, reset_key = jax.tree.map(lambda x: x[index : index + 1], (loaded.plans, loaded.reset_keys))
    key = jax.random.fold_in(jax.random.key(0), 0x5EC0D)
    batch = plan_batch(plan, key, _FRESH_EPISODES, 0.0, reset_key)
    returns = np.asarray(execute_batch(loaded.environment, batch, Trajectory.episode_return))
    entry = loaded.manifest["plans"][index]
    recorded = [entry["report_return_per_agent"], *(entry["report_returns"] or [])]
    for value, column in zip(recorded, [returns.mean(axis=1), *returns.T], strict=False):
        slack = _STANDARD_ERRORS * column.std() * np.sqrt(2 / _FRESH_EPISODES)
        what = f"the reported return of plans[{index}]"
        _compare(str(loaded.path / MANIFEST), what, value, float(column.mean()), column, slack)


def _compare(where: str, what: str, recorded: Any, found: float | None, scale: Any, slack: float = 0.0) -> None:
    """Raise unless a recorded figure is the one found again, within rounding and `slack`."""
    tolerance = _SHARE_OF_SCALE * float(np.mean(np.abs(scale))) + 1e-3 + slack
    if found is None and recorded is None:
        return
    if found is None or not is_number(recorded) or abs(recorded - found) > tolerance:
        shown, again = printable(repr(recorded)), "none" if found is None else f"{found:.4g} (within {tolerance:.2g})"
        raise _wrong(where, f"gives {shown} as {what}, and executed again it is {again}")


def _wrong(where: str, what: str) -> DemonstrationError:
    return DemonstrationError(f"{where} {what}. {ADVICE}")
