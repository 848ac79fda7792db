"""A generation written down: manifest, transcript and arrays; and what is needed to go on with one or to repeat it."""

import contextlib
import dataclasses
import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.config import Config, from_dictionary, to_dictionary
from leed_jax.demonstrations import (
    MANIFEST,
    demonstration_key,
    execute_episodes,
    initial_state_keys,
    read_manifest,
    save_demonstrations,
)
from leed_jax.errors import RunDirectoryError
from leed_jax.files import LOCK, lock_folder
from leed_jax.generation.candidates import Attempt, Candidate
from leed_jax.generation.connect import model_name, transcript_path
from leed_jax.generation.loop import Kept, Outcome
from leed_jax.generation.template import packaged_names
from leed_jax.instructions import InstructedEnvironment, PrimitiveInstructions, Trajectory, stack_plans
from leed_jax.llm import Journal, Limits, Meter, Spending, resumed_meter, spender_of
from leed_jax.version import __version__

PLOT = "rounds.png"
JOURNAL = "replies.jsonl"
_DISTURBED = ("noise", "noise_from", "seed")


def output_folder(config: Config) -> Path | None:
    """Where the set goes: `generate.out`, or `demos/ENVIRONMENT/MODEL` below the working directory.

    Returns:
        The folder; None for recorded replies that are asked for again, unless `generate.out` is set.

    Raises:
        DemonstrationError: the model's name cannot be read from the recorded set.
    """
    if config.generate.out:
        return Path(config.generate.out).expanduser()
    if config.llm.provider == "replay":
        return None
    module = str(config.env.get("name", "")).partition(":")[0].rpartition(".")[2]
    # A model's name may be a path or hold one; only harmless characters become part of a folder's name.
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name(config)).strip("-.") or "model"
    suffix = "" if config.generate.kind == "relational" else f"-{config.generate.kind}"
    return Path("demos") / module / f"{model}{suffix}"


@contextlib.contextmanager
def claimed(folder: Path | None) -> Iterator[Path]:
    """Make a folder for a new set and hold it for this process alone; one without anything in it is removed again.

    Args:
        folder: the folder; None for a temporary one.

    Raises:
        RunDirectoryError: there is a finished set in it, another process holds it, or it cannot be made.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="leed_jax") as temporary:
            yield Path(temporary)
        return
    _check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    except OSError as error:
        raise RunDirectoryError(
            f"{folder} cannot be made or written ({error.strerror}); choose another folder with generate.out=."
        ) from None
    if lock is None:
        raise RunDirectoryError(
            f"{folder} is in use by another process, which generates demonstrations there now. Wait for it or stop it, "
            "or choose another folder with generate.out=."
        )
    try:
        # Before the lock was taken another process may have come and gone.
        _check_free(folder)
        yield folder
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(lock)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_free(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise RunDirectoryError(f"{folder} holds a finished demonstration set; choose another one with generate.out=.")
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder} is not a folder; choose another one with generate.out=.")


def remove_journal(folder: Path) -> None:
    """Remove the journal of a generation whose transcript holds every reply, or that never got one."""
    for name in (JOURNAL, f"{JOURNAL}.lock"):
        (folder / name).unlink(missing_ok=True)


def meter_for(config: Config, journal: Path) -> Meter:
    """The configured limits, with what was spent before an interruption already counted.

    Args:
        config: the configuration.
        journal: the journal in the folder of the generation, or of the run that it belongs to. The count is kept in it,
            so that it moves with the folder, or in `llm.cache` where that is set, on the account of that folder.

    Raises:
        ConfigurationError: a limit is out of range.
        RunDirectoryError: the journal cannot be read.
    """
    values = {field.name: getattr(config.llm, field.name) for field in dataclasses.fields(Limits)}
    path = Path(config.llm.cache).expanduser() if config.llm.cache else journal
    spender = spender_of(journal.parent, shared=bool(config.llm.cache))
    return resumed_meter(Limits(**values), Journal(path), spender)


def recorded_settings(config: Config) -> tuple[Config, int | None]:
    """With llm=replay, the settings under which the replies were recorded, as no others have an answer.

    Args:
        config: the configuration; its `generate.out` is kept.

    Returns:
        The configuration with the recorded settings, and the seed of the initial states that plans are for, or None.
        A transcript without a manifest beside it leaves everything as it is.

    Raises:
        ConfigurationError: the manifest holds settings that cannot be used.
        DemonstrationError: there is no such set, or its manifest is damaged.
    """
    folder = transcript_path(config).parent
    if config.llm.provider != "replay" or not (folder / MANIFEST).is_file():
        return config, None
    manifest = read_manifest(folder)
    recorded = manifest["settings"]
    values = to_dictionary(config)
    prompt = (manifest["prompt"] or {}).get("name", "")
    if not config.generate.prompt and prompt in packaged_names():
        values["generate"]["prompt"] = prompt
    values["generate"] |= {k: v for k, v in recorded.items() if k in values["generate"] and k not in ("out", "prompt")}
    # Whatever ended the recording, it ended there.
    values["generate"] |= {"kind": manifest["kind"], "rounds": max(1, len(manifest["rounds"])), "patience": 0}
    values["llm"] |= {k: recorded[k] for k in ("temperature", "max_tokens") if k in recorded}
    values["seed"] = recorded.get("seed", config.seed)
    how = manifest["recorded"]
    if how is not None:
        values["generate"]["recorded_episodes"] = how["episodes"]
        values["demonstrations"] |= {name: how.get(name, 0.0) for name in _DISTURBED}
    return from_dictionary(values), manifest["states_seed"]


def write_set(
    folder: Path, config: Config, environment: InstructedEnvironment, outcome: Outcome, spent: Spending | None = None
) -> None:
    """Write a generation as a demonstration set; one without any plan is written, too, as an attempt.

    Args:
        folder: the set's folder.
        config: what it was made with.
        environment: what it was made for.
        outcome: what came of it.
        spent: what was paid for it; None to count the replies.
    """
    recorded = _recorded(config, environment, outcome)
    transcript = "".join(
        json.dumps(_transcript_line(outcome, attempt), ensure_ascii=True, allow_nan=False) + "\n"
        for attempt in outcome.attempts
    )
    manifest = _manifest(config, outcome, spending(outcome, spent), recorded is not None)
    target = environment.environment if isinstance(environment, PrimitiveInstructions) else environment
    save_demonstrations(folder, manifest, target, transcript.encode(), recorded)


def spending(outcome: Outcome, spent: Spending | None) -> Spending:
    """What was paid for a generation: as it was counted on the way, or else what its replies took when they were sent.

    Replies from a cache cost nothing now; what they took is in `outcome.usage`.
    """
    if spent is not None:
        return spent
    replies = [attempt.reply for attempt in outcome.attempts if attempt.reply is not None]
    return Spending(len(replies), outcome.usage)


def _recorded(config: Config, environment: InstructedEnvironment, outcome: Outcome) -> Trajectory | None:
    plans = [kept.candidate.plan for kept in outcome.kept if kept.candidate.plan is not None]
    if not plans or not config.generate.recorded_episodes:
        return None
    reset_keys = None
    if outcome.states_seed is not None:
        own = [kept.candidate.episode for kept in outcome.kept if kept.candidate.episode is not None]
        reset_keys = initial_state_keys(outcome.states_seed, config.generate.episodes)[np.array(own)]
    return execute_episodes(
        environment,
        stack_plans(plans),
        demonstration_key(config.demonstrations.seed),
        config.generate.recorded_episodes,
        config.demonstrations.noise,
        reset_keys,
        config.demonstrations.noise_from,
    )


def _manifest(config: Config, outcome: Outcome, spent: Spending, with_arrays: bool) -> dict[str, Any]:
    name, sha256 = outcome.prompt
    left_out = ("out", "prompt", "refresh_every")
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "leed_jax": __version__,
        "provider": config.llm.provider,
        "model": model_name(config),
        "prompt": {"name": name, "sha256": sha256},
        "kind": outcome.kind,
        "settings": {
            "seed": config.seed,
            "temperature": config.llm.temperature,
            "max_tokens": config.llm.max_tokens,
            "response_format": config.llm.response_format,
            **{k: v for k, v in dataclasses.asdict(config.generate).items() if k not in left_out},
        },
        "max_instructions": config.generate.max_instructions,
        "plans": [_plan_entry(kept) for kept in outcome.kept],
        "states_seed": outcome.states_seed,
        "random_return_per_agent": outcome.random_return,
        "rounds": [dataclasses.asdict(r) for r in outcome.rounds],
        "stopped": outcome.stopped,
        "usage": {"calls": spent.calls, **spent.usage.to_dict(), "cost": spent.cost},
        "recorded": _how_recorded(config) if with_arrays else None,
    }


def _how_recorded(config: Config) -> dict[str, Any]:
    how: dict[str, Any] = {"episodes": config.generate.recorded_episodes}
    how |= {name: getattr(config.demonstrations, name) for name in _DISTURBED}
    # Left out where there is none, as in sets from before there was such a setting.
    return how if config.demonstrations.noise_from else {k: v for k, v in how.items() if k != "noise_from"}


def _plan_entry(kept: Kept) -> dict[str, Any]:
    candidate = kept.candidate
    return {
        "triples": [list(triple) for triple in candidate.triples],
        "round": candidate.round,
        "candidate": candidate.index,
        "episode": candidate.episode,
        "selection_return_per_agent": candidate.score,
        "report_return_per_agent": kept.report_return,
        "report_returns": kept.report_returns.tolist(),
        "measures": {} if candidate.result is None else dict(candidate.result.measures),
    }


def _transcript_line(outcome: Outcome, attempt: Attempt) -> dict[str, Any]:
    name, sha256 = outcome.prompt
    line: dict[str, Any] = {
        "round": attempt.round,
        "candidate": attempt.index,
        "prompt": {"name": name, "sha256": sha256},
        "request": None if attempt.request is None else attempt.request.to_dict(),
        "reply": None if attempt.reply is None else attempt.reply.to_dict(),
        "error": attempt.error,
        "sent": attempt.sent,
    }
    entries = [_candidate_entry(candidate) for candidate in attempt.candidates]
    return {**line, **(entries[0] if outcome.states_seed is None else {"plans": entries})}


def _candidate_entry(candidate: Candidate) -> Mapping[str, Any]:
    result = candidate.result
    return {
        "episode": candidate.episode,
        "validity": candidate.validity,
        "problems": list(candidate.problems),
        "triples": [list(triple) for triple in candidate.triples],
        "return_per_agent": candidate.score,
        "returns": None if result is None else result.by_agent.tolist(),
        "measures": {} if result is None else dict(result.measures),
    }
