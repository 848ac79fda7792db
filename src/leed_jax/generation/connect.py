"""From the configuration to a model that can be asked, its journal of replies, and its budget."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from leed_jax.config import LLMConfig, Settings
from leed_jax.config.environments import make_environment
from leed_jax.demonstrations import MANIFEST, TRANSCRIPT, find_set, instructed
from leed_jax.errors import ConfigurationError
from leed_jax.generation.models import RANDOM_NAME, WRITTEN_NAME, RandomModel, WrittenModel
from leed_jax.llm import (
    Anthropic,
    ChatClient,
    ChatModel,
    Journal,
    Journalled,
    Limits,
    LocalModel,
    Meter,
    OpenAI,
    Provider,
    Replay,
    RetryPolicy,
    resumed_meter,
)

JOURNAL = "replies.jsonl"
_REMOTE: dict[str, Provider] = {"openai": OpenAI(), "anthropic": Anthropic()}


@contextlib.asynccontextmanager
async def connect(
    config: Settings, journal: Path, meter: Meter, *, remember_failures: bool = False
) -> AsyncIterator[Journalled]:
    """Enter the model that `config.llm` names, see `make_model`; every reply is kept in a journal.

    Args:
        config: the configuration.
        journal: where failures of earlier rounds are kept, and replies, too, unless `llm.cache` is set.
        meter: the limits of what is sent.
        remember_failures: whether a request that failed in an earlier round fails again, unsent, after an interruption.

    Raises:
        ConfigurationError: a setting is missing or cannot work.
        DemonstrationError: with llm=replay, there is no such demonstration set.
        RunDirectoryError: the journal cannot be read.
    """
    async with make_model(config, meter) as model:
        own = Journal(journal)
        replies = Journal(Path(config.llm.cache).expanduser()) if config.llm.cache else own
        yield Journalled(model, replies, own if remember_failures else None)


def meter_for(config: Settings, journal: Path) -> Meter:
    """The configured limits, with what was spent before an interruption counted.

    Args:
        config: the configuration.
        journal: the journal in the folder of the generation, or of the run that it belongs to. It keeps the count, also
            where `llm.cache` is set.

    Raises:
        ConfigurationError: a limit is out of range.
        RunDirectoryError: the journal cannot be read.
    """
    values = {field.name: getattr(config.llm, field.name) for field in dataclasses.fields(Limits)}
    return resumed_meter(Limits(**values), Journal(journal))


def remove_journal(folder: Path) -> None:
    """Remove the journal of a generation whose replies are all in the transcript, or are of no use."""
    for name in (JOURNAL, f"{JOURNAL}.lock"):  # earlier versions made the second one
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / f"{JOURNAL}.claims", ignore_errors=True)


def make_model(config: Settings, meter: Meter | None = None) -> contextlib.AbstractAsyncContextManager[ChatModel]:
    """Make the model that `config.llm` names, to be entered with `async with`; nothing is loaded or sent yet.

    Raises:
        ConfigurationError: a setting is missing or cannot work.
        DemonstrationError: with llm=replay, there is no such demonstration set.
    """
    llm = config.llm
    check_provider(llm)
    if llm.provider == "replay":
        return Replay(transcript_path(config))
    if llm.provider == "random":
        return contextlib.nullcontext(RandomModel(instructed(make_environment(config.env)).vocabulary, config.seed))
    if llm.provider == "written":
        return contextlib.nullcontext(WrittenModel(llm.path))
    asking: Any = {
        "timeout_s": llm.timeout_s,
        "response_format": llm.response_format,
        "retry": retry_policy(llm),
        "meter": meter,
    }
    if llm.provider == "local":
        return LocalModel(llm.path, slots=llm.concurrency, context=llm.context, threads=llm.threads, **asking)
    remote = _REMOTE[llm.provider]
    return ChatClient(remote, llm.model, base_url=llm.base_url, api_key_env=llm.api_key_env, **asking)


def model_name(config: Settings) -> str:
    """The model's name, for folders and records."""
    llm = config.llm
    if llm.provider == "replay":
        transcript = transcript_path(config)
        try:
            name = json.loads((transcript.parent / MANIFEST).read_bytes())["model"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            name = None
        return name if isinstance(name, str) and name else transcript.stem
    names = {"local": Path(llm.path).stem, "random": RANDOM_NAME, "written": WRITTEN_NAME}
    return names.get(llm.provider, llm.model)


def check_provider(llm: LLMConfig) -> None:
    """Raise a ConfigurationError for the first setting that the provider lacks or cannot use."""
    if llm.provider in _REMOTE:
        if not llm.model:
            raise ConfigurationError(f"llm.model is empty; llm={llm.provider} needs the name of a model.")
        limit = _REMOTE[llm.provider].max_temperature
        if llm.temperature > limit:
            raise ConfigurationError(f"llm.temperature={llm.temperature:g}: llm={llm.provider} takes 0 to {limit:g}.")
    elif llm.base_url:
        raise ConfigurationError(f"llm.base_url={llm.base_url}: llm={llm.provider} has no address; add llm=openai.")
    if llm.provider == "local" and not llm.path:
        raise ConfigurationError("llm.path is empty; llm=local needs a GGUF file.")
    if llm.provider == "written" and not llm.path:
        raise ConfigurationError("llm.path is empty; llm=written needs a file of instructions; see --help.")


def retry_policy(llm: LLMConfig) -> RetryPolicy:
    """The retry policy for `llm.max_attempts` and `llm.timeout_s`; its total time allows all attempts and waits."""
    policy = RetryPolicy(attempts=llm.max_attempts)
    between = max(policy.wait_max_s + policy.wait_jitter_s, policy.retry_after_max_s)
    return RetryPolicy(attempts=llm.max_attempts, total_s=llm.max_attempts * (llm.timeout_s + between))


def transcript_path(config: Settings) -> Path:
    """The transcript that llm=replay answers from: of `llm.path`, or else of `demonstrations.path`.

    Raises:
        ConfigurationError: neither is set.
        DemonstrationError: there is no such demonstration set.
    """
    path = config.llm.path or config.demonstrations.path
    if not path:
        raise ConfigurationError(
            "llm=replay needs recorded replies: set llm.path to a demonstration set or a transcript, or ask a model "
            "with llm=openai, llm=anthropic or llm=local."
        )
    if path.endswith(".jsonl"):
        return Path(path).expanduser()
    return find_set(path) / TRANSCRIPT
