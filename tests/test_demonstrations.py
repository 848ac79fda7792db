"""Demonstration sets: written, read back, and refused when anything about them is wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes import Choice, Line

from leed_jax.demonstrations import (
    ARRAYS,
    MANIFEST,
    TRANSCRIPT,
    _manifest_sha256,
    execute_episodes,
    find_set,
    instructed,
    load_demonstrations,
    recorded_sets,
    save_demonstrations,
)
from leed_jax.environment_class import make_environment
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import PrimitiveInstructions, compile_triples, stack_plans

TRIPLES = [("Walk", "mark_3", "agent_0"), ("Walk", "mark_1", "agent_1"), ("Stay", "forever", "agent_1")]
CAPACITY = 3


def write(folder: Path, arrays: bool = True, triples: Any = TRIPLES) -> Path:
    line = Line()
    recorded = None
    if arrays:
        plans = stack_plans([compile_triples(line.vocabulary, TRIPLES, CAPACITY)])
        recorded = execute_episodes(line, plans, jax.random.key(0), 4)
    manifest = {"max_instructions": CAPACITY, "plans": [{"triples": [list(t) for t in triples]}]}
    save_demonstrations(folder, manifest, line, b'{"round": 0}\n', recorded)
    return folder


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": _manifest_sha256(manifest)}))


def refuse(folder: Path, environment: Any = None) -> str:
    with pytest.raises(DemonstrationError) as caught:
        load_demonstrations(str(folder), Line() if environment is None else environment)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_set_reads_back_as_it_was_written(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write(tmp_path / "set")), Line())
    recorded = loaded.episodes()
    # Two steps to walk and one for the last reward: marks 1, 2, 3, 3, ... and 1, 1, ...
    np.testing.assert_array_equal(recorded.reward[0, :, 0], [1, 2, 3, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(recorded.reward[0, :, 1], np.ones(8))
    np.testing.assert_array_equal(loaded.plans.length, [[1, 2]])
    np.testing.assert_array_equal(loaded.returns(jax.random.key(0), 3), [[21, 8]] * 3)


def test_plans_are_executed_again_on_as_many_episodes_as_asked_for(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write(tmp_path / "set")), Line())
    assert loaded.episodes(6).action.shape == (6, Line().max_steps, 2)


def test_noise_disturbs_what_is_done_and_not_what_is_recorded(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write(tmp_path / "set")), Line())
    noisy, plain = loaded.episodes(64, noise=1.0, seed=1), loaded.episodes(64, seed=1)
    assert float(noisy.reward.mean()) < float(plain.reward.mean())
    np.testing.assert_array_equal(noisy.reward[0], plain.reward[0])
    np.testing.assert_array_equal(noisy.action[:, 0], plain.action[:, 0])


def test_a_set_of_plans_alone_needs_a_number_of_episodes(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write(tmp_path / "set", arrays=False)), Line())
    assert loaded.episodes(2).action.shape[0] == 2
    with pytest.raises(DemonstrationError, match=r"set demonstrations\.episodes"):
        loaded.episodes()


def test_a_missing_set_is_named_with_those_there_are() -> None:
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path=no/such.*mpe_spread/"):
        find_set("no/such")
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path is empty"):
        find_set("")


@pytest.mark.parametrize("name", [ARRAYS, TRANSCRIPT])
def test_a_file_that_is_gone_cut_or_changed_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "set")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert f"{name} is truncated" in refuse(folder)
    (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert f"{name} is altered" in refuse(folder)
    (folder / name).unlink()
    assert f"{name} cannot be read" in refuse(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": 99}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "set")
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refuse(folder)


def test_a_manifest_that_was_edited_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("mark_3", "mark_2"))
    assert f"{MANIFEST} is altered" in refuse(folder)
    (folder / MANIFEST).write_text(json.dumps(json.loads(text)))
    load_demonstrations(str(folder), Line())


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/x", "nul\0byte"])
def test_a_path_that_no_system_takes_is_told(path: str) -> None:
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path="):
        find_set(path)


def test_another_environment_is_told_by_what_differs(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    assert "env.max_steps=8 where the run has 9" in refuse(folder, Line(max_steps=9))
    assert "probes:Choice" in refuse(folder, Choice())


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"../../etc/passwd": {"sha256": "", "bytes": 0}}},
        {"files": None},
        {"plans": []},
        {"plans": [{"triples": [["Walk", "mark_9", "agent_0"]]}]},
        {"plans": [{"triples": "Walk"}]},
        {"plans": [{"triples": [["Walk"]]}]},
        {"plans": [[]]},
        {"max_instructions": "3"},
        {"max_instructions": 0},
        {"max_instructions": 10**12},
        {"environment": None},
        {"environment": {"name": "probes:Line", "config": None}},
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write(tmp_path / "set")
    edit_manifest(folder, **changes)
    refuse(folder)


def rewrite_arrays(folder: Path, change: Any) -> None:
    """Write a set whose hashes are right and whose arrays are not."""
    line = Line()
    plans = stack_plans([compile_triples(line.vocabulary, TRIPLES, CAPACITY)])
    recorded = change(execute_episodes(line, plans, jax.random.key(0), 4))
    manifest = {"max_instructions": CAPACITY, "plans": [{"triples": [list(t) for t in TRIPLES]}]}
    save_demonstrations(folder, manifest, line, b"", recorded)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace(observation=t.observation[:, :-1]),
        lambda t: t.replace(observation=t.observation.at[0, 0, 0, 0].set(np.nan)),
        lambda t: t.replace(action=t.action.at[0, 0, 0].set(99)),
        lambda t: t.replace(action=t.action.astype(np.float32)),
        lambda t: t.replace(reward=t.reward[:2]),
        lambda t: jax.tree.map(lambda x: x[:0], t),
    ],
)
def test_arrays_of_another_kind_are_refused_although_their_hash_is_right(tmp_path: Path, change: Any) -> None:
    rewrite_arrays(tmp_path / "set", change)
    assert ARRAYS in refuse(tmp_path / "set")


def test_an_environment_without_instructions_gets_its_primitive_actions() -> None:
    assert isinstance(instructed(Choice()), PrimitiveInstructions)
    assert instructed(Line()) == Line()


def test_every_recorded_set_loads_for_the_environment_it_names() -> None:
    names = recorded_sets()
    assert names
    for name in names:
        identity = json.loads((find_set(name) / MANIFEST).read_text())["environment"]
        environment = make_environment({"name": identity["name"], **identity["config"]})
        loaded = load_demonstrations(name, environment)
        recorded = loaded.episodes()
        seed = loaded.manifest["recorded"]
        again = loaded.episodes(seed["episodes"], seed["noise"], seed["seed"])
        # The same program on another processor may round differently, which can tip a close decision now and then.
        assert np.mean(np.asarray(again.action) == np.asarray(recorded.action)) > 0.99
        np.testing.assert_allclose(again.observation[:, 0], recorded.observation[:, 0], rtol=1e-6)
        entry = loaded.manifest["plans"][0]
        returns = float(loaded.returns(jax.random.key(5), 2048).mean())
        assert abs(returns - entry["report_return_per_agent"]) < 0.5


def test_fields_of_the_manifest_environment_are_those_of_the_class(tmp_path: Path) -> None:
    manifest = json.loads((write(tmp_path / "set") / MANIFEST).read_text())
    assert manifest["environment"] == {"name": "probes:Line", "config": dataclasses.asdict(Line())}
