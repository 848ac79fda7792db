"""Environments by name: from the `env` section of a configuration to an object, and back to what identifies it."""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config.options import one_sentence
from leed_jax.environments import Environment
from leed_jax.environments.contract import check_environment
from leed_jax.errors import ConfigurationError, EnvironmentContractError, LeedError
from leed_jax.files import cache_folder, write_whole
from leed_jax.version import __version__

_PROTOCOL = ("num_agents", "observation_size", "num_actions", "max_steps", "reset", "step")


def make_environment(values: Mapping[str, Any]) -> Environment:
    """Build the environment that a configuration's `env` section describes.

    Args:
        values: `name`, as `package.module:Class` with a dataclass that keeps the environment protocol, and its fields.

    Raises:
        ConfigurationError: there is no such class, or a field is unknown, of the wrong type, or out of range.
        EnvironmentContractError: the class lacks a part of the protocol.
    """
    name = str(values.get("name", ""))
    cls = _environment_class(name)
    settings = _all_fields(cls, values)
    try:
        environment = cls(**{field: _plain(settings[field]) for field in settings})
    except LeedError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"env.{one_sentence(error)} {_takes(cls)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"env: {cls.__name__} refuses its fields: {error}. {_takes(cls)}") from None
    if not isinstance(environment, Environment):
        missing = ", ".join(name for name in _PROTOCOL if not hasattr(environment, name))
        raise EnvironmentContractError(f"env.name={name}: {cls.__name__} is no environment, as it lacks {missing}.")
    return environment


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same `env` section with every field, so that it tells the same environment when a default has changed.

    Args:
        values: see `make_environment`.

    Raises:
        ConfigurationError: there is no such class, or a field is unknown or of the wrong type.
    """
    name = str(values.get("name", ""))
    fields: Any = OmegaConf.to_container(_all_fields(_environment_class(name), values), enum_to_str=True)
    return {"name": name, **fields}


def _all_fields(cls: Any, values: Mapping[str, Any]) -> Any:
    """Every field that a class is made from, as an OmegaConf mapping: those that are given, and defaults."""
    given = {key: value for key, value in values.items() if key != "name"}
    known = _known(cls)
    for field in given:
        if field not in known:
            raise ConfigurationError(f"env.{field}: the environment has no such field. {_takes(cls)}")
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(given))
        complete: Any = OmegaConf.masked_copy(merged, known)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"env.{one_sentence(error)} {_takes(cls)}") from None
    for field, value in given.items():
        # OmegaConf makes a text of it, which may be another one than was typed: 1000.0 of 1e3.
        if isinstance(value, (bool, int, float)) and isinstance(complete[field], str):
            raise ConfigurationError(
                f"env.{field} is a text, and {value} is none; put it in quotes, as in env.{field}=\"'TEXT'\" on the "
                "command line."
            )
    return complete


def _known(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _takes(cls: Any) -> str:
    return f"{cls.__name__} takes: {', '.join(_known(cls)) or 'nothing'}."


def _plain(value: Any) -> Any:
    """An OmegaConf value as a plain one, with tuples for lists: environments are hashable."""
    if OmegaConf.is_dict(value):
        return OmegaConf.to_object(value)
    return tuple(_plain(item) for item in value) if OmegaConf.is_list(value) else value


def _environment_class(name: str) -> Any:
    module_name, separator, class_name = name.partition(":")
    if not (module_name and separator and class_name):
        raise ConfigurationError(
            f"env.name={name!r}: write it as package.module:Class, where the class can be imported."
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ConfigurationError(f"env.name={name}: {error}; is its package installed?") from None
    except AttributeError:
        raise ConfigurationError(f"env.name={name}: the module {module_name} has no {class_name}.") from None
    except Exception as error:  # a user's own module: whatever it raises, the name is what cannot be used
        raise ConfigurationError(f"env.name={name}: importing it raised {type(error).__name__}: {error}.") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigurationError(f"env.name={name}: {class_name} must be a dataclass; its fields are the env keys.")
    return cls


def environment_identity(environment: Environment) -> dict[str, Any]:
    """An environment's identity: the class's import path and the values of its fields."""
    cls = type(environment)
    if isinstance(environment, type) or not dataclasses.is_dataclass(environment):
        raise ConfigurationError(
            f"{environment!r} is no environment: give an instance of a frozen dataclass that keeps the protocol of "
            "leed_jax.Environment."
        )
    return {"name": f"{cls.__module__}:{cls.__qualname__}", "config": dataclasses.asdict(environment)}


def check_contract(name: str, environment: Environment) -> None:
    """Check a configured environment against the contract, unless it has passed before.

    That it passed is remembered in the cache folder (see `leed_jax.files.cache_folder`) until a field of it, the source
    of its class, or the version of leed_jax or JAX changes.

    Args:
        name: its `env.name`, for the message.
        environment: the environment.

    Raises:
        EnvironmentContractError: it breaks a rule of the protocol, or raises an error of its own.
    """
    subject = _subject(environment)
    passed = _verdict(subject)
    if passed is not None and _read(passed) == subject:
        return
    _check_contract(name, environment)
    if passed is not None:
        with contextlib.suppress(OSError):  # the next run checks again
            passed.parent.mkdir(parents=True, exist_ok=True)
            write_whole(passed, subject)


def _subject(environment: Environment) -> bytes:
    """What the outcome of a check depends on, as JSON; empty if that cannot be told."""
    try:
        files = {inspect.getfile(cls) for cls in type(environment).__mro__ if cls.__module__ != "builtins"}
        files |= {inspect.getfile(check_environment)}
        sources = {str(file): hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
        versions = {"leed_jax": __version__, "jax": jax.__version__}
        return json.dumps(
            {**environment_identity(environment), **versions, "sources": sources}, sort_keys=True
        ).encode()
    except (TypeError, ValueError, OSError):
        return b""


def _verdict(subject: bytes) -> Path | None:
    """The file that holds `subject` if the check was passed; None if that is not to be remembered."""
    folder = cache_folder()
    if folder is None or not subject:
        return None
    return folder / "contract" / f"{hashlib.sha256(subject).hexdigest()}.json"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _check_contract(name: str, environment: Environment) -> None:
    try:
        check_environment(environment, episodes=1)
    except EnvironmentContractError as error:
        raise EnvironmentContractError(f"env.name={name} breaks the environment protocol: {error}.") from error
    except LeedError:
        raise
    except Exception as error:  # whatever a user's environment raises
        raise EnvironmentContractError(
            f"env.name={name} raised {type(error).__name__}{_place(error, environment)}: {error}"
        ) from error


def _place(error: Exception, environment: Environment) -> str:
    """Where in the environment's own file an error came up."""
    try:
        file = inspect.getfile(type(environment))
    except (TypeError, OSError):
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in {file}, line {lines[-1]}" if lines else ""
