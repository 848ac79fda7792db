"""Texts of all sorts that a model may reply with."""

import json

from hypothesis import strategies as st

from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.instructions import Vocabulary

WORDS = SimpleSpread().vocabulary
TWO = [("MoveTo", "landmark_0", "agent_0"), ("Hold", "until_end", "agent_1")]
LISTS = [list(triple) for triple in TWO]


def names(vocabulary: Vocabulary) -> list[str]:
    return [c.name for c in vocabulary.commands] + [p.name for p in vocabulary.parameters] + list(vocabulary.agents)


PIECES = ["```", "```json\n", "NaN", "1e999", "-0", "null", "true", "\\u0000", "\ud800", "\x1b[2J", '{"instructions":']
FRAGMENTS = st.sampled_from([*"[]{},:\"'`\n\\ ", *PIECES, "command", "parameter", "agent", *names(WORDS)])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(names(WORDS)),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["instructions", "command", "agent"]), inner)
    ),
    max_leaves=25,
)
REPLIES = st.text() | st.lists(FRAGMENTS | st.text(max_size=3), max_size=40).map("".join) | JSON.map(json.dumps)
