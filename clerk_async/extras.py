"""The optional extras: what each of them loads, and why one can't be used.

A library that is installed but can't be loaded is never called missing: pip would say that it is
there already. It may be built for another machine, lack a shared library, be too old, or refuse to
load in a second sub-interpreter. So each use of an extra asks here before it imports names from it.

Type hints name libraries too. They must resolve even if nothing has loaded the library (`Late`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

_NEEDED: Final = {
    "cli": ("click:ClickException",),
    "jwt": (
        "cryptography.exceptions:InvalidSignature",
        "cryptography.hazmat.primitives.asymmetric.ec:ECDSA",
        "cryptography.hazmat.primitives.asymmetric.ed25519:Ed25519PublicKey",
        "cryptography.hazmat.primitives.asymmetric.padding:PKCS1v15",
        "cryptography.hazmat.primitives.asymmetric.rsa:RSAPublicNumbers",
        "cryptography.hazmat.primitives.asymmetric.utils:encode_dss_signature",
        "cryptography.hazmat.primitives.hashes:SHA256",
    ),
    "redis": (
        "redis.asyncio:Redis",
        "redis.asyncio.retry:Retry",
        "redis.backoff:NoBackoff",
        "redis.exceptions:NoScriptError",
    ),
    "webhooks": ("standardwebhooks:Webhook",),
}
"""By extra: the modules to load, each with a name that it must have."""
_CALLED: Final = {"redis": "redis-py"}
"""The names of libraries that differ from the names of their modules."""

SERIALIZATION: Final = "cryptography.hazmat.primitives.serialization:load_pem_public_key"
"""The slowest part of cryptography, which only PEMs need."""
DRAWING: Final = "rich.cells:cell_len"
"""What only tables need of the extra `cli`."""


def trouble_with(extra: str, *more: str) -> str:
    """Load an extra, and return why it can't be used; an empty str if it can.

    Args:
        extra: Its name.
        *more: What else to load, written as above.

    Returns:
        The end of a sentence like "webhooks need …", without a full stop.
    """
    for part in (*_NEEDED[extra], *more):
        module, _, name = part.partition(":")
        library = module.partition(".")[0]
        try:
            import_module(library)  # first, because only its own absence means "not installed"
            getattr(import_module(module), name)
        except BaseException as error:  # a build for another machine may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == library:
                return (
                    f"the extra `{extra}`, which is not installed: "
                    f"pip install 'clerk-async[{extra}]'"
                )
            is_panic = type(error).__module__ == "pyo3_runtime"  # Rust's, if cffi can't be loaded
            if not isinstance(error, Exception) and not is_panic:
                raise
            return (
                f"{_CALLED.get(library, library)}, which is installed but can't be loaded "
                f"({type(error).__name__}: {error})"
            )
    return ""


def require(extra: str, *more: str, needed_for: str) -> None:
    """Load an extra.

    Args:
        extra: Its name.
        *more: What else to load; see `trouble_with`.
        needed_for: The beginning of the message, such as "webhooks need".

    Raises:
        ConfigurationError: If it isn't installed or can't be loaded.
    """
    trouble = trouble_with(extra, *more)
    if trouble:
        from clerk_async.errors import ConfigurationError  # noqa: PLC0415 - attrs, not for help

        raise ConfigurationError(f"{needed_for} {trouble}.")


class Late:
    """A stand-in for a module in type hints; it loads the module when a tool resolves the hints.

    If the module can't be loaded, each of its names is `Any`.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(import_module(self._module), name)
        except ImportError:
            return Any
