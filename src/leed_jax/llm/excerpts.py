"""Foreign text in messages: short, on one line, and without the key."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator

from leed_jax.errors import ConfigurationError

EXCERPT_CHARACTERS = 200
# What the HTTP library writes to; at the finest level, that holds the headers of answers.
_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the keys of well-known services begin with; a digit or a capital after that is no part of a word.
_KEY = re.compile(
    r"(?:sk|pk|rk|gsk|hf|r8|xai|nvapi|pplx|fw|tgp|csk|gh[pousr]|glpat|github_pat)_(?=.*[A-Z0-9])\w{4}|AIza"
)
_SHORTEST_KEY_LIKE = 20
# Local servers are often given keys like "none" or "EMPTY", which may well occur in an answer's prose.
_SHORTEST_REAL_KEY = 16


class Secret:
    """An API key, or the absence of one, that does not show itself when printed or formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(set)" if self._value else "Secret(not set)"

    def reveal(self) -> str:
        """Return the key itself, for the request's header only."""
        return self._value

    def redact(self, text: str) -> str:
        """Return a text with the key blotted out, for messages."""
        return text.replace(self._value, "[key]") if self._value else text

    def redact_answer(self, text: str) -> str:
        """Return a model's text with the key blotted out, unless the key is so short that it may be a word."""
        return self.redact(text) if len(self._value) >= _SHORTEST_REAL_KEY else text


def check_variable_name(name: str | None) -> None:
    """Refuse what cannot be the name of an environment variable; None and an empty text name none.

    Raises:
        ConfigurationError: It is not one, or it is unset and looks like a key. The message does not repeat it: it may
            be the key, put in the wrong place.
    """
    if name and (not _VARIABLE_NAME.fullmatch(name) or (name not in os.environ and _looks_like_key(name))):
        raise ConfigurationError(
            "llm.api_key_env is not the name of an environment variable (letters, digits and underscores); put the "
            "key itself in an environment variable such as OPENAI_API_KEY, and that variable's name here."
        )


def _looks_like_key(name: str) -> bool:
    # The names of variables are in capitals as a rule, and short where they are not, such as "gpt4_key".
    mixed = any(c.isdigit() for c in name) and any(c.islower() for c in name)
    return bool(_KEY.match(name)) or (mixed and len(name) >= _SHORTEST_KEY_LIKE)


def read_key(name: str | None) -> Secret:
    """Read the key from an environment variable; an unset or empty one means that there is no key.

    Raises:
        ConfigurationError: The key holds characters that a header cannot carry.
    """
    value = os.environ.get(name, "").strip() if name else ""
    # Checked here because the HTTP library would quote the whole header in its own error.
    if any(not "!" <= character <= "~" for character in value):
        raise ConfigurationError(
            f"The environment variable {name} holds a space, a line end or a non-ASCII character inside the key; set "
            "it again to the key alone."
        )
    return Secret(value)


@contextlib.contextmanager
def kept_from_logs(secret: Secret) -> Iterator[None]:
    """Blot the key out of what the HTTP library logs meanwhile: an answer may repeat it in its headers."""

    def clean(record: logging.LogRecord) -> bool:
        record.msg, record.args = secret.redact(record.getMessage()), ()
        return True

    loggers = [logging.getLogger(name) for name in _LOGGERS] if secret else []
    for logger in loggers:
        logger.addFilter(clean)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(clean)


def excerpt(text: bytes | str, secret: Secret) -> str:
    """Return the beginning of foreign text on one line, quoted, with unprintable characters escaped and no key."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="backslashreplace")
    # The key goes first: cutting before could leave half of it.
    text = secret.redact(text).strip()
    cut = text[:EXCERPT_CHARACTERS]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f'"{shown}..."' if len(text) > len(cut) else f'"{shown}"'


def whole_characters(text: str) -> str:
    """Return a text that can be encoded: half a surrogate pair, which JSON allows, becomes U+FFFD."""
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")
