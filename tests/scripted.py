"""A model that answers by script, and settings for tiny generations."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from leed_jax.config import GenerationConfig
from leed_jax.llm import ChatRequest, Reply, Usage

FAR = [["Walk", "mark_3", "agent_0"], ["Walk", "mark_3", "agent_1"]]
NEAR = [["Walk", "mark_1", "agent_0"], ["Walk", "mark_1", "agent_1"]]
HALF = [["Walk", "mark_2", "agent_0"], ["Fly", "mark_2", "agent_0"], ["Walk", "mark_2", "agent_1"]]
UNEQUAL = [["Walk", "mark_4", "agent_0"], ["Walk", "mark_1", "agent_1"]]
# Walking to mark n from mark 0 earns 1 + 2 + ... + n and then n for the rest of the eight steps.
RETURN = {1: 8.0, 2: 15.0, 3: 21.0, 4: 26.0}

SMALL = GenerationConfig(
    rounds=2,
    candidates=2,
    max_instructions=2,
    selection_episodes=3,
    report_episodes=4,
    recorded_episodes=5,
    control_plans=50,
    episodes=4,
    episodes_per_prompt=2,
)


@dataclasses.dataclass
class Scripted:
    """Answers by script, in turn or as a function of the request; the last entry repeats."""

    script: Sequence[str | Exception | Callable[[ChatRequest], str]]
    finish_reason: str = "stop"
    asked: list[ChatRequest] = dataclasses.field(default_factory=list)
    identity: str = "scripted"

    async def complete(self, request: ChatRequest) -> Reply:
        self.asked.append(request)
        entry = self.script[min(len(self.asked), len(self.script)) - 1]
        if isinstance(entry, Exception):
            raise entry
        return Reply(entry if isinstance(entry, str) else entry(request), Usage(10, 5), self.finish_reason, "scripted")


def text(triples: Any) -> str:
    """A good answer with one plan."""
    return json.dumps({"idea": "go", "instructions": triples})
