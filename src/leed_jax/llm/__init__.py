"""Language models: asking them, within limits, and keeping every reply.

    ChatModel        the protocol that the rest of the library asks
     +-- ChatClient     one model behind the HTTP API of a Provider: OpenAI (and compatible ones) or Anthropic
     +-- LocalModel     a GGUF file, served inside this process
     +-- Replay         recorded replies; sends nothing
     +-- Journalled     another ChatModel, with a Journal of the replies so far

What a model writes is data: it is parsed elsewhere, and never evaluated.
"""

from leed_jax.llm.anthropic import Anthropic
from leed_jax.llm.client import ChatClient
from leed_jax.llm.journal import Journal, Journalled, resumed_meter
from leed_jax.llm.limits import Limits, Meter, Spending
from leed_jax.llm.local import LocalModel
from leed_jax.llm.messages import ChatModel, ChatRequest, Message, Reply, Usage, complete_all, request_key
from leed_jax.llm.openai import OpenAI
from leed_jax.llm.provider import Provider
from leed_jax.llm.replay import Replay
from leed_jax.llm.retry import RetryPolicy

__all__ = [
    "Anthropic",
    "ChatClient",
    "ChatModel",
    "ChatRequest",
    "Journal",
    "Journalled",
    "Limits",
    "LocalModel",
    "Message",
    "Meter",
    "OpenAI",
    "Provider",
    "Replay",
    "Reply",
    "RetryPolicy",
    "Spending",
    "Usage",
    "complete_all",
    "request_key",
    "resumed_meter",
]
