"""Prompts: built from what the environment declares, from versioned files, safe with any names."""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Choice, Line, MeasuredLine, Named
from scripted import SMALL, Scripted

from leed_jax.config import LLMConfig
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import ConfigurationError
from leed_jax.generation import Generation, generate
from leed_jax.generation.prompts import (
    NEWEST,
    SECTIONS,
    Template,
    episodes_schema,
    head_messages,
    load_template,
    packaged_names,
    reply_schema,
    request_message,
)
from leed_jax.instructions import PrimitiveInstructions, parse_reply, validate, written

TEMPLATES = {
    "plan_v1": "relational",
    "plan_v2": "relational",
    "plan_teams_v1": "relational",
    "episodes_v1": "episodes",
}


def whole_prompt(template: Template, environment: Any) -> str:
    messages = [
        *head_messages(template, environment, 3),
        request_message(template, environment.vocabulary.agents, 3, ["- It was so."], ["They learn."], {"e0": "Here."}),
    ]
    return "\n".join(message.content for message in messages)


def test_every_packaged_template_is_tested_here() -> None:
    assert set(packaged_names()) == set(TEMPLATES)
    assert set(NEWEST.values()) <= set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("environment", [Line(), SimpleSpread(4), PrimitiveInstructions(Choice())])
def test_the_prompt_is_built_from_the_environment_and_holds_no_plan_for_it(name: str, environment: Any) -> None:
    words = environment.vocabulary
    content = whole_prompt(load_template(name, TEMPLATES[name]), environment)
    assert environment.describe() in content
    for word in (*words.command_index, *words.parameter_index, *words.agents):
        assert word in content
    if name != "plan_v1":
        for number in (environment.num_agents, environment.max_steps, environment.observation_size):
            assert str(number) in content
        assert f"one of {environment.num_actions} primitive actions" in content
    assert not any(f'["{command}", "{p}"' in content for command in words.command_index for p in words.parameter_index)
    assert "- It was so." in content
    assert "- They learn." in content
    assert "{description}" not in content
    if TEMPLATES[name] == "episodes":
        assert "## Episode e0\n\nHere." in content


def test_the_example_in_a_template_has_the_form_that_the_schema_asks_for() -> None:
    words = SimpleSpread().vocabulary
    for name, schema in (
        ("plan_v2", reply_schema(words, 3)),
        ("episodes_v1", episodes_schema(words, 3, ["e70"])),
    ):
        task = load_template(name, TEMPLATES[name]).sections["task"]
        example = json.loads(task[task.index('\n{"') : task.rindex("}") + 1])
        relaxed = json.loads(json.dumps(schema).replace('"minItems": 3, "maxItems": 9', '"minItems": 1'))
        jsonschema.validate(example, relaxed)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"plan": []}, relaxed)


def test_a_template_is_known_by_its_hash() -> None:
    template = load_template("", "relational")
    file = resources.files("leed_jax.generation").joinpath("templates/plan_v2.md")
    assert (template.name, template.sha256) == ("plan_v2", hashlib.sha256(file.read_bytes()).hexdigest())
    assert tuple(template.sections) == SECTIONS
    assert load_template("plan_v2", "relational") == template
    assert load_template("plan_v1", "relational").sections["request"] == template.sections["request"]


# --- files of one's own -------------------------------------------------------------------------------------------

OWN = "Do {description} with {agents}, {commands} and {parameters}. Write {idea: 1}, {}, {0.__class__} and {unknown}."


def test_a_file_can_be_the_task_alone_and_only_placeholders_in_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.md"
    path.write_text(OWN)
    template = load_template(str(path), "relational")
    assert template.name == "own.md"
    _, task = head_messages(template, Line(), 3)
    assert task.content.startswith("Do A line. with agent_0, agent_1, - Walk")
    assert task.content.endswith("Write {idea: 1}, {}, {0.__class__} and {unknown}.")


def test_a_file_can_replace_some_sections(tmp_path: Path) -> None:
    path = tmp_path / "own.md"
    path.write_bytes(b"<!-- request -->\r\nNow write for {agents}!\r\n<!-- system -->\r\nYou are brief.\r\n")
    template = load_template(str(path), "relational")
    assert request_message(template, ["a", "b"], 1).content == "Now write for a, b!"
    assert head_messages(template, Line(), 1)[0].content == "You are brief."
    assert template.sections["task"] == load_template("", "relational").sections["task"]


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"Just do it.", "relational", r"the section task lacks the placeholder \{description\}"),
        (b"<!-- feedback -->\nWell.", "relational", r"the section feedback lacks the placeholder \{feedback\}"),
        (b"<!-- request -->\nGo on.", "episodes", r"the section request lacks the placeholder \{states\}"),
        (b"<!-- wishes -->\nGo on.", "relational", "has a section wishes; the sections are system, task"),
        (b"\xff\xfe\x00", "relational", "cannot be read as UTF-8"),
        (b"x" * 100_001, "relational", "more than 100000 bytes"),
    ],
)
def test_a_file_that_cannot_work_is_told(tmp_path: Path, content: bytes, kind: str, told: str) -> None:
    path = tmp_path / "own.md"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        load_template(str(path), kind)


@pytest.mark.parametrize("choice", ["plan_v9", "/nowhere/own.md", "~nobody/own.md", "a\0b", "x" * 5000, "."])
def test_no_such_template_is_told_with_those_that_there_are(choice: str) -> None:
    with pytest.raises(ConfigurationError, match=r"generate\.prompt="):
        load_template(choice, "relational")


def test_a_template_of_the_other_kind_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"not for generate\.kind=episodes; use episodes_v1"):
        load_template("plan_v2", "episodes")


# --- names --------------------------------------------------------------------------------------------------------


def test_any_name_survives_the_way_into_the_prompt_and_back() -> None:
    environment = Named()
    words = environment.vocabulary
    triples = [(words.commands[0].name, words.parameters[1].name, agent) for agent in words.agents]
    reply = json.dumps({"idea": "{agents}", "instructions": [[words.commands[0].name, "x", words.agents[0]], *triples]})
    model = Scripted([reply])
    outcome = asyncio.run(generate(Generation(environment, model, LLMConfig(model="m"), SMALL, 0)))
    assert outcome.kept[0].candidate.triples == tuple(triples)
    for request in model.asked:
        assert json.loads(json.dumps(request.to_dict())) == request.to_dict()
        content = "\n".join(message.content for message in request.messages)
        assert content.replace("\n", "").isprintable()
        for name in (*words.command_index, *words.agents):
            assert json.dumps(name) in content
    # The second candidate may write two instructions for each agent.
    jsonschema.validate(json.loads(reply), dict(model.asked[1].response_schema or {}))
    # What the environment says of a command is not filled in again.
    assert "{form}" in model.asked[0].messages[1].content


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(min_size=1, max_size=20))
def test_a_name_is_written_as_itself_or_as_json(name: str) -> None:
    shown = written(name)
    assert shown.isprintable()
    assert shown == name or json.loads(shown) == name


def test_long_names_fit_into_the_schema() -> None:
    @dataclasses.dataclass(frozen=True)
    class Long(Line):
        @property
        def vocabulary(self) -> Any:
            plain = super().vocabulary
            return dataclasses.replace(plain, agents=tuple(f"{name}{'x' * 200}" for name in plain.agents))

    words = Long().vocabulary
    reply = {"idea": "", "instructions": [["Stay", "forever", agent] for agent in words.agents]}
    jsonschema.validate(reply, reply_schema(words, 1))
    assert len(validate(words, parse_reply(json.dumps(reply))).instructions) == 2


def test_of_very_many_alternatives_the_nearest_are_told() -> None:
    words = MeasuredLine(marks=300).vocabulary
    (error,) = validate(words, [("Walk", "mark_1234", "agent_0")]).errors
    assert "mark_123," in str(error)
    assert "and 280 others" in str(error)
    assert len(str(error)) < 500


def test_a_constrained_schema_takes_what_is_executable_and_nothing_else() -> None:
    words = SimpleSpread().vocabulary
    schema = reply_schema(words, 2, constrained=True)

    def reply(*triples: Sequence[str]) -> dict[str, Any]:
        return {"idea": "go", "instructions": [*triples, *([["Hold", "until_end", "agent_0"]] * (3 - len(triples)))]}

    fits = jsonschema.Draft202012Validator(schema).is_valid
    for agent, command, parameter in np.argwhere(words.allowed):
        triple = [words.commands[command].name, words.parameters[parameter].name, words.agents[agent]]
        assert fits(reply(triple))
    for triple in (
        ["Open", "origin", "agent_0"],
        ["Hold", "origin", "agent_0"],
        ["MoveTo", "until_end", "agent_0"],
        ["MoveTo", "origin", "agent_3"],
        ["MoveTo", "origin"],
        ["MoveTo", "origin", "agent_0", "agent_0"],
    ):
        assert not fits(reply(triple))


def test_the_words_are_free_unless_constrained() -> None:
    words = SimpleSpread().vocabulary
    reply = {"idea": "go", "instructions": [["Open", "valve_2", "robot_1"]] * 3}
    assert jsonschema.Draft202012Validator(reply_schema(words, 2)).is_valid(reply)
    episodes = {"episodes": [{"episode": "e0", "facts": "none", "instructions": reply["instructions"]}]}
    assert jsonschema.Draft202012Validator(episodes_schema(words, 2, ["e0"])).is_valid(episodes)
    assert not jsonschema.Draft202012Validator(episodes_schema(words, 2, ["e0"], constrained=True)).is_valid(episodes)
