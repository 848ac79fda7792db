"""What `algorithm=NAME` stands for, and settings that an experiment has for single algorithms."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes import Aim, Choice, hparams
from tiny_run import Walk, record_walk, settings

from leed_jax.config.compose import compose_config
from leed_jax.errors import ConfigurationError
from leed_jax.learning.algorithms import make_algorithm
from leed_jax.learning.config import imitation_alone
from leed_jax.networks.config import NetworkConfig
from leed_jax.training.program import Program, final_returns, prepare


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_walk(tmp_path_factory.mktemp("recorded") / "set", Walk())


VARIANTS: dict[str, dict[str, Any]] = {
    "vdn": {"algorithm": "vdn"},
    "qmix in one group": {"algorithm": "qmix", "network__sharing": "groups", "network__groups": "[0,0]"},
    "recurrent, shared mappo": {
        "algorithm": "mappo",
        "network__sharing": "all",
        "network__memory": "gru",
        "network__memory_size": 4,
    },
    "bc of what earned more": {"algorithm": "bc", "expert__term": "advantage"},
    "leed in the loop": {
        "algorithm": "leed",
        "expert__source": "instructions",
        "expert__adapt": "return_gap",
        "expert__entropy": 0.5,
    },
    "leed by trajectories": {"algorithm": "leed", "expert__adapt": "dtw", "demonstrations__episodes": 16},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_algorithm_trains_and_is_evaluated_by_its_configuration(name: str, demonstrations: Path) -> None:
    changes = {"q_learning__buffer_size": 512, "q_learning__batch_size": 16, "q_learning__learning_steps": 2}
    changes |= {"evaluation__curve_episodes": 16, "demonstrations__path": demonstrations, **VARIANTS[name]}
    setup = prepare(compose_config(settings("", **changes)))
    program = Program(setup)
    program.compile()
    state, metrics = program.step(program.init())
    assert metrics["greedy_return_of_agents"].shape == (1, 2)
    for greedy in (True, False):
        found = final_returns(setup, state.parameters, greedy=greedy)
        assert found.shape == (1, 2)
        assert np.all(np.isfinite(found))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.parameters))


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


def made(name: str, environment: Any, **changes: Any) -> Any:
    """An algorithm for a probe."""
    sizes = {"num_envs": 1, "rollout_steps": 4, "updates_per_chunk": 1}
    return make_algorithm(name, environment, NetworkConfig(), hparams(minibatches=1, **changes), **sizes)


def test_each_algorithm_has_the_expert_term_that_it_stands_for() -> None:
    changes = {"expert_entropy": 0.5, "expert_adapt": "return_gap"}
    given = hparams(minibatches=1, **changes)
    assert made("leed", Choice(), **changes).hparams == given
    bc = made("bc", Choice(), **changes).hparams
    assert (bc.ppo, bc.expert) == imitation_alone(given.ppo, given.expert)
    assert (bc.expert.entropy, bc.expert.adapt, bc.expert.schedule) == (0.0, "none", "constant")
    assert (bc.ppo.policy_coefficient, bc.ppo.entropy_coefficient, bc.ppo.value_coefficient) == (0.0, 0.0, 0.0)
    assert made("bc", Choice(), expert_term="advantage").hparams.ppo.value_coefficient == 0.5
    for name in ("ippo", "mappo"):
        assert made(name, Choice(), **changes).hparams.expert == dataclasses.replace(given.expert, adapt="none")
    with pytest.raises(ConfigurationError, match="algorithm=dqn: must be one of leed, ippo"):
        made("dqn", Choice())


def test_an_entropy_bonus_that_continuous_actions_cannot_bear_is_refused() -> None:
    made("leed", Aim(), expert_entropy=0.99)
    with pytest.raises(ConfigurationError, match=r"expert\.entropy=1\.0: Aim has continuous actions"):
        made("leed", Aim(), expert_entropy=1.0)


def test_values_of_continuous_actions_are_not_decomposed() -> None:
    with pytest.raises(ConfigurationError, match="discrete actions"):
        made("vdn", Aim())


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
