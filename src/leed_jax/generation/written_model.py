"""Instructions that a person has written, in the place of a language model's."""

import hashlib
from pathlib import Path

from leed_jax.errors import ConfigurationError
from leed_jax.llm import ChatRequest, Reply, Usage

NAME = "written-instructions"
_MAX_BYTES = 1_000_000


class WrittenModel:
    """A `ChatModel` that gives one and the same answer, which stands in a file, and asks nobody.

    The answer goes through the same loop as any model's: it is parsed, executed, scored and recorded.

    Args:
        path: the file; it holds what a model would have answered.

    Raises:
        ConfigurationError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        try:
            content = Path(path).expanduser().read_bytes()[: _MAX_BYTES + 1]
            self._text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"llm.path={path} cannot be read as UTF-8 text: {error}") from None
        if len(content) > _MAX_BYTES:
            raise ConfigurationError(f"llm.path={path} is larger than {_MAX_BYTES:,} bytes, too large for an answer.")

    @property
    def identity(self) -> str:
        """What stands in the file."""
        return f"{NAME} {hashlib.sha256(self._text.encode()).hexdigest()[:16]}"

    async def complete(self, request: ChatRequest) -> Reply:
        """Give the answer.

        Args:
            request: what to answer; nothing of it is read.
        """
        del request
        return Reply(self._text, Usage(), "stop", NAME)
