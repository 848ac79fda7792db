"""Folders as finished runs leave them, written without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CHUNK_STEPS = 100


def write_run(
    folder: Path,
    *,
    algorithm: str = "ippo",
    final: Sequence[float | None] = (1.0, 2.0),
    seeds: Sequence[int] | None = None,
    curve: Sequence[Sequence[float | None]] = ((0.0, 0.0), (1.0, 2.0)),
    greedy: Sequence[Sequence[float | None]] | None = None,
    chunk_s: float = 10.0,
    steps: int = CHUNK_STEPS,
    settings: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run directory.

    Args:
        folder: where; it is made.
        algorithm: the algorithm.
        final: the greedy return of each seed.
        seeds: which ones; counted from 0 if None.
        curve: the return while training, a row for each chunk and a column for each seed.
        greedy: the greedy return after each chunk; not recorded if None.
        chunk_s: seconds that each chunk takes, all seeds together.
        steps: environment steps of a chunk.
        settings: dotted keys of the configuration.
        summary: what the summary holds besides, or instead.
    """
    numbers = list(range(len(final))) if seeds is None else list(seeds)
    folder.mkdir(parents=True)
    config = OmegaConf.create({"env": {"name": "tiny_run:Walk", "num_agents": 2}, "algorithm": algorithm})
    for key, value in {"seed": min(numbers), "num_seeds": len(numbers), **(settings or {})}.items():
        OmegaConf.update(config, key, value)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    rows = [
        {
            "chunk": chunk + 1,
            "env_steps": steps * (chunk + 1),
            "wall_s": chunk_s * (chunk + 1),
            "seed": seed,
            "return_per_agent": curve[chunk][index],
            **({} if greedy is None else {"greedy_return_per_agent": greedy[chunk][index]}),
        }
        for chunk in range(len(curve))
        for index, seed in enumerate(numbers)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "algorithm": algorithm,
        "experiment": "walk",
        "env_steps": steps * len(curve),
        "wall_s": chunk_s * len(curve),
        "compile_s": 5.0,
        "return_per_agent": list(final),
        "random_return_per_agent": -4.0,
        "instructions_return_per_agent": None,
        "evaluation_episodes": 1024,
        "num_agents": 2,
        "seeds": numbers,
        "chunks": len(curve),
        "versions": {"leed_jax": "0.1.0", "jax": "0.10"},
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    }
    (folder / "summary.json").write_text(json.dumps({**values, **(summary or {})}))
    return folder


def rising(levels: Sequence[float], chunks: int = 6) -> list[list[float]]:
    """A curve that rises linearly from 0 in every seed, up to the seed's level in the last chunk."""
    return [[level * (chunk + 1) / chunks for level in levels] for chunk in range(chunks)]
