import dataclasses
import re

import pytest
import tiny_run

from leed_jax.cli.common import help_text
from leed_jax.config import (
    GenerateConfig,
    RunConfig,
    check_config,
    environment_identity,
    from_dictionary,
    make_environment,
    to_dictionary,
)
from leed_jax.config.compose import compose_config
from leed_jax.config.environments import complete
from leed_jax.config.options import attribute_meanings, nearest, options
from leed_jax.errors import ConfigurationError, EnvironmentContractError
from leed_jax.learning.config import ExpertConfig, Hparams, PPOConfig, QLearningConfig
from leed_jax.networks.config import NetworkConfig

SPREAD = "leed_jax.envs.mpe_spread:SimpleSpread"


@dataclasses.dataclass(frozen=True)
class Listed(tiny_run.Walk):
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])
    nested: list[list[int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Tagged(tiny_run.Walk):
    tag: str = ""
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Halfway:
    num_agents: int = 1


@dataclasses.dataclass(frozen=True)
class Picky:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size > 1:
            raise ValueError("size is too large")


def test_a_dictionary_and_the_dataclasses_are_inverse():
    config = RunConfig(env={"name": SPREAD, "num_agents": 5}, num_envs=7, out="x")
    config.ppo.minibatches = 2
    config.demonstrations.episodes = 9
    values = to_dictionary(config)
    assert values["ppo"]["minibatches"] == 2
    assert values["network"]["hidden_sizes"] == [64, 64]
    again = from_dictionary(values)
    assert again == config
    hash(again.network)
    generate = GenerateConfig(env={"name": SPREAD}, seed=3)
    assert from_dictionary(to_dictionary(generate), GenerateConfig) == generate


def test_defaults_are_not_shared_between_configurations():
    first = RunConfig()
    first.ppo.epochs, first.env["name"] = 1, SPREAD
    assert (RunConfig().ppo.epochs, RunConfig().env) == (4, {})


def test_the_engine_takes_the_configurations_own_settings():
    config = RunConfig(num_envs=4, rollout_steps=8)
    hparams = config.hparams(100)
    assert (hparams.total_updates, hparams.first_update) == (100.0, 0.0)
    assert (hparams.ppo, hparams.expert, hparams.q_learning) == (config.ppo, config.expert, config.q_learning)
    # A run that was trained further: its schedules take the added steps, or are over.
    assert dataclasses.replace(config, schedule_from=320).hparams(100).total_updates == 90.0
    assert dataclasses.replace(config, schedule_from=320).hparams(100).first_update == 10.0
    assert dataclasses.replace(config, schedule_steps=320).hparams(100).total_updates == 10.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nm_envs": 3}, ["nm_envs", "Did you mean num_envs?"]),
        ({"ppo": {"learning_rat": 0.1}}, ["ppo.learning_rat", "Did you mean ppo.learning_rate?"]),
        ({"num_envs": "many"}, ["num_envs", "many"]),
        ({"ppo": {"epochs": 1.5}}, ["ppo.epochs", "1.5"]),
        ({"ppo": 3}, ["PPOConfig", "3"]),
        ({"num_envs": 0}, ["num_envs=0", "at least 1"]),
        ({"seed": -1}, ["seed=-1", "between 0"]),
        ({"algorithm": "lead"}, ["algorithm=lead", "leed, ippo"]),
        ({"expert": {"schedule": "cubic"}}, ["expert.schedule=cubic", "cosine"]),
        ({"network": {"activation": "step"}}, ["network.activation=step", "tanh"]),
        ({"network": {"hidden_sizes": []}}, ["network.hidden_sizes", "[64,64]"]),
        ({"network": {"hidden_sizes": [4, 0]}}, ["network.hidden_sizes", "at least 1"]),
        ({"evaluation": {"episodes": 255}}, ["evaluation.episodes=255", "256"]),
        ({"evaluation": {"episodes": 10**12}}, ["evaluation.episodes=1000000000000", "1e+06"]),
        ({"demonstrations": {"episodes": 0}}, ["demonstrations.episodes=0", "null"]),
        ({"ppo": {"minibatches": 5000}}, ["ppo.minibatches=5000", "3328 samples"]),
        ({"total_steps": 10}, ["total_steps=10", "3328"]),
        ({"total_steps": 10**30}, ["total_steps=1000", "1e+15"]),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(values, words):
    with pytest.raises(ConfigurationError) as caught:
        from_dictionary({"env": {"name": SPREAD}, **values})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_smallest_values_are_accepted():
    config = RunConfig(env={"name": SPREAD}, num_envs=1, rollout_steps=1, total_steps=1)
    config.ppo.minibatches = 1
    config.evaluation.episodes = 256
    check_config(config)


def fields_of(cls, prefix=""):
    """Every key with its field and meaning."""
    for field in dataclasses.fields(cls):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        if dataclasses.is_dataclass(default):
            yield from fields_of(type(default), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, attribute_meanings(cls).get(field.name, "")


@pytest.mark.parametrize("kind", [RunConfig, GenerateConfig])
def test_every_key_has_a_meaning_and_every_choice_is_in_it(kind):
    known = list(fields_of(kind))
    assert [key for key, _, meaning in known if not meaning] == []
    assert [key for key, _, _ in known] == [option.key for option in options(kind) if not option.section]
    for key, field, meaning in known:
        choices = field.metadata.get("choices", ()) if key != "settings_of" else ()
        assert [name for name in choices if name not in meaning] == [], key


def test_options_know_whole_numbers_and_sections():
    listed = {option.key: option for option in options(RunConfig)}
    assert listed["num_envs"].whole
    assert listed["demonstrations.episodes"].whole
    assert not listed["ppo.learning_rate"].whole
    assert not listed["out"].whole
    assert listed["out"].text
    assert listed["algorithm"].text
    assert not listed["num_envs"].text
    assert listed["ppo"].section
    assert listed["ppo.epochs"].default == 4


def test_nearest_compares_last_parts_too():
    known = ["num_envs", "ppo.learning_rate", "expert.weight"]
    assert nearest("nun_envs", known) == "num_envs"
    assert nearest("learning_rates", known) == "ppo.learning_rate"
    assert nearest("xyzzy", known) is None


def test_an_environment_is_built_from_its_fields():
    environment = make_environment({"name": SPREAD, "num_agents": 4, "num_landmarks": None})
    assert (environment.num_agents, environment.num_landmarks) == (4, None)
    assert environment_identity(environment)["name"] == SPREAD
    assert environment_identity(environment)["config"]["num_agents"] == 4


def test_lists_become_tuples_so_that_environments_are_hashable():
    environment = make_environment({"name": f"{__name__}:Listed", "nested": [[1], [2, 3]]})
    assert environment.sizes == (1, 2)
    assert environment.nested == ((1,), (2, 3))
    hash(environment)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["env.name=''", "package.module:Class"]),
        ({"name": "mpe_spread"}, ["mpe_spread", "package.module:Class"]),
        ({"name": ":Class"}, ["package.module:Class"]),
        ({"name": "no_such_package.there:Class"}, ["no_such_package", "installed"]),
        ({"name": "leed_jax.envs.mpe_spread:Spread"}, ["leed_jax.envs.mpe_spread", "Spread"]),
        ({"name": "leed_jax.config:check_config"}, ["check_config", "dataclass"]),
        ({"name": SPREAD, "num_agent": 3}, ["env.num_agent", "SimpleSpread takes: num_agents, num_landmarks"]),
        ({"name": SPREAD, "num_agents": "three"}, ["env.num_agents", "three", "takes: num_agents"]),
        ({"name": SPREAD, "num_agents": 0}, ["num_agents"]),
        ({"name": f"{__name__}:Picky", "size": 2}, ["Picky", "size is too large", "takes: size"]),
        ({"name": f"{__name__}:Tagged", "tag": 1000.0}, ["env.tag is a text", "1000.0", "quotes"]),
        ({"name": f"{__name__}:Tagged", "tag": True}, ["env.tag is a text", "True", "quotes"]),
        ({"name": f"{__name__}:Tagged", "note": 3}, ["env.note is a text", "3", "quotes"]),
        ({"name": "tiny_broken:Class"}, ["tiny_broken", "RuntimeError", "broken at import"]),
    ],
)
def test_bad_environments_are_named_with_what_is_allowed(values, words, tmp_path, monkeypatch):
    (tmp_path / "tiny_broken.py").write_text("raise RuntimeError('broken at import')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        make_environment(values)
    for word in words:
        assert word in str(caught.value)


def test_the_fields_of_an_environment_can_be_written_out_and_make_it_again():
    given = {"name": SPREAD, "num_agents": 4}
    fields = complete(given)
    assert fields == {
        "name": SPREAD,
        "num_agents": 4,
        "num_landmarks": None,
        "local_ratio": 0.5,
        "max_steps": 26,
        "observed_agents": None,
        "observed_landmarks": None,
    }
    assert make_environment(fields) == make_environment(given)
    listed = complete({"name": f"{__name__}:Listed", "nested": [[1], [2, 3]]})
    assert (listed["sizes"], listed["nested"]) == ([1, 2], [[1], [2, 3]])


def test_texts_of_an_environment_are_taken_as_they_are():
    name = f"{__name__}:Tagged"
    assert make_environment({"name": name, "tag": "1e3", "note": None}) == Tagged(tag="1e3")
    assert complete({"name": name, "tag": "true"})["tag"] == "true"


def test_a_class_without_the_protocol_is_refused():
    with pytest.raises(EnvironmentContractError, match="it lacks observation_size, num_actions"):
        make_environment({"name": f"{__name__}:Halfway"})


def test_a_class_may_stand_in_any_importable_module():
    assert make_environment({"name": "tiny_run:Walk", "max_steps": 7}) == tiny_run.Walk(max_steps=7)


@pytest.mark.parametrize(("command", "kind"), [("run", RunConfig), ("generate", GenerateConfig)])
def test_help_shows_every_key_with_its_default_and_choices(command, kind):
    lines = help_text("", kind).splitlines()
    shown = {m[1]: (m[2], n) for n, line in enumerate(lines) if (m := re.match(r"  ([\w.]+)=(\S*)", line))}
    found = [option for option in options(kind) if not option.section]
    assert list(shown) == [option.key for option in found]
    for option, number in zip(found, [*[n for _, n in shown.values()][1:], len(lines)], strict=True):
        value, first = shown[option.key]
        text = " ".join(lines[first:number])
        for choice in option.choices:
            assert choice in text, (option.key, choice)
        if isinstance(option.default, (int, float, str)):
            assert value.lower() == str(option.default).lower()


def test_a_default_stands_once():
    """What the command line shows is what the engine's own classes hold."""
    config = RunConfig()
    assert (config.network, config.ppo, config.expert, config.q_learning) == (
        NetworkConfig(),
        PPOConfig(),
        ExpertConfig(),
        QLearningConfig(),
    )
    assert Hparams(total_updates=1.0).ppo == config.ppo


def test_a_key_of_the_other_command_is_named_as_such():
    with pytest.raises(ConfigurationError, match=r"num_envs is a key of python -m leed_jax\.run"):
        compose_config(["experiment=mpe_spread", "num_envs=4"], GenerateConfig)
