"""From the configuration to a model that can be asked."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from leed_jax.config import Config, LLMConfig
from leed_jax.config.environments import make_environment
from leed_jax.demonstrations import MANIFEST, TRANSCRIPT, find_set, instructed
from leed_jax.errors import ConfigurationError
from leed_jax.generation.random_model import NAME as RANDOM_NAME
from leed_jax.generation.random_model import RandomModel
from leed_jax.generation.written_model import NAME as WRITTEN_NAME
from leed_jax.generation.written_model import WrittenModel
from leed_jax.llm import (
    Anthropic,
    ChatClient,
    ChatModel,
    Journal,
    Journalled,
    LocalModel,
    Meter,
    OpenAI,
    Provider,
    Replay,
    RetryPolicy,
    spender_of,
)

_REMOTE: dict[str, Provider] = {"openai": OpenAI(), "anthropic": Anthropic()}


@contextlib.asynccontextmanager
async def connect(
    config: Config, journal: Path, meter: Meter, *, remember_failures: bool = False
) -> AsyncIterator[Journalled]:
    """Give the model that `config.llm` names, ready to be asked, and with every reply kept.

    Args:
        config: The configuration.
        journal: Where replies are kept, unless `llm.cache` says where.
        meter: The limits of what is sent.
        remember_failures: Whether what failed in a closed round fails again, unsent, after an interruption.

    Yields:
        The model behind its journal.

    Raises:
        ConfigurationError: A setting is missing or cannot work.
        DemonstrationError: With llm=replay, there is no such demonstration set.
        RunDirectoryError: The journal cannot be read.
    """
    async with make_model(config, meter) as model:
        spender = spender_of(journal.parent, shared=bool(config.llm.cache)) if remember_failures else ""
        path = Path(config.llm.cache).expanduser() if config.llm.cache else journal
        yield Journalled(model, Journal(path), spender, remember_failures=remember_failures)


def make_model(config: Config, meter: Meter | None = None) -> contextlib.AbstractAsyncContextManager[ChatModel]:
    """Make the model that `config.llm` names, which is to be entered (`async with`); this loads and sends nothing.

    Args:
        config: The configuration.
        meter: The limits of what is sent; None for no limits.

    Raises:
        ConfigurationError: A setting is missing or cannot work.
        DemonstrationError: With llm=replay, there is no such demonstration set.
    """
    llm = config.llm
    check_provider(llm)
    if llm.provider == "replay":
        return Replay(transcript_path(config))
    if llm.provider == "random":
        return contextlib.nullcontext(RandomModel(instructed(make_environment(config.env)).vocabulary, config.seed))
    if llm.provider == "written":
        return contextlib.nullcontext(WrittenModel(llm.path))
    if llm.provider == "local":
        return LocalModel(
            llm.path,
            slots=llm.concurrency,
            context=llm.context,
            threads=llm.threads,
            timeout_s=llm.timeout_s,
            response_format=llm.response_format,
            retry=retry_policy(llm),
            meter=meter,
        )
    return ChatClient(
        _REMOTE[llm.provider],
        llm.model,
        base_url=llm.base_url,
        api_key_env=llm.api_key_env,
        timeout_s=llm.timeout_s,
        response_format=llm.response_format,
        retry=retry_policy(llm),
        meter=meter,
    )


def model_name(config: Config) -> str:
    """The model's name, for folders and records.

    Raises:
        DemonstrationError: With llm=replay, there is no such demonstration set.
    """
    if config.llm.provider == "local":
        return Path(config.llm.path).stem
    if config.llm.provider == "random":
        return RANDOM_NAME
    if config.llm.provider == "written":
        return WRITTEN_NAME
    if config.llm.provider == "replay":
        transcript = transcript_path(config)
        try:
            name = json.loads((transcript.parent / MANIFEST).read_bytes())["model"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            name = None
        return name if isinstance(name, str) and name else transcript.stem
    return config.llm.model


def check_provider(llm: LLMConfig) -> None:
    """Check that what the provider needs is set, and what it cannot use is not.

    Raises:
        ConfigurationError: The first setting that is missing or cannot work.
    """
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
        raise ConfigurationError("llm.path is empty; llm=written needs a file that holds the instructions.")


def retry_policy(llm: LLMConfig) -> RetryPolicy:
    """The policy that `llm.max_attempts` and `llm.timeout_s` come to."""
    policy = RetryPolicy(attempts=llm.max_attempts)
    between = max(policy.wait_max_s + policy.wait_jitter_s, policy.retry_after_max_s)
    # As long as all attempts may take, with the waits between them.
    return RetryPolicy(attempts=llm.max_attempts, total_s=llm.max_attempts * (llm.timeout_s + between))


def transcript_path(config: Config) -> Path:
    """The transcript that llm=replay answers from: of `llm.path`, or else of `demonstrations.path`.

    Raises:
        ConfigurationError: Neither is set.
        DemonstrationError: There is no such demonstration set.
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
