"""Stand-ins for a language model: random valid plans, and plans that a person has written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Triple, Vocabulary, decompile, random_plan
from leed_jax.llm import ChatRequest, Reply, Usage

RANDOM_NAME = "random-instructions"
WRITTEN_NAME = "written-instructions"
_IDEA = "None: these are random valid instructions."
_MAX_BYTES = 1_000_000


class RandomModel:
    """A `ChatModel` that draws valid plans at random, as the control does (`random_plan`).

    A set recorded with it holds the best of as many random plans, of the same lengths and with the same selection, so
    that training can start from the control. A draw depends only on this model's seed, the request's seed and the
    initial state, so that it is the same on every machine. The form of the answer is read from the request's schema.

    Args:
        vocabulary: the environment's words.
        seed: seed of all draws.
    """

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self._vocabulary, self._seed = vocabulary, seed

    @property
    def identity(self) -> str:
        """The seed and a hash of the vocabulary."""
        vocabulary = self._vocabulary
        words = [list(vocabulary.command_index), list(vocabulary.parameter_index), list(vocabulary.agents)]
        digest = hashlib.sha256(json.dumps(words).encode() + vocabulary.allowed.tobytes()).hexdigest()
        return f"{RANDOM_NAME} seed={self._seed} words={digest[:16]}"

    async def complete(self, request: ChatRequest) -> Reply:
        """Draw the plans that are asked for.

        Args:
            request: a request with a seed and a schema of `leed_jax.generation.prompts`.

        Raises:
            ConfigurationError: it asks for something else.
        """
        try:
            answer = self._answer(request)
        except (LookupError, TypeError):
            raise ConfigurationError(
                "llm=random answers requests for plans alone, and this one has no seed, or no schema of a plan."
            ) from None
        return Reply(json.dumps(answer), Usage(), "stop", RANDOM_NAME)

    def _answer(self, request: ChatRequest) -> Mapping[str, Any]:
        if request.response_schema is None or request.seed is None:
            raise LookupError("schema or seed")
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), 0x5A3D), request.seed)
        properties = request.response_schema["properties"]
        if "episodes" not in properties:
            return {"idea": _IDEA, "instructions": self._triples(properties["instructions"], key)}
        entry = properties["episodes"]["items"]["properties"]
        names = entry["episode"]["enum"]
        plans = [self._triples(entry["instructions"], key) for key in jax.random.split(key, len(names))]
        return {
            "episodes": [
                {"episode": name, "facts": "", "instructions": plan} for name, plan in zip(names, plans, strict=True)
            ]
        }

    def _triples(self, schema: Mapping[str, Any], key: PRNGKeyArray) -> list[Triple]:
        """A plan within the schema's length; `key` is consumed."""
        longest = schema["maxItems"] // len(self._vocabulary.agents)
        return decompile(self._vocabulary, random_plan(self._vocabulary, key, longest))


class WrittenModel:
    """A `ChatModel` that answers every request with the content of a file.

    The file holds what a model would answer: JSON with a list of `[command, parameter, agent]` under `instructions`,
    or with kind=episodes a list under `episodes` of objects with `episode` ("e0", "e1", ...) and `instructions`. The
    agent may be `all_agents`. Other keys, such as `idea`, are ignored. docs/written_plans.md has examples.

    Args:
        path: the file.

    Raises:
        ConfigurationError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        try:
            with Path(path).expanduser().open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
            self._text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"llm.path={path} cannot be read as UTF-8 text: {error}") from None
        if len(content) > _MAX_BYTES:
            raise ConfigurationError(f"llm.path={path} is larger than {_MAX_BYTES:,} bytes, too large for plans.")

    @property
    def identity(self) -> str:
        """A hash of the content."""
        return f"{WRITTEN_NAME} {hashlib.sha256(self._text.encode()).hexdigest()[:16]}"

    async def complete(self, request: ChatRequest) -> Reply:
        """The content of the file, whatever the request."""
        del request
        return Reply(self._text, Usage(), "stop", WRITTEN_NAME)
