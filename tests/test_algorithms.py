"""What `algorithm=NAME` stands for, and settings that an experiment has for single algorithms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import Walk, quick_compilation, record_walk, settings

from leed_jax.config import ALGORITHMS, NetworkConfig
from leed_jax.config.compose import compose_config
from leed_jax.config.environments import make_environment
from leed_jax.errors import ConfigurationError
from leed_jax.training.algorithms import agent_groups, make_algorithm, make_hyper
from leed_jax.training.runner import start_run


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_walk(tmp_path_factory.mktemp("recorded") / "set", Walk())


VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"algorithm": name} for name in ALGORITHMS},
    "shared ippo": {"algorithm": "ippo", "network__sharing": "all"},
    "mappo in one group": {"algorithm": "mappo", "network__sharing": "groups", "network__groups": "[0,0]"},
    "recurrent leed": {"algorithm": "leed", "network__memory": "gru", "network__memory_size": 4},
    "recurrent mappo": {"algorithm": "mappo", "network__memory": "gru", "network__memory_size": 4},
    "leed in the loop": {
        "algorithm": "leed",
        "expert__source": "instructions",
        "expert__adapt": "return_gap",
        "expert__entropy": 0.5,
    },
    "weighted by trajectories": {"algorithm": "leed", "expert__adapt": "dtw", "demonstrations__episodes": 16},
    "advantage-weighted": {"algorithm": "leed", "expert__term": "advantage"},
    "surrogate": {"algorithm": "leed", "expert__term": "surrogate", "network__sharing": "all"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_algorithm_runs_and_resumes_from_its_configuration(
    name: str, tmp_path: Path, demonstrations: Path
) -> None:
    changes = {"q_learning__buffer_size": 512, "q_learning__batch_size": 16, "q_learning__learning_steps": 2}
    config = compose_config(
        settings(tmp_path / "run", total_steps=128, demonstrations__path=demonstrations, **changes, **VARIANTS[name])
    )
    outcome = start_run(config)
    assert outcome.summary is not None
    assert np.all(np.isfinite(outcome.summary["return_per_agent"] + outcome.summary["stochastic_return_per_agent"]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(outcome.state.parameters))


def test_groups_come_from_the_configuration() -> None:
    def groups(*changes: str) -> tuple[int, ...]:
        return agent_groups(compose_config([*settings(""), *changes]), 3)

    assert groups() == (0, 1, 2)
    assert groups("network.sharing=all") == (0, 0, 0)
    assert groups("network.sharing=groups", "network.groups=[1,0,1]") == (1, 0, 1)


@pytest.mark.parametrize("given", ["[0,1]", "[0,0,2]", "[1,1,1]"])
def test_groups_that_do_not_fit_are_refused(given: str) -> None:
    config = compose_config([*settings(""), "network.sharing=groups", f"network.groups={given}"])
    with pytest.raises(ConfigurationError, match="there are 3 agents"):
        agent_groups(config, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["network.sharing=groups"], "network.groups"),
        (["network.groups=[0,0]"], "network.groups"),
        (["algorithm=qmix", "network.memory=gru"], "feed-forward"),
        (["algorithm=leed", "expert.term=advantage", "expert.source=instructions"], "rewards that followed"),
        (["network.memory=gru", "ppo.minibatches=8"], "divisor of num_envs=4"),
        (["demonstrations.noise_from=0.5"], "noise_from"),
        (["algorithm=vdn", "q_learning.buffer_size=40", "q_learning.batch_size=64"], "q_learning.buffer_size=40"),
        (["algorithm=vdn", "q_learning.buffer_size=31", "q_learning.batch_size=2"], "q_learning.buffer_size=31"),
        (["algorithm=leed", "expert.adapt=dtw", "num_envs=1"], "leaves a single one"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compose_config([*settings(""), *changes])


def test_settings_of_other_algorithms_are_none_of_ones_business() -> None:
    small = ["q_learning.buffer_size=1", "ppo.minibatches=7"]
    assert compose_config([*settings(""), *small[:1]]).q_learning.buffer_size == 1
    assert compose_config([*settings(""), *small[1:], "algorithm=vdn"]).ppo.minibatches == 7


def test_the_entropy_bonus_is_leeds_alone() -> None:
    def coefficient(algorithm: str) -> float:
        config = compose_config([*settings(""), "expert.entropy=0.5", f"algorithm={algorithm}"])
        return float(make_hyper(config, 10).expert_entropy)

    assert (coefficient("leed"), coefficient("bc")) == (0.5, 0.0)


def test_an_entropy_bonus_that_continuous_actions_cannot_bear_is_refused() -> None:
    def make(entropy: float) -> None:
        config = compose_config([*settings(""), "algorithm=leed", "env.name=probes:Aim", f"expert.entropy={entropy}"])
        make_algorithm(config, make_environment({"name": "probes:Aim"}), 1, 1)

    make(0.99)
    with pytest.raises(ConfigurationError, match=r"expert\.entropy=1\.0: Aim has continuous actions"):
        make(1.0)


def test_rollouts_too_short_to_compare_episodes_are_refused() -> None:
    def make(algorithm: str) -> None:
        config = compose_config([*settings(""), f"algorithm={algorithm}", "expert.adapt=dtw", "rollout_steps=3"])
        make_algorithm(config, make_environment({"name": "probes:Choice", "max_steps": 4}), 1, 1)

    make("ippo")
    with pytest.raises(ConfigurationError, match=r"rollout_steps=3 is less than one of 4 steps"):
        make("leed")


def test_values_of_continuous_actions_are_not_decomposed() -> None:
    config = compose_config([*settings(""), "algorithm=vdn", "env.name=probes:Aim"])
    with pytest.raises(ConfigurationError, match="discrete actions"):
        make_algorithm(config, make_environment({"name": "probes:Aim"}), 1, 1)


EXPERIMENT = """
env: {name: "tiny_run:Walk", num_agents: 2}
algorithm: ippo
ppo: {learning_rate: 0.5, epochs: 3}
algorithms:
  ippo: {ppo: {learning_rate: 0.25}}
  mappo: {ppo: {learning_rate: 0.125}, network: {sharing: all}}
"""


def test_an_experiment_has_settings_for_single_algorithms(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT)

    def composed(*changes: str) -> Any:
        return compose_config([f"experiment={file}", *changes])

    assert (composed().ppo.learning_rate, composed().ppo.epochs) == (0.25, 3)
    mappo = composed("algorithm=mappo")
    assert (mappo.ppo.learning_rate, mappo.network.sharing) == (0.125, "all")
    assert composed("algorithm=mappo", "ppo.learning_rate=0.75").ppo.learning_rate == 0.75
    assert composed("algorithm=qmix").ppo.learning_rate == 0.5


def test_a_section_with_nothing_in_it_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text('env: {name: "tiny_run:Walk"}\nalgorithm: ippo\nnetwork:\nppo: {epochs: 3}\n')
    config = compose_config([f"experiment={file}"])
    assert (config.network, config.ppo.epochs) == (NetworkConfig(), 3)


def test_an_algorithm_can_take_the_settings_of_another(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT)

    def composed(*changes: str) -> Any:
        return compose_config([f"experiment={file}", *changes])

    borrowed = composed("algorithm=ippo", "settings_of=mappo")
    assert (borrowed.algorithm, borrowed.ppo.learning_rate, borrowed.network.sharing) == ("ippo", 0.125, "all")
    assert composed("algorithm=ippo", "settings_of=leed").ppo.learning_rate == 0.5
    with pytest.raises(ConfigurationError, match="settings_of=dqn"):
        composed("settings_of=dqn")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{dqn: {}}", "algorithms.dqn is none"),
        ("[1]", "must hold"),
        ("{ippo: 3}", "must hold"),
        ("{ippo: {settings_of: mappo}}", r"algorithms\.ippo\.settings_of would choose"),
        ("{mappo: {algorithm: ippo}}", r"algorithms\.mappo\.algorithm would choose"),
    ],
)
def test_settings_for_algorithms_that_cannot_be_used_are_refused(tmp_path: Path, section: str, message: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f'env: {{name: "tiny_run:Walk"}}\nalgorithms: {section}\n')
    with pytest.raises(ConfigurationError, match=message):
        compose_config([f"experiment={file}"])
