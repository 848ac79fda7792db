import json
import re
from pathlib import Path

import numpy as np
import pytest

from leed_jax.errors import RunDirectoryError
from leed_jax.report.loggers import make_loggers
from leed_jax.report.metrics import cut_back, each_agent, mean_or_none, metric_rows, read_metrics

METRICS = {
    "return_of_agents": np.array([[1.0, 2.0], [np.nan, np.nan]], np.float32),
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
    row = metric_rows({"return_of_agents": np.array([[value]], np.float32)}, {}, 0)[0]
    assert np.float32(json.loads(json.dumps(row))["return_of_agents"][0]) == value


def test_mean_or_none():
    assert mean_or_none([1.0, None, 2.0]) == 1.5
    assert mean_or_none([None]) is None
    assert mean_or_none([]) is None


def write_chunks(folder, chunks, seeds=2):
    writer = make_loggers(("jsonl", "tensorboard"), folder, 0, {})
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:5], "it ends after line 5, and line 6 belongs to the last checkpoint"),
        (lambda lines: lines[::-1], "line 1 is not of chunk 1"),
        (lambda lines: [*lines[:3], lines[3][:9] + b"\n", *lines[4:]], "line 4 is not valid JSON"),
        (lambda lines: [b"[" * 10**5 + b"\n", *lines[1:]], "line 1 is not valid JSON"),
        (lambda lines: [*lines[:-1], lines[-1][:9]], "line 6 is not valid JSON"),
        (lambda lines: [], "it ends after line 0"),
    ],
)
def test_missing_or_damaged_lines_are_an_error_that_names_the_line(damage, message, tmp_path):
    write_chunks(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    damaged = path.read_bytes()
    with pytest.raises(RunDirectoryError, match=re.escape(f"{path} is damaged: {message}")):
        cut_back(tmp_path, 3, 2)
    assert path.read_bytes() == damaged


def test_a_damaged_line_is_named_when_all_are_read(tmp_path):
    write_chunks(tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"chunk": 3, "se')
    with pytest.raises(RunDirectoryError, match="line 5 is not valid JSON"):
        read_metrics(tmp_path)


def test_each_agent_has_a_label_or_many_have_two():
    assert each_agent([1.0, None]) == {"agent_0": 1.0, "agent_1": None}
    assert each_agent([float(i) for i in range(8)])["agent_7"] == 7.0
    assert each_agent([None, *map(float, range(8))]) == {"lowest_agent": 0.0, "highest_agent": 7.0}
    assert each_agent([None] * 9) == {"lowest_agent": None, "highest_agent": None}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_metrics_that_cannot_be_written_are_one_sentence(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    writer = make_loggers(("jsonl", "tensorboard"), tmp_path, 0, {})
    for method in (lambda: writer.write([{"chunk": 1, "env_steps": 1, "seed": 0}]), writer.close):
        with pytest.raises(RunDirectoryError, match=re.escape(f"{path} cannot be written: No space left on device.")):
            method()
