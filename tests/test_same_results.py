"""Short trainings end with the parameters that they ended with when `tests/golden/` was recorded.

`JAX_DISABLE_MOST_OPTIMIZATIONS=1 python tests/test_same_results.py` records them anew; that is for changes that are
meant to change results.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from leed_jax.config import from_dictionary
from leed_jax.training.program import Program, prepare

GOLDEN = Path(__file__).parent / "golden" / "parameters.safetensors"
CHUNKS = 2

COMMON: dict[str, Any] = {
    "env": {"name": "leed_jax.envs.mpe_spread:SimpleSpread", "num_agents": 3},
    "num_seeds": 2,
    "num_envs": 8,
    "rollout_steps": 26,
    "updates_per_chunk": 2,
    "total_steps": CHUNKS * 2 * 8 * 26,
    "network": {"hidden_sizes": [8, 8], "memory_size": 4},
    "ppo": {"epochs": 2, "minibatches": 4, "learning_rate": 0.01, "entropy_decay": 0.5},
    "q_learning": {"buffer_size": 1000, "batch_size": 16, "learning_steps": 4, "mixing_size": 4},
    "demonstrations": {"path": "mpe_spread/qwen2.5-coder-1.5b", "plans": 1, "episodes": 16, "noise": 1.0},
    "expert": {"batch_size": 16, "entropy": 0.5, "weight": 0.3, "decay_fraction": 0.9},
    "evaluation": {"curve_episodes": 0},
}
CASES: dict[str, dict[str, Any]] = {
    "ippo": {"algorithm": "ippo"},
    "ippo, gru, groups": {
        "algorithm": "ippo",
        "network": {"memory": "gru", "sharing": "groups", "groups": [0, 0, 1]},
    },
    "mappo, shared": {"algorithm": "mappo", "network": {"sharing": "all", "agent_id": False}},
    "leed, instructions, return gap": {"expert": {"source": "instructions", "adapt": "return_gap"}},
    "leed, instructions, dtw": {"expert": {"source": "instructions", "adapt": "dtw", "schedule": "cosine"}},
    "leed, arrays, return gap": {"expert": {"adapt": "return_gap", "schedule": "exponential"}},
    "leed, advantage, gru": {"expert": {"term": "advantage"}, "network": {"memory": "gru"}},
    "leed, surrogate": {"expert": {"term": "surrogate"}, "demonstrations": {"label": "taken"}},
    "bc": {"algorithm": "bc"},
    "vdn": {"algorithm": "vdn"},
    "qmix, shared": {"algorithm": "qmix", "network": {"sharing": "all", "activation": "relu"}},
}


def merged(changes: dict[str, Any]) -> dict[str, Any]:
    return {**COMMON, **{k: {**COMMON[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}


def trained(case: str) -> dict[str, np.ndarray]:
    """The parameters after a short training, and the returns of its last chunk."""
    program = Program(prepare(from_dictionary(merged(CASES[case]))))
    program.compile()
    state = program.init()
    for _ in range(CHUNKS):
        state, metrics = program.step(state)
    leaves = {f"parameters {i:02}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state.parameters))}
    return {**leaves, "returns": np.asarray(metrics["return_of_agents"])}


QUICK = ("ippo, gru, groups", "mappo, shared", "leed, instructions, dtw", "leed, surrogate", "qmix, shared")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in CASES])
def test_training_ends_with_the_same_parameters(case: str) -> None:
    recorded = {name: x for name, x in load_file(GOLDEN).items() if name.startswith(f"{case}/")}
    found = trained(case)
    assert {f"{case}/{name}" for name in found} == set(recorded)
    for name, value in found.items():
        # Another processor or another compiler rounds differently.
        np.testing.assert_allclose(value, recorded[f"{case}/{name}"], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    save_file({f"{case}/{name}": value for case in CASES for name, value in trained(case).items()}, GOLDEN)
