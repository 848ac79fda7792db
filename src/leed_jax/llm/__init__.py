"""Asking a language model behind an OpenAI-compatible endpoint, and never asking the same thing twice.

    ChatModel           what everything else in the library asks
     +-- OpenAICompatible   a client of one endpoint (llama.cpp, vLLM, Ollama, OpenAI)
     +-- Journalled         another ChatModel in front of a Journal of the replies so far

What a model writes is data: it is parsed elsewhere, and never evaluated.
"""

from leed_jax.llm.batch import complete_all
from leed_jax.llm.client import OpenAICompatible
from leed_jax.llm.journal import Journal
from leed_jax.llm.journalled import Journalled
from leed_jax.llm.messages import ChatModel, ChatRequest, Message, Reply, Usage, request_key
from leed_jax.llm.retry import RetryPolicy

__all__ = [
    "ChatModel",
    "ChatRequest",
    "Journal",
    "Journalled",
    "Message",
    "OpenAICompatible",
    "Reply",
    "RetryPolicy",
    "Usage",
    "complete_all",
    "request_key",
]
