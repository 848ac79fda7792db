"""Text to instructions: what is read, and what is said of the rest."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Line
from texts import LISTS, REPLIES, TWO, WORDS

from leed_jax.errors import (
    EnvironmentContractError,
    InstructionError,
    ParameterNotAllowedError,
    PlanShapeError,
    UnknownAgentError,
    UnknownCommandError,
    UnknownParameterError,
    UnreadableReplyError,
)
from leed_jax.instructions import (
    Command,
    Instruction,
    Parameter,
    Triple,
    Vocabulary,
    compile_plan,
    compile_triples,
    parse_reply,
    printable,
    validate,
)

READABLE = {
    "a list": json.dumps(LISTS),
    "an object": json.dumps({"thoughts": "[so, be, it]", "instructions": LISTS}),
    "a list of objects": json.dumps([dict(zip(("command", "parameter", "agent"), t, strict=True)) for t in TWO]),
    "a fence": f"Here you are:\n```json\n{json.dumps(LISTS)}\n```\nGood luck!",
    "a nameless fence": f"```\n{json.dumps({'instructions': LISTS}, indent=2)}\n```",
    "a second fence": f"```python\nprint()\n```\n```json\n{json.dumps(LISTS)}\n```",
    "prose around a list": f"I would say {json.dumps(LISTS)}. Is that right?",
    "prose around an object": f"My plan [draft] is {json.dumps({'instructions': LISTS})}, as agreed.",
    "plain lines": "\n".join(f"{i}. [{', '.join(t)}]" for i, t in enumerate(TWO)),
    "plain without blanks": "".join(f"[{','.join(t)}]" for t in TWO),
    "plain with quotes": "\n".join("['" + "', \"".join(t[:2]) + f'", `{t[2]}` ]' for t in TWO),
    "plain inside a JSON object": json.dumps({"instructions": "\n".join(f"[{', '.join(t)}]" for t in TWO)}),
    "the same plan twice": f"```\n{json.dumps(LISTS)}\n```\nor\n```json\n{json.dumps({'instructions': LISTS})}\n```",
    "plain lines under a heading": "**Here is my plan:**\n\n" + "\n".join(f"- [{', '.join(t)}]" for t in TWO),
    "plain lines in a fence": "Good luck!\n```\n" + "\n".join(f"* [{', '.join(t)}];" for t in TWO) + "\n```",
    "a list in other quotation marks": str(LISTS),
    "other objects beside it": '{"mood": "good"}\n' + json.dumps({"instructions": LISTS}),
}


def test_what_is_no_triple_beside_triples_counts_as_a_wrong_one() -> None:
    triples = parse_reply(json.dumps([1, *LISTS, None, "and so on"]))
    assert triples == [("1", "", ""), *TWO, ("null", "", ""), ("and so on", "", "")]
    assert validate(WORDS, triples).validity == pytest.approx(2 / 5)


@pytest.mark.parametrize("form", READABLE)
def test_triples_are_found_in(form: str) -> None:
    assert parse_reply(READABLE[form]) == TWO


def test_the_papers_notation_is_read() -> None:
    assert parse_reply("[MoveTo, Intersection_5, Agent_3]") == [("MoveTo", "Intersection_5", "Agent_3")]


def test_one_triple_alone_is_a_plan_of_one() -> None:
    assert parse_reply('["MoveTo", "landmark_0", "agent_0"]') == TWO[:1]


def test_three_plain_triples_in_a_list_are_three() -> None:
    reply = json.dumps([f"[{', '.join(t)}]" for t in (*TWO, TWO[0])])
    assert parse_reply(reply) == [*TWO, TWO[0]]


UNREADABLE = {
    "nothing": "",
    "prose": "I am sorry, I cannot do that.",
    "an empty list": "[]",
    "an empty plan": '{"instructions": []}',
    "a plan that is no list": '{"instructions": {"agent_0": "MoveTo landmark_0"}}',
    "a plan that is a number": '{"instructions": 3}',
    "numbers": "[1, 2]",
    "not a number": "NaN",
    "too deep, and closed": "[" * 50_000 + "]" * 50_000,
    "two words": "[MoveTo, landmark_0]",
    "four words": "[MoveTo, landmark_0, agent_0, agent_1]",
    "an empty word": "[MoveTo, , agent_0]",
    "a very long word": f"[MoveTo, {'x' * 81}, agent_0]",
    "a word over two lines": "[MoveTo, land\nmark_0, agent_0]",
    "a number that is too long": "9" * 10_000,
}


TRIPLE = f"[{', '.join(TWO[0])}]"
UNREADABLE |= {
    "a refusal": f"Do not write {TRIPLE}; I refuse.",
    "a refusal as a heading": f"Never do this:\n{TRIPLE}",
    "an example": f"I would write something like {TRIPLE}.",
    "an example in JSON": f"I would write something like {json.dumps(TWO[0])}.",
    "an example beside an empty plan": json.dumps({"thoughts": TRIPLE, "instructions": []}),
    "a plan that is struck out": f"~~{TRIPLE}~~",
    "a question": f"{TRIPLE}?",
    "too long a heading": f"{'Here is my plan. ' * 2}{TRIPLE}",
    "damaged JSON around triples": '{"instructions": [["MoveTo", "landmark_0", "agent_0"]; ["Hold"]]}',
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_no_triple_is_found_in(form: str) -> None:
    with pytest.raises(UnreadableReplyError, match=r"holds no instruction; write a JSON list of \[Command, Parameter"):
        parse_reply(UNREADABLE[form])


PLAN = json.dumps({"idea": "go [there]", "instructions": LISTS})
CUT_OFF = {
    "in a triple": PLAN[:-8],
    "behind a triple": PLAN[:-2],
    "behind the last bracket but one": PLAN[:-1],
    "a list": json.dumps(LISTS)[:-1],
    "a list behind its first triple": json.dumps(LISTS)[: json.dumps(LISTS).index("]") + 2],
    "in a fence": f"```json\n{PLAN[:-2]}\n```",
    "in a fence that is open": f"Here you are:\n```json\n{PLAN[:-2]}",
    "in a word": PLAN[: PLAN.index("agent_0") + 3],
    "in the second of two": f"{PLAN}\nOr rather {PLAN[:-10]}",
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("form", CUT_OFF)
def test_json_that_is_cut_off_is_no_plan(form: str) -> None:
    with pytest.raises(UnreadableReplyError, match="its JSON is cut off before the end; write a shorter one"):
        parse_reply(CUT_OFF[form])


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(1, len(PLAN) - 1), st.sampled_from(["{}", "Sure! {}", "```json\n{}\n```", "```json\n{}"]))
def test_no_part_of_a_plan_is_taken_for_the_plan(length: int, around: str) -> None:
    with pytest.raises(UnreadableReplyError):
        parse_reply(around.format(PLAN[:length]))


@pytest.mark.parametrize("form", ["```json\n{}\n```\nOr rather:\n```json\n{}\n```", "{}\n{}", "I think {}, or {}."])
def test_of_two_plans_none_is_chosen(form: str) -> None:
    assert parse_reply(form.format(PLAN, json.dumps(LISTS))) == TWO
    with pytest.raises(PlanShapeError, match="holds 2 plans that differ; write one"):
        parse_reply(form.format(PLAN, json.dumps([LISTS[0], LISTS[0]])))


def test_a_huge_reply_is_not_read() -> None:
    with pytest.raises(UnreadableReplyError, match="has 200001 characters; at most 200000 are read"):
        parse_reply("x" * 200_001)
    assert parse_reply(" " * 150_000 + READABLE["a list"]) == TWO


@pytest.mark.parametrize(
    "text",
    [
        *("[a," + " " * 199_000, "[" + " " * 199_000, "[a" * 99_000, "[a,b" * 49_000, "```a\n" * 30_000),
        *('["' * 99_000, '{"' * 99_000, '["a" b] ' * 20_000, '[["a"] ' * 20_000, '[["a"' + '\\"' * 90_000),
    ],
)
def test_reading_takes_no_longer_than_the_text_is_long(text: str) -> None:
    start = time.process_time()
    with pytest.raises(UnreadableReplyError):
        parse_reply(text)
    # A search that starts over at every blank takes minutes.
    assert time.process_time() - start < 5


def test_words_nested_to_any_depth_are_told_or_left_out() -> None:
    for depth in range(900, 1000):
        deep = "[" * depth + "]" * depth
        try:
            triples = parse_reply(f'[["MoveTo", {deep}, "agent_0"]]')
        except UnreadableReplyError:
            continue
        assert triples == [("MoveTo", deep[:80], "agent_0")]


ODD_WORDS = {
    '[["MoveTo", NaN, "agent_0"]]': ("MoveTo", "NaN", "agent_0"),
    '[["MoveTo", 1e999, "agent_0"]]': ("MoveTo", "Infinity", "agent_0"),
    '[["MoveTo", 3, null]]': ("MoveTo", "3", "null"),
    '[{"command": "MoveTo", "agent": ["agent_0"]}]': ("MoveTo", "null", '["agent_0"]'),
    '[["MoveTo", "landmark_0"]]': ("MoveTo", "landmark_0", ""),
    "[[]]": ("", "", ""),
    '[["MoveTo", "landmark_0", "agent_0", "agent_1"]]': ("MoveTo", "landmark_0", "agent_0, agent_1"),
}


@pytest.mark.parametrize("reply", ODD_WORDS)
def test_a_triple_that_is_none_is_left_to_validation(reply: str) -> None:
    triples = parse_reply(reply)
    assert triples == [ODD_WORDS[reply]]
    outcome = validate(WORDS, triples)
    assert (len(outcome.instructions), len(outcome.errors), outcome.validity) == (0, 1, 0.0)


INVALID = [
    (("Fly", "landmark_0", "agent_0"), UnknownCommandError, ['no command "Fly"', "MoveTo, Hold, KeepAway"]),
    (("MoveTo", "landmark_0", "agent_9"), UnknownAgentError, ['no agent "agent_9"', "agent_0, agent_1, agent_2"]),
    (
        ("MoveTo", "moon", "agent_0"),
        UnknownParameterError,
        ['no parameter "moon"', "MoveTo of agent_0", "landmark_2, nea"],
    ),
    (
        ("Hold", "origin", "agent_1"),
        ParameterNotAllowedError,
        ["origin is not valid", "until_end, until_clear, until_s"],
    ),
    (
        ("KeepAway", "agent_2", "agent_2"),
        ParameterNotAllowedError,
        ["KeepAway of agent_2 takes", "agent_0, agent_1, n"],
    ),
    (("moveto", "landmark_0", "agent_0"), UnknownCommandError, ['no command "moveto"']),
]


@pytest.mark.parametrize(("triple", "kind", "said"), INVALID)
def test_an_invalid_triple_is_told_with_what_would_be_valid(
    triple: Triple, kind: type[InstructionError], said: list[str]
) -> None:
    outcome = validate(WORDS, [*TWO, triple])
    assert len(outcome.instructions) == 2
    assert outcome.validity == pytest.approx(2 / 3)
    (error,) = outcome.errors
    assert type(error) is kind
    assert str(error).startswith(f"{json.dumps(triple)}: ")
    for part in said:
        assert part in str(error)
    with pytest.raises(kind, match=triple[0]):
        compile_triples(WORDS, [*TWO, triple], 4)


MANY = tuple(f"place_{i}" for i in range(200))
CITY = Vocabulary(
    (Command("Go", "Go there.", MANY),),
    tuple(Parameter(name, "A place.") for name in MANY),
    tuple(f"a{i}" for i in MANY),
)


def test_thousands_of_wrong_words_take_no_long_time() -> None:
    wrong = [["Go", f"plaice_{i % 4000}", f"a{i}"] for i in range(6200)]
    reply = json.dumps(wrong)
    assert 190_000 < len(reply) <= 200_000
    start = time.process_time()
    outcome = validate(CITY, parse_reply(reply))
    # One search takes 3 ms, and there would be 12,000.
    assert time.process_time() - start < 3
    assert (len(outcome.errors), outcome.validity) == (6200, 0.0)


def test_the_first_wrong_words_are_told_with_the_most_similar_names() -> None:
    words = [f"plase_{i}" for i in range(150, 180)]
    errors = validate(CITY, [("Go", word, CITY.agents[0]) for word in (*words, *words)]).errors
    assert [f"takes one of: place_{i}, " in str(error) for i, error in zip(range(150, 170), errors, strict=False)] == [
        True
    ] * 20
    assert all("takes one of: place_0, place_1, " in str(error) for error in errors[20:30])
    assert all(str(error).endswith(" and 180 others.") for error in errors)
    assert list(map(str, errors[:30])) == list(map(str, errors[30:]))


def test_nothing_at_all_has_no_validity() -> None:
    assert validate(WORDS, []).validity == 0.0


def test_control_characters_are_escaped() -> None:
    word = "\x1b[31m\u202e\r\nred\x00\ud800é"
    assert printable(word) == r"\x1b[31m\u202e\r\nred\x00\ud800é"
    (error,) = validate(WORDS, [(word, "a\tb", "\x07")]).errors
    assert str(error).isprintable()
    assert r'["\x1b[31m\u202e\r\nred\x00\ud800é", "a\tb", "\x07"]' in str(error)


def test_long_words_are_cut() -> None:
    assert printable("x" * 60) == "x" * 60
    assert printable("x" * 61) == "x" * 60 + "..."
    (error,) = validate(WORDS, [("x" * 100_000, "y" * 100_000, "z")]).errors
    assert len(str(error)) < 400


def test_an_agent_without_instructions_is_named() -> None:
    with pytest.raises(PlanShapeError, match="No executable instruction for agent_1, agent_2;"):
        compile_plan(WORDS, [Instruction(0, 0, 0)], 2)
    with pytest.raises(PlanShapeError, match="agent_2; every agent needs"):
        compile_triples(WORDS, TWO, 2)


def test_an_agent_with_too_many_instructions_is_named() -> None:
    each = [Instruction(0, 0, agent) for agent in range(3)]
    compile_plan(WORDS, each * 2, 2)
    with pytest.raises(PlanShapeError, match="More than 2 instructions for agent_1;"):
        compile_plan(WORDS, [*each, each[1], each[1]], 2)


def test_the_words_are_numbered_in_order() -> None:
    vocabulary = Line().vocabulary
    assert vocabulary.command_index == {"Walk": 0, "Stay": 1}
    assert vocabulary.agent_index == {"agent_0": 0, "agent_1": 1}
    assert list(vocabulary.parameter_index.values()) == list(range(6))
    assert vocabulary.allowed_parameters("Walk", "agent_1") == ("mark_0", "mark_1", "mark_2", "mark_3")
    with pytest.raises(KeyError):
        vocabulary.allowed_parameters("Fly", "agent_0")


def test_the_mask_says_what_validation_says() -> None:
    for vocabulary in (WORDS, Line().vocabulary):
        for a, agent in enumerate(vocabulary.agents):
            for c, command in enumerate(vocabulary.commands):
                for p, parameter in enumerate(vocabulary.parameters):
                    valid = validate(vocabulary, [(command.name, parameter.name, agent)]).instructions
                    assert valid == ((Instruction(c, p, a),) if vocabulary.allowed[a, c, p] else ())


# --- any text at all --------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(REPLIES)
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        triples = parse_reply(text)
    except (UnreadableReplyError, PlanShapeError):
        return
    assert triples
    assert all(len(triple) == 3 and all(isinstance(word, str) for word in triple) for triple in triples)
    outcome = validate(WORDS, triples)
    assert len(outcome.instructions) + len(outcome.errors) == len(triples)
    assert all(str(error).isprintable() for error in outcome.errors)
    for instruction in outcome.instructions:
        assert WORDS.allowed[instruction.agent, instruction.command, instruction.parameter]


STAY = Command("Stay", "Stand still.", ("here",))
HERE = Parameter("here", "This place.")


@pytest.mark.parametrize(
    ("commands", "parameters", "agents", "told"),
    [
        ((STAY, STAY), (HERE,), ("agent_0",), "more than one command of the name Stay"),
        ((STAY,), (HERE, HERE), ("agent_0",), "more than one parameter of the name here"),
        ((STAY,), (HERE,), ("agent_0", "agent_0"), "more than one agent of the name agent_0"),
        ((Command("Go", "Go.", ("there",)),), (HERE,), ("agent_0",), "Go takes there"),
        ((STAY,), (Parameter("here", "Here.", frozenset({"b"})),), ("a", "b"), "no valid instruction for b"),
        ((), (), ("a",), "no valid instruction for a"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(commands, parameters, agents, told) -> None:
    with pytest.raises(EnvironmentContractError, match=told):
        Vocabulary(commands, parameters, agents)
