"""Asking a language model, and never asking the same thing twice.

    ChatModel        what everything else in the library asks
     +-- ChatClient     one model behind the HTTP API of a Provider: OpenAI (and all that is compatible) or Anthropic
     +-- LocalModel     a GGUF file, served inside this process
     +-- Replay         recorded replies; sends nothing
     +-- Journalled     another ChatModel in front of a Journal of the replies so far

What a model writes is data: it is parsed elsewhere, and never evaluated.
"""

from leed_jax.llm.account import OWN_ACCOUNT, account_id, resumed_meter, spender_of
from leed_jax.llm.anthropic import Anthropic
from leed_jax.llm.batch import complete_all
from leed_jax.llm.client import ChatClient, OpenAICompatible
from leed_jax.llm.journal import Journal
from leed_jax.llm.journalled import Journalled
from leed_jax.llm.limits import Limits, Meter, Spending, Ticket
from leed_jax.llm.local import LocalModel
from leed_jax.llm.messages import ChatModel, ChatRequest, Message, Reply, Usage, request_key
from leed_jax.llm.openai import OpenAI
from leed_jax.llm.provider import Provider
from leed_jax.llm.replay import Replay
from leed_jax.llm.retry import RetryPolicy

__all__ = [
    "OWN_ACCOUNT",
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
    "OpenAICompatible",
    "Provider",
    "Replay",
    "Reply",
    "RetryPolicy",
    "Spending",
    "Ticket",
    "Usage",
    "account_id",
    "complete_all",
    "request_key",
    "resumed_meter",
    "spender_of",
]
