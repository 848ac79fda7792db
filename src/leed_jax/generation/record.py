"""A generation on disk: its folder, its manifest, transcript and arrays, and the settings to repeat it."""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.config import Settings, from_dictionary, to_dictionary
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
from leed_jax.generation.loop import GenerationResult
from leed_jax.generation.prompts import packaged_names
from leed_jax.instructions import InstructedEnvironment, PrimitiveInstructions, Trajectory, stack_plans
from leed_jax.llm import Spending

PLOT = "rounds.png"
_EXECUTION = ("noise", "noise_from", "seed")


def output_folder(config: Settings) -> Path | None:
    """`generate.out`, or `demos/ENVIRONMENT/MODEL` in the working directory; None for llm=replay without an `out`."""
    if config.generate.out:
        return Path(config.generate.out).expanduser()
    if config.llm.provider == "replay":
        return None
    module = str(config.env.get("name", "")).partition(":")[0].rpartition(".")[2]
    # The name may be or contain a path, so only harmless characters are used.
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name(config)).strip("-.") or "model"
    suffix = "" if config.generate.kind == "relational" else f"-{config.generate.kind}"
    return Path("demos") / module / f"{model}{suffix}"


@contextlib.contextmanager
def locked_folder(folder: Path | None) -> Iterator[Path]:
    """Make a folder for a new set, or a temporary one, and lock it for this process; if empty, it is removed again.

    Raises:
        RunDirectoryError: it holds a finished set, is in use by another process, or cannot be made.
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
        # Another process may have finished before the lock was taken.
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


def effective_settings(config: Settings) -> tuple[Settings, int | None]:
    """The settings that a generation runs with, where the provider decides some of them.

    A written file is one reply, so it is asked for once. Recorded replies exist only for the settings under which they
    were recorded; without a manifest beside the transcript these are unknown, and nothing is changed.

    Returns:
        The configuration, and the recorded seed of the initial states that plans are for, or None.

    Raises:
        ConfigurationError: the manifest holds settings that cannot be used.
        DemonstrationError: there is no such set, or its manifest is damaged.
    """
    if config.llm.provider == "written":
        episodes = config.generate.episodes
        once = dataclasses.replace(config.generate, rounds=1, candidates=1, episodes_per_prompt=episodes)
        return dataclasses.replace(config, generate=once), None
    if config.llm.provider != "replay" or not ((folder := transcript_path(config).parent) / MANIFEST).is_file():
        return config, None
    manifest = read_manifest(folder)
    recorded, values = manifest["settings"], to_dictionary(config)
    prompt = (manifest["prompt"] or {}).get("name", "")
    if not config.generate.prompt and prompt in packaged_names():
        values["generate"]["prompt"] = prompt
    values["generate"] |= {k: v for k, v in recorded.items() if k in values["generate"] and k not in ("out", "prompt")}
    # As many rounds as there were, whatever ended them.
    values["generate"] |= {"kind": manifest["kind"], "rounds": max(1, len(manifest["rounds"])), "patience": 0}
    values["llm"] |= {k: recorded[k] for k in ("temperature", "max_tokens") if k in recorded}
    values["seed"] = recorded.get("seed", config.seed)
    how = manifest["recorded"]
    if how is not None:
        values["generate"]["recorded_episodes"] = how["episodes"]
        values["demonstrations"] |= {name: how.get(name, 0.0) for name in _EXECUTION}
    return from_dictionary(values, type(config)), manifest["states_seed"]  # type: ignore[type-var]


def write_set(
    folder: Path,
    config: Settings,
    environment: InstructedEnvironment,
    result: GenerationResult,
    spent: Spending | None = None,
) -> None:
    """Write a generation as a demonstration set, even if no plan could be executed.

    Args:
        folder: the set's folder.
        config: the configuration.
        environment: what it was made for.
        result: the result of the generation.
        spent: what was paid for it; None to count the replies.
    """
    recorded = _recorded(config, environment, result)
    lines = [json.dumps(_transcript_line(result, attempt), allow_nan=False) for attempt in result.attempts]
    transcript = "".join(f"{line}\n" for line in lines).encode()
    manifest = _manifest(config, result, spending(result, spent), recorded is not None)
    target = environment.environment if isinstance(environment, PrimitiveInstructions) else environment
    save_demonstrations(folder, manifest, target, transcript, recorded)


def spending(result: GenerationResult, spent: Spending | None) -> Spending:
    """What was paid for a generation: `spent`, or else what its replies cost when they were first sent."""
    if spent is not None:
        return spent
    return Spending(sum(attempt.reply is not None for attempt in result.attempts), result.usage)


def _recorded(config: Settings, environment: InstructedEnvironment, result: GenerationResult) -> Trajectory | None:
    plans = [kept.candidate.plan for kept in result.kept if kept.candidate.plan is not None]
    if not plans or not config.generate.recorded_episodes:
        return None
    how, reset_keys = config.demonstrations, None
    if result.states_seed is not None:
        episodes = [kept.candidate.episode for kept in result.kept if kept.candidate.episode is not None]
        reset_keys = initial_state_keys(result.states_seed, config.generate.episodes)[np.array(episodes)]
    key, count = demonstration_key(how.seed), config.generate.recorded_episodes
    return execute_episodes(environment, stack_plans(plans), key, count, how.noise, reset_keys, how.noise_from)


def _manifest(config: Settings, result: GenerationResult, spent: Spending, with_arrays: bool) -> dict[str, Any]:
    omitted = ("out", "prompt", "refresh_every")
    recorded = None
    if with_arrays:
        recorded = {"episodes": config.generate.recorded_episodes}
        recorded |= {name: getattr(config.demonstrations, name) for name in _EXECUTION}
        if not recorded["noise_from"]:
            # As in sets from before the setting existed.
            del recorded["noise_from"]
    return {
        "provider": config.llm.provider,
        "model": model_name(config),
        "prompt": result.prompt,
        "kind": result.kind,
        "settings": {
            "seed": config.seed,
            **{name: getattr(config.llm, name) for name in ("temperature", "max_tokens", "response_format")},
            **{k: v for k, v in dataclasses.asdict(config.generate).items() if k not in omitted},
        },
        "max_instructions": config.generate.max_instructions,
        "plans": [
            {
                "triples": kept.candidate.triples,
                "round": kept.candidate.round,
                "candidate": kept.candidate.index,
                "episode": kept.candidate.episode,
                "selection_return_per_agent": kept.candidate.score,
                "report_return_per_agent": kept.report_return,
                "report_returns": kept.report_returns.tolist(),
                "measures": {} if kept.candidate.result is None else dict(kept.candidate.result.measures),
            }
            for kept in result.kept
        ],
        "states_seed": result.states_seed,
        "random_return_per_agent": result.random_return,
        "rounds": [dataclasses.asdict(r) for r in result.rounds],
        "stopped": result.stopped,
        "usage": {"calls": spent.calls, **spent.usage.to_dict(), "cost": spent.cost},
        "recorded": recorded,
    }


def _transcript_line(result: GenerationResult, attempt: Attempt) -> dict[str, Any]:
    line: dict[str, Any] = {
        "round": attempt.round,
        "candidate": attempt.index,
        "prompt": result.prompt,
        "request": None if attempt.request is None else attempt.request.to_dict(),
        "reply": None if attempt.reply is None else attempt.reply.to_dict(),
        "error": attempt.error,
        "sent": attempt.sent,
    }
    entries = [_candidate_entry(candidate) for candidate in attempt.candidates]
    return {**line, **(entries[0] if result.states_seed is None else {"plans": entries})}


def _candidate_entry(candidate: Candidate) -> dict[str, Any]:
    result = candidate.result
    return {
        "episode": candidate.episode,
        "validity": candidate.validity,
        "problems": candidate.problems,
        "triples": candidate.triples,
        "return_per_agent": candidate.score,
        "returns": None if result is None else result.by_agent.tolist(),
        "measures": {} if result is None else dict(result.measures),
    }
