"""A command's configuration from `key=value` settings and experiment files.

This is the only module that knows Hydra.
"""

import dataclasses
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config import PROVIDERS, AnyConfig, RunConfig, explain, from_node, unknown_key
from leed_jax.config.options import nearest, options
from leed_jax.config.yaml_text import read_mapping
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import ALGORITHMS

_SCHEMA = "leed_jax_schema"
_USER_EXPERIMENT = "_user_file"
_TUNED = "tuned"
_SECTIONS = [option.key for option in options(RunConfig) if option.section]


def compose_config(
    arguments: Sequence[str],
    kind: type[AnyConfig] = RunConfig,  # type: ignore[assignment]
) -> AnyConfig:
    """Build the configuration that command line settings describe.

    Args:
        arguments: `key=value` settings, among them `experiment=NAME` or `experiment=FILE.yaml`.
        kind: the command's class; what an experiment file holds for the other command is left out.

    Raises:
        ConfigurationError: a key is unknown, a value of the wrong type or out of range, or there is no such experiment.
    """
    experiment = ""
    provider: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        key, value = split_setting(argument)
        if key == "experiment":
            experiment = value
        elif key == "llm":
            provider = _provider(value)
        else:
            overrides.append(_override(key, value, kind))
    store = ConfigStore.instance()
    store.store(name=_SCHEMA, node=kind())
    for name in PROVIDERS:
        store.store(group="llm", name=name, node={"provider": name})
    chosen: list[str]
    tuned: set[str]
    chosen, tuned = _register_experiment(store, experiment, kind)
    try:
        with initialize(version_base="1.3", config_path=None):
            node: Any = compose(_SCHEMA, overrides=[*chosen, *provider, *overrides])
            if kind is RunConfig and (whose := node.settings_of or node.algorithm) in tuned:
                chosen.append(f"+{_TUNED}={whose}")
                node = compose(_SCHEMA, overrides=[*chosen, *provider, *overrides])
    except HydraException as error:
        raise ConfigurationError(_hydra_message(error, experiment)) from None
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error, kind)) from None
    if not node.env.get("name"):
        raise ConfigurationError(
            f"No environment: pass experiment=NAME (one of {', '.join(experiment_names())}), "
            "or env.name=package.module:Class."
        )
    node.experiment = Path(experiment).stem
    return from_node(node, kind)


def experiment_names() -> list[str]:
    """Names of the experiments that come with leed_jax."""
    return sorted(Path(file.name).stem for file in _packaged())


def _packaged() -> list[Traversable]:
    return [file for file in resources.files("leed_jax.experiments").iterdir() if _is_yaml(file.name)]


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def split_setting(argument: str) -> tuple[str, str]:
    """Cut `key=value`; Hydra's `+` and `++` before a key mean nothing here, as every key is known beforehand."""
    if argument in ("-m", "--multirun"):
        raise ConfigurationError(
            f"{argument}: sweeps are not supported; num_seeds=N trains several seeds side by side, and a shell loop "
            "starts several runs."
        )
    if argument.startswith("-"):
        raise ConfigurationError(f"{argument}: there is no such flag; settings are written key=value. See --help.")
    key, separator, value = argument.partition("=")
    if not separator:
        raise ConfigurationError(f"{argument}: settings are written key=value. See --help.")
    return key.strip().lstrip("+"), value.strip()


def _provider(name: str) -> list[str]:
    """Write `llm=NAME` as the choice of a group of Hydra's; the last one given stands."""
    if name not in PROVIDERS:
        raise ConfigurationError(f"llm={name}: there is no such provider; use one of {', '.join(PROVIDERS)}.")
    return [f"+llm={name}"]


def _override(key: str, value: str, kind: type) -> str:
    """Check one setting and write it as Hydra wants it."""
    known = {option.key: option for option in options(kind)}
    in_environment = key.startswith("env.")
    if not in_environment and key not in known:
        raise ConfigurationError(unknown_key(key, kind))
    if not in_environment and known[key].text and value not in ("", "null") and value[0] not in "'\"":
        value = quoted(value)
    if not in_environment and known[key].whole:
        value = whole_number(value)
    text = f"{key}={value}"
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{text}: the value cannot be read ({reason}); put it in quotes.") from None
    if parsed.is_sweep_override():
        raise ConfigurationError(f"{text}: several values for one key are not supported; write a list as [1,2].")
    # The environment's own class says which fields there are, and what types they have.
    return f"++{text}" if in_environment else text


def quoted(text: str) -> str:
    """A text in quotes, so that a setting has it as it is, whatever it looks like.

    Args:
        text: the text; backslashes in it mean nothing.
    """
    # Before a quote, and there alone, Hydra takes a backslash for a sign of its own.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def whole_number(value: str) -> str:
    """A whole number such as `1e6` with all its digits; everything else is left for the type check.

    Args:
        value: what was typed.
    """
    try:
        number = float(value)
    except ValueError:
        return value
    return str(int(number)) if number.is_integer() and not value.isdigit() else value


def _register_experiment(store: ConfigStore, experiment: str, kind: type) -> tuple[list[str], set[str]]:
    """Tell Hydra about an experiment; return the override that chooses it, and the algorithms it has settings for."""
    if not experiment:
        return [], set()
    packaged = {Path(file.name).stem: file for file in _packaged()}
    if experiment in packaged:
        file = packaged[experiment]
        return _store_experiment(store, experiment, file.read_text(encoding="utf-8"), file.name, kind)
    path = Path(experiment).expanduser()
    if not (_is_yaml(path.name) and path.is_file()):
        names = sorted(packaged)
        near = nearest(experiment, names)
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigurationError(
            f"experiment={experiment}: there is no such experiment or YAML file.{hint} Available: {', '.join(names)}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"experiment file {path} cannot be read as UTF-8 text: {error}") from None
    # A user's own file may start from one of the package.
    for name, file in packaged.items():
        _store_experiment(store, name, file.read_text(encoding="utf-8"), file.name, kind)
    return _store_experiment(store, _USER_EXPERIMENT, text, str(path), kind)


def _store_experiment(store: ConfigStore, name: str, text: str, where: str, kind: type) -> tuple[list[str], set[str]]:
    """Register one experiment's settings, and those that it has for single algorithms under `algorithms`."""
    values = read_mapping(text, f"experiment file {where}")
    tuned: Any = values.pop("algorithms", OmegaConf.create({}))
    _check_settings(values, f"experiment file {where}: ")
    if not (OmegaConf.is_dict(tuned) and all(OmegaConf.is_dict(node) for node in tuned.values())):
        raise ConfigurationError(f"experiment file {where}: algorithms must hold keys and values for each algorithm.")
    for algorithm, node in tuned.items():
        if algorithm not in ALGORITHMS:
            raise ConfigurationError(
                f"experiment file {where}: algorithms.{algorithm} is none; write one of {', '.join(ALGORITHMS)}."
            )
        for key in ("algorithm", "settings_of"):
            if key in node:
                raise ConfigurationError(
                    f"experiment file {where}: algorithms.{algorithm}.{key} would choose the section that it is in. "
                    "Leave it out."
                )
        _check_settings(node, f"experiment file {where}: algorithms.{algorithm}.")
        store.store(group=_TUNED, name=str(algorithm), node=node, package="_global_")
    known = {"defaults", *(field.name for field in dataclasses.fields(kind))}
    values = OmegaConf.masked_copy(values, [key for key in values if key in known])
    store.store(group="experiment", name=name, node=values, package="_global_")
    return [f"+experiment={name}"], {str(algorithm) for algorithm in tuned}


def _check_settings(values: Any, where: str) -> None:
    """Refuse what are no settings, in the name of the file that they are in; drop sections that hold nothing."""
    try:
        for section in [key for key in ("env", *_SECTIONS) if key in values]:
            if values[section] is None:
                del values[section]
            elif not OmegaConf.is_dict(values[section]):
                raise ConfigurationError(f"{where}{section} must hold keys and values; it is {values[section]}.")
        settings = OmegaConf.masked_copy(values, [key for key in values if key != "defaults"])
        OmegaConf.merge(OmegaConf.structured(RunConfig), settings)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{where}{explain(error)}") from None


def _hydra_message(error: HydraException, experiment: str) -> str:
    """One sentence for an error of Hydra's, which wraps those of OmegaConf."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return explain(cause)
        cause = cause.__cause__ or cause.__context__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"experiment={experiment}: {lines[0] if lines else type(error).__name__}"
