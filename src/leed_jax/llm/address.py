"""Addresses of endpoints: what is accepted as one, and where a key may be sent."""

import ipaddress

import httpx

from leed_jax.errors import ConfigurationError
from leed_jax.llm.excerpts import Secret

_PORTS = 65536


def checked_base_url(text: str, path: str) -> httpx.URL:
    """Return an address, refusing without a quotation what may hold a password.

    Args:
        text: The address, as it was set.
        path: What the API adds to it.

    Raises:
        ConfigurationError: It is not the plain address of an HTTP API.
    """
    example = "set it to an address such as http://127.0.0.1:8081/v1"
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # as looking it up will do, which fails on an empty or overlong part
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError(f"llm.base_url is not a valid address; {example}.") from None
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError(
            f"llm.base_url (host {url.host!r}) holds a user name, a password, a query or a fragment, which would show "
            "in logs; leave them out, and put a key in the environment variable that llm.api_key_env names."
        )
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 1) < _PORTS:
        raise ConfigurationError(f"llm.base_url is not an http:// or https:// address; {example}.")
    if url.path.rstrip("/").endswith(path):
        raise ConfigurationError(f"llm.base_url ends in {path}, which is added to it; leave that out.")
    return url


def check_key_is_safe(url: httpx.URL, secret: Secret, key_env: str) -> None:
    """Refuse to send a key where anyone on the way could read it.

    Raises:
        ConfigurationError: There is a key, and the address is neither https nor this machine.
    """
    if secret and url.scheme != "https" and not is_loopback(url.host):
        raise ConfigurationError(
            f"The key in {key_env} would travel to {url.host} unencrypted; use an https:// address in llm.base_url, a "
            "tunnel to this machine, or llm.api_key_env= to send no key."
        )


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
