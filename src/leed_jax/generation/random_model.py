"""A model without any knowledge: random valid instructions in the place of a language model's.

It is the control that can be learnt from. It goes through the same loop as any model, so that what is recorded is the
best of as many random valid plans, with the same lengths and the same selection.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Triple, Vocabulary, decompile, random_plan
from leed_jax.llm import ChatRequest, Reply, Usage

NAME = "random-instructions"
_IDEA = "None: these are random valid instructions."


class RandomModel:
    """A `ChatModel` that draws its answers, and asks nobody.

    It reads nothing of a request but what form of answer is wanted: the schema tells for which initial states, and how
    many instructions there may be. Each plan is drawn as those of the control are (`random_plan`). A draw depends on
    this model's seed, the request's own seed and the initial state alone, and on no figure in a prompt, so that it is
    the same on every machine.

    Args:
        vocabulary: the environment's words.
        seed: seed of all draws.
    """

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self._vocabulary, self._seed = vocabulary, seed

    @property
    def identity(self) -> str:
        """The seed, and the words that are drawn from."""
        vocabulary = self._vocabulary
        words = [list(vocabulary.command_index), list(vocabulary.parameter_index), list(vocabulary.agents)]
        told = hashlib.sha256(json.dumps(words).encode() + vocabulary.allowed.tobytes()).hexdigest()
        return f"{NAME} seed={self._seed} words={told[:16]}"

    async def complete(self, request: ChatRequest) -> Reply:
        """Draw the plans that are asked for.

        Args:
            request: what to answer; it needs a seed and a schema of `leed_jax.generation.prompt`.

        Raises:
            ConfigurationError: it asks for something other than plans.
        """
        try:
            answer = self._answer(request)
        except (LookupError, TypeError):
            raise ConfigurationError(
                "llm=random answers requests for plans alone, and this one has no seed, or no schema of a plan."
            ) from None
        return Reply(json.dumps(answer), Usage(), "stop", NAME)

    def _answer(self, request: ChatRequest) -> Mapping[str, Any]:
        if request.response_schema is None or request.seed is None:
            raise LookupError("schema or seed")
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), 0x5A3D), request.seed)
        wanted = request.response_schema["properties"]
        if "episodes" not in wanted:
            return {"idea": _IDEA, "instructions": self._triples(wanted["instructions"], key)}
        entry = wanted["episodes"]["items"]["properties"]
        names = entry["episode"]["enum"]
        keys = jax.random.split(key, len(names))
        plans = [self._triples(entry["instructions"], key) for key in keys]
        return {
            "episodes": [
                {"episode": name, "facts": "", "instructions": plan} for name, plan in zip(names, plans, strict=True)
            ]
        }

    def _triples(self, schema: Mapping[str, Any], key: PRNGKeyArray) -> list[Triple]:
        """A plan of as many instructions as there may be; `key` is consumed."""
        longest = schema["maxItems"] // len(self._vocabulary.agents)
        return decompile(self._vocabulary, random_plan(self._vocabulary, key, longest))
