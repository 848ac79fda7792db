import json

import numpy as np
import pytest

from leed_jax.errors import RunDirectoryError
from leed_jax.report.metrics import MetricsWriter, cut_back, mean_or_none, metric_rows, read_metrics

METRICS = {
    "return_per_agent": np.array([[1.0, 2.0], [np.nan, np.nan]], np.float32),
    "value_loss": np.array([[0.5, np.inf], [3.0, 4.0]], np.float32),
}


def test_rows_are_plain_json_with_null_for_what_is_not_finite():
    rows = metric_rows(METRICS, {"chunk": 1, "env_steps": 64}, first_seed=5)
    assert rows == [
        {
            "chunk": 1,
            "env_steps": 64,
            "seed": 5,
            "return_per_agent": 1.5,
            "return_of_agents": [1.0, 2.0],
            "value_loss": [0.5, None],
        },
        {
            "chunk": 1,
            "env_steps": 64,
            "seed": 6,
            "return_per_agent": None,
            "return_of_agents": [None, None],
            "value_loss": [3.0, 4.0],
        },
    ]
    json.dumps(rows, allow_nan=False)


def test_float32_survives_the_way_through_json():
    value = np.float32(0.1) * np.float32(3)
    row = metric_rows({"return_per_agent": np.array([[value]], np.float32)}, {}, 0)[0]
    assert np.float32(json.loads(json.dumps(row))["return_of_agents"][0]) == value


def test_mean_or_none():
    assert mean_or_none([1.0, None, 2.0]) == 1.5
    assert mean_or_none([None]) is None
    assert mean_or_none([]) is None


def write_chunks(folder, chunks, seeds=2):
    writer = MetricsWriter(folder)
    for chunk in range(1, chunks + 1):
        common = {"chunk": chunk, "env_steps": 10 * chunk}
        writer.write([{**common, "seed": seed, "return_per_agent": 1.0} for seed in range(seeds)])
    writer.sync()
    writer.close()


def test_cutting_back_keeps_whole_chunks_and_drops_a_torn_line(tmp_path):
    write_chunks(tmp_path, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"chunk": 6, "se')
    rows = cut_back(tmp_path, 3, 2)
    assert [row["chunk"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert read_metrics(tmp_path) == rows
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_cutting_back_to_nothing(tmp_path):
    assert cut_back(tmp_path, 0, 2) == []
    write_chunks(tmp_path, 1)
    assert cut_back(tmp_path, 0, 2) == []
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("damage", ["short", "order", "garbage", "depth"])
def test_lines_that_are_missing_or_damaged_are_an_error_and_are_left_alone(damage, tmp_path):
    write_chunks(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    replaced = {"garbage": ["?\n", *lines[1:]], "depth": ["[" * 10**5 + "\n", *lines[1:]]}
    damaged = {"short": lines[:5], "order": lines[::-1], **replaced}[damage]
    path.write_text("".join(damaged))
    with pytest.raises(RunDirectoryError, match="does not hold the 3 chunks"):
        cut_back(tmp_path, 3, 2)
    assert path.read_text() == "".join(damaged)
