"""The TLS context of a session: given, made from a file of certificates, or from what the environment names."""

from __future__ import annotations

import os
import ssl

from nairi_async.errors import ConfigurationError


def tls_context(given: object, *, trust_env: bool) -> ssl.SSLContext | None:
    """Return the context for what was given as `ssl=`; `None` for the HTTP library's own.

    Without `ssl=`, and with `trust_env`, it is made from `SSL_CERT_FILE` and `SSL_CERT_DIR` as they are now: contexts
    that exist already do not follow the environment, and OpenSSL silently ignores a file that is missing.

    Raises:
        ConfigurationError: a file cannot be used. The text says which, and why.
    """
    if isinstance(given, ssl.SSLContext):
        return given
    if given is None:
        file = os.environ.get("SSL_CERT_FILE") if trust_env else None
        return _context("SSL_CERT_FILE", file, os.environ.get("SSL_CERT_DIR") or None) if file else None
    if not isinstance(given, str | os.PathLike):
        raise ConfigurationError(
            f"ssl must be an ssl.SSLContext, or the path of a file of certificates, not {type(given).__name__}"
        )
    path = os.fspath(given)
    if not isinstance(path, str) or not path:
        raise ConfigurationError("ssl must be an ssl.SSLContext, or the path of a file of certificates; it is blank")
    return _context("ssl", path)


def _context(name: str, file: str, directory: str | None = None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file, capath=directory)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{name}: {file!r} holds no usable certificate: a text file of certificates is needed, each from"
            " -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
        ) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigurationError(f"{name}: {file!r} cannot be read: {reason}") from error
