"""Demonstration sets that are damaged, altered, or lie: all of them are refused, in a paragraph that names what."""

import contextlib
import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probes import Choice, Line
from safetensors.numpy import load, save
from set_folders import (
    ARRAYS,
    BEST,
    CAPACITY,
    MANIFEST,
    TRANSCRIPT,
    edit_manifest,
    entry,
    put_file,
    put_manifest,
    read_json,
    refuse,
    transcript_of,
    write_line_set,
    write_walk_set,
)
from tiny_run import Walk

from leed_jax.demonstrations import (
    load_demonstrations,
    save_demonstrations,
)
from leed_jax.errors import DemonstrationError

# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ARRAYS, TRANSCRIPT])
def test_a_file_that_is_gone_cut_or_changed_is_named(tmp_path: Path, name: str) -> None:
    folder = write_line_set(tmp_path / "set")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert f"{name} is truncated" in refuse(folder)
    (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert f"{name} is altered" in refuse(folder)
    (folder / name).unlink()
    assert f"{name} cannot be read" in refuse(folder)
    (folder / name).mkdir()
    assert f"{name} cannot be read" in refuse(folder)


@pytest.mark.parametrize("name", [ARRAYS, TRANSCRIPT, MANIFEST])
def test_a_file_of_ten_gigabytes_is_refused_unread(tmp_path: Path, name: str) -> None:
    folder = write_line_set(tmp_path / "set")
    os.truncate(folder / name, 10 * 10**9)
    assert f"{name} has 10,000,000,000 bytes, and at most" in refuse(folder)


@pytest.mark.parametrize("name", [ARRAYS, TRANSCRIPT])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write_line_set(tmp_path / "set")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name} cannot be read, as it is not a file" in refuse(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"format": 99}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": 2, "x": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"format": 2, "x": ' + b"1" * 5000 + b"}",
        b'{"format": "\x1b[2J"}',
        b'{"format": "\\u001b[2J\\ud800"}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_line_set(tmp_path / "set")
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refuse(folder)


def test_a_manifest_that_was_edited_is_named(tmp_path: Path) -> None:
    folder = write_line_set(tmp_path / "set")
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("mark_3", "mark_2"))
    assert f"{MANIFEST} is altered" in refuse(folder)
    (folder / MANIFEST).write_text(json.dumps(json.loads(text)))
    load_demonstrations(str(folder), Line())


# --- what a manifest says ---------------------------------------------------------------------------------------


def test_another_environment_is_told_by_what_differs(tmp_path: Path) -> None:
    folder = write_line_set(tmp_path / "set")
    assert "env.max_steps=8 where the run has 9" in refuse(folder, Line(max_steps=9))
    assert "probes:Choice" in refuse(folder, Choice())
    config = dataclasses.asdict(Line())
    edit_manifest(folder, environment={"name": "probes:Line", "config": {**config, "colour\x1b": "red"}})
    assert "env.colour\\x1b='red' where the run has None" in refuse(folder)


UNREPORTED = {"episode": None, "report_return_per_agent": None, "report_returns": None}


def changed_plan(**changes: Any) -> dict[str, Any]:
    return {"plans": [{**entry(BEST, 0, 14.5), **UNREPORTED, **changes}]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"files": {}}, "files"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 0}, TRANSCRIPT: {"sha256": "", "bytes": 0}}}, "files"),
        ({"files": None}, "files"),
        ({"files": {TRANSCRIPT: {"sha256": "", "bytes": -1}}}, "files"),
        ({"plans": "Walk"}, "plans"),
        ({"plans": [[]]}, "plans"),
        ({"plans": [{}] * 10_001}, "plans"),
        (changed_plan(triples="Walk"), "plans[0].triples"),
        (changed_plan(triples=[["Walk"]]), "plans[0].triples"),
        (changed_plan(triples=[["Walk", 3, "agent_0"]]), "plans[0].triples"),
        (changed_plan(candidate=True), "plans[0].candidate"),
        (changed_plan(round=-1), "plans[0].round"),
        (changed_plan(episode=0), "plans[0].episode"),
        (changed_plan(report_returns=[1.0, "2"]), "plans[0].report_returns"),
        (changed_plan(report_returns=[1.0, 2.0]), "plans[0].report_returns"),
        (changed_plan(report_returns=[1.0], report_return_per_agent=1.0), "plans[0].report_returns"),
        ({"max_instructions": "3"}, "max_instructions"),
        ({"max_instructions": 0}, "max_instructions"),
        ({"max_instructions": 3.0}, "max_instructions"),
        ({"max_instructions": 10**12}, "max_instructions"),
        ({"environment": None}, "environment"),
        ({"environment": {"name": "probes:Line", "config": None}}, "environment"),
        ({"environment": {"name": "probes:Line", "config": {"marks": "${oc.env:HOME}"}}}, "environment"),
        ({"environment": {"name": "probes:Line", "config": {"marks": [[[[[1]]]]]}}}, "environment"),
        ({"kind": "other"}, "kind"),
        ({"kind": "episodes"}, "episode"),
        ({"states_seed": 3}, "states_seed"),
        ({"recorded": None}, "recorded"),
        ({"recorded": {"episodes": 5, "noise": 0.0, "seed": 3}}, "5 episodes"),
        ({"recorded": {"episodes": 0, "noise": 0.0, "seed": 3}}, "recorded"),
        ({"recorded": {"episodes": 8, "noise": 2.0, "seed": 3}}, "recorded"),
        ({"recorded": {"episodes": 8, "noise": 0.0, "noise_from": -1.0, "seed": 3}}, "recorded"),
        ({"usage": {"calls": 1}}, "usage"),
        ({"prompt": "plan_v1"}, "prompt"),
        ({"model": "x" * 10_001}, "model"),
        ({"random_return_per_agent": 1e300}, "random_return_per_agent"),
        ({"rounds": [1]}, "rounds"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = write_line_set(tmp_path / "set")
    edit_manifest(folder, **changes)
    assert named in refuse(folder)


@pytest.mark.parametrize("name", ["kind", "plans", "model", "usage", "files", "states_seed"])
def test_a_manifest_without_an_entry_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_line_set(tmp_path / "set")
    put_manifest(folder, {k: v for k, v in read_json(folder).items() if k != name})
    assert name in refuse(folder)


def test_a_number_that_json_makes_infinite_is_refused(tmp_path: Path) -> None:
    folder = write_line_set(tmp_path / "set")
    manifest = read_json(folder)
    put_manifest(folder, {**manifest, "random_return_per_agent": float("inf")})
    text = (folder / MANIFEST).read_text().replace("Infinity", "1e999")
    (folder / MANIFEST).write_text(text)
    assert "random_return_per_agent is inf" in refuse(folder)


def test_a_plan_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    bad = [("Walk", "mark_9\x07", "agent_0"), BEST[1]]
    plans = [entry(BEST, 0, None), entry(bad, 1, None)]
    save_demonstrations(
        tmp_path / "set", {"max_instructions": CAPACITY, "plans": plans}, Line(), transcript_of(plans), None
    )
    message = refuse(tmp_path / "set")
    assert "plans[1] cannot be executed: " in message
    assert "mark_9\\" in message


def test_plans_that_would_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    folder = write_line_set(tmp_path / "set")
    plan = read_json(folder)["plans"][0]
    edit_manifest(folder, plans=[plan] * 10_000, max_instructions=10_000)
    assert "max_instructions=10000 is too much for 10000 plans" in refuse(folder)


# --- the transcript ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"round": 0}, "round 0, candidate 0"),
        ({"candidate": 3}, "round 1, candidate 3"),
        ({"triples": [list(t) for t in BEST[:2]]}, "round 1, candidate 0"),
        ({"selection_return_per_agent": 14.6}, "round 1, candidate 0"),
        ({"selection_return_per_agent": None}, "round 1, candidate 0"),
    ],
)
def test_a_plan_that_does_not_stand_in_the_transcript_is_refused(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    folder = write_line_set(tmp_path / "set")
    first, second = read_json(folder)["plans"]
    edit_manifest(folder, plans=[{**first, **changes}, second])
    assert f"plans[0] refers to {where}, where transcript.jsonl does not have these triples" in refuse(folder)


def test_a_plan_for_another_initial_state_is_refused(tmp_path: Path) -> None:
    folder = write_walk_set(tmp_path / "set")
    plans = read_json(folder)["plans"]
    edit_manifest(folder, plans=[{**plans[0], "episode": 7}, *plans[1:]])
    assert "round 1, candidate 0, episode 7, where transcript.jsonl does not have" in refuse(folder, Walk())
    edit_manifest(folder, plans=[{**plans[0], "episode": 4}, *plans[1:]])
    assert "episode 4, where transcript.jsonl does not have" in refuse(folder, Walk())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"[" * 100_000, "line 4, cannot be read"),
        (b"[]", "line 4, is not an object"),
        (b"\xff", "line 4, cannot be read"),
        (b'{"round": 1, "return": Infinity}', "line 4, cannot be read"),
    ],
)
def test_a_transcript_that_is_none_is_refused(tmp_path: Path, line: bytes, what: str) -> None:
    folder = write_line_set(tmp_path / "set")
    put_file(folder, TRANSCRIPT, (folder / TRANSCRIPT).read_bytes() + line)
    assert what in refuse(folder)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"round": [1], "candidate": {}}', b'{"round": 1, "plans": [[], 3, null]}']
)
def test_a_line_that_belongs_to_no_kept_plan_may_be_anything(tmp_path: Path, line: bytes) -> None:
    folder = write_line_set(tmp_path / "set")
    put_file(folder, TRANSCRIPT, line + b"\n" + (folder / TRANSCRIPT).read_bytes())
    load_demonstrations(str(folder), Line())


# --- arrays -----------------------------------------------------------------------------------------------------


def edited(**changes: Any) -> Any:
    return lambda arrays: {**arrays, **{name: change(arrays[name].copy()) for name, change in changes.items()}}


def put(*place: Any) -> Any:
    *index, value = place

    def change(array: Any) -> Any:
        array[tuple(index)] = value
        return array

    return change


@pytest.mark.parametrize(
    "change",
    [
        edited(observation=lambda x: x[:, :-1]),
        edited(observation=put(0, 0, 0, 0, np.nan)),
        edited(reward=put(0, 0, 0, np.inf)),
        edited(action=put(0, 0, 0, 99)),
        edited(taken=put(0, 0, 0, -1)),
        edited(action=lambda x: x.astype(np.float32)),
        edited(reward=lambda x: x[:2]),
        edited(active=put(0, 0, 0, False)),
        edited(active=put(0, 3, 0, False)),
        edited(terminated=put(0, 3, 0, True)),
        lambda arrays: {name: array[:0] for name, array in arrays.items()},
        lambda arrays: {name: array for name, array in arrays.items() if name != "taken"},
        lambda arrays: {**arrays, "more": arrays["taken"]},
    ],
)
def test_arrays_of_another_kind_are_refused_although_their_hash_is_right(tmp_path: Path, change: Any) -> None:
    folder = write_line_set(tmp_path / "set")
    put_file(folder, ARRAYS, save(change(load((folder / ARRAYS).read_bytes()))))
    assert ARRAYS in refuse(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        (20).to_bytes(8, "little") + b'{"a": {"dtype": "X"}}',
        (56).to_bytes(8, "little") + b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}} ' + b"\0\0",
        (2**63).to_bytes(8, "little"),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_line_set(tmp_path / "set")
    put_file(folder, ARRAYS, content)
    assert ARRAYS in refuse(folder)


# --- anything at all --------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ("environment", "name"),
    ("environment", "config"),
    ("environment", "config", "marks"),
    ("plans", 0),
    ("plans", 0, "triples"),
    ("plans", 0, "triples", 0, 1),
    ("plans", 1, "report_returns"),
    ("files", TRANSCRIPT),
    ("files", ARRAYS, "bytes"),
    ("recorded", "seed"),
]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), value=JSON)
def test_whatever_a_manifest_says_it_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        write_line_set(folder)
        (folder / "original").write_bytes((folder / MANIFEST).read_bytes())
    manifest = json.loads((folder / "original").read_text())
    path = data.draw(st.sampled_from([*PATHS, *((name,) for name in manifest)]))
    changed = copy.deepcopy(manifest)
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    put_manifest(folder, changed)
    with contextlib.suppress(DemonstrationError):
        load_demonstrations(str(folder), Line())
