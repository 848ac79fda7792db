"""API keys: where they come from, where they may be sent, and how they stay out of messages and logs."""

import contextlib
import ipaddress
import logging
import os
import re
from collections.abc import Iterator

import httpx

from leed_jax.errors import ConfigurationError

_EXCERPT_CHARACTERS = 200
# Loggers of the HTTP library; at the finest level they write the headers of answers.
_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A prefix of a well-known service and a digit or a capital, as no word has; or a long name with small letters and
# digits: names of variables are in capitals as a rule, and short where they are not, such as "gpt4_key".
_KEY = re.compile(
    r"(?:sk|pk|rk|gsk|hf|r8|xai|nvapi|pplx|fw|tgp|csk|gh[pousr]|glpat|github_pat)_(?=.*[A-Z0-9])\w{4}|AIza"
    r"|(?=.*[0-9])(?=.*[a-z])\w{20}"
)
# Local servers often have keys such as "none", which may well occur in an answer's prose.
_SHORTEST_REAL_KEY = 16


class Secret:
    """An API key, or the absence of one, that does not show when printed or formatted."""

    __slots__ = ("_value",)  # vars() does not show it either

    def __init__(self, value: str) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(set)" if self._value else "Secret(not set)"

    def reveal(self) -> str:
        """Return the key, for the request's header only."""
        return self._value

    def redact(self, text: str) -> str:
        """Return a text with the key replaced by "[key]"."""
        return text.replace(self._value, "[key]") if self._value else text

    def redact_answer(self, text: str) -> str:
        """Redact a model's text, unless the key is so short that it may be a word."""
        return self.redact(text) if len(self._value) >= _SHORTEST_REAL_KEY else text


def check_variable_name(name: str | None) -> None:
    """Raise `ConfigurationError` for what is not the name of a variable, or looks like a key; do not repeat it."""
    if name and (not _VARIABLE_NAME.fullmatch(name) or (name not in os.environ and _KEY.match(name))):
        raise ConfigurationError(
            "llm.api_key_env is not the name of an environment variable (letters, digits and underscores); put the "
            "key itself in an environment variable such as OPENAI_API_KEY, and that variable's name here."
        )


def read_key(name: str | None) -> Secret:
    """Read the key from an environment variable; an unset or empty one means that there is no key."""
    value = os.environ.get(name, "").strip() if name else ""
    # Checked here because the HTTP library would quote the whole header in its error.
    if any(not "!" <= character <= "~" for character in value):
        raise ConfigurationError(
            f"The environment variable {name} holds a space, a line end or a non-ASCII character inside the key; set "
            "it again to the key alone."
        )
    return Secret(value)


def checked_base_url(text: str, path: str) -> httpx.URL:
    """Parse an endpoint's address, to which the API adds a path; errors do not quote what may hold a password."""
    example = "set it to an address such as http://127.0.0.1:8081/v1"
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # as name resolution does; fails on an empty or overlong part
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError(f"llm.base_url is not a valid address; {example}.") from None
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 1) < 2**16:
        raise ConfigurationError(f"llm.base_url is not an http:// or https:// address; {example}.")
    if url.userinfo or url.query or url.fragment or url.path.rstrip("/").endswith(path):
        raise ConfigurationError(
            f"llm.base_url (host {url.host!r}) holds a user name, a password, a query, a fragment or {path}, which is "
            "added to it; leave them out, and put a key in the environment variable that llm.api_key_env names."
        )
    return url


def check_key_is_safe(url: httpx.URL, secret: Secret, key_env: str) -> None:
    """Raise `ConfigurationError` if a key would be sent unencrypted to another machine."""
    if secret and url.scheme != "https" and not is_loopback(url.host):
        raise ConfigurationError(
            f"The key in {key_env} would travel to {url.host} unencrypted; use an https:// address in llm.base_url, a "
            "tunnel to this machine, or llm.api_key_env= to send no key."
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@contextlib.contextmanager
def redacted_logs(secret: Secret) -> Iterator[None]:
    """Remove the key from what the HTTP library logs: an answer may repeat it in its headers."""

    def redact(record: logging.LogRecord) -> bool:
        record.msg, record.args = secret.redact(record.getMessage()), ()
        return True

    loggers = [logging.getLogger(name) for name in _LOGGERS] if secret else []
    for logger in loggers:
        logger.addFilter(redact)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redact)


def excerpt(text: bytes, secret: Secret) -> str:
    """Return the beginning of foreign text: quoted, on one line, unprintable characters escaped, without the key."""
    # Redacted first: cutting first could leave half of the key.
    clean = secret.redact(text.decode("utf-8", errors="backslashreplace")).strip()
    cut = clean[:_EXCERPT_CHARACTERS]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f'"{shown}..."' if len(clean) > len(cut) else f'"{shown}"'
