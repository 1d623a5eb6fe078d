"""The database's URL: checked, shown without its password, and its errors in words that say what to do."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psycopg
from attrs import field
from psycopg import errors as sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from nairi_async._core.api_key import redacted
from nairi_async._core.json_body import one_line, shortened
from nairi_async._core.records import frozen
from nairi_async.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from nairi_async._core.concealed import Concealed

_SCHEMES: Final = ("postgresql://", "postgres://")
_LAST_PORT: Final = 65_535
# What a database, or the way to it, raises: the last is for a host name that cannot be one, and for half a character.
FAULTS: Final = (psycopg.Error, OSError, UnicodeError)
# Seconds and probes after which a connection is given up whose other end does not answer. Below the settling time, and
# on both sides: the client's settings end the client's wait, the server's settings free the locks of a client that is
# cut off. https://www.postgresql.org/docs/current/runtime-config-connection.html
_CONNECTION: Final = {
    "application_name": "nairi_async",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}
# What errors may repeat of a URL: these parameters, paths, and these modes of encryption.
_SHOWN: Final = frozenset({"host", "hostaddr", "port", "dbname", "user"})
_MODES: Final = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full", "system"})
# What they must not repeat in any form; other values, if they are that long.
_TELLING: Final = 8
_SECRETS: Final = frozenset({"password", "sslpassword", "oauth_client_secret"})
# What psycopg puts in front of the reason, which the name of the database says already.
_REPEATED: Final = re.compile(
    r'^connection failed: (?:connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: )?'
)
SESSION_SETTINGS: Final = (
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '1', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '8000', false),"
    " set_config('statement_timeout', '60s', false), set_config('idle_in_transaction_session_timeout', '60s', false),"
    " set_config('client_connection_check_interval', '1s', false), set_config('timezone', 'UTC', false),"
    # The default, which a database may have changed: what is committed must survive a crash of the machine.
    " set_config('synchronous_commit', 'on', false)"
)
"""What each session sets: none keeps a lock or an old snapshot for long after its client is gone."""


@frozen
class Address:
    """A database. Its `repr` and its `name` show no password."""

    _parameters: dict[str, Any] = field(repr=False)
    name: str
    """How errors call it."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("the address of a database may hold a password; open one in each process")

    @classmethod
    def of(cls, url: Concealed) -> Address:
        """Return the address that a URL gives.

        Raises:
            ConfigurationError: it is no URL of a PostgreSQL database. Neither the text nor a local variable repeats it.
        """
        found = _read(url.value)
        if isinstance(found, str):
            raise ConfigurationError(found)
        return found

    @property
    def conninfo(self) -> str:
        """What psycopg connects with; it contains the password."""
        return make_conninfo(**self._parameters)

    def errors(self) -> AbstractContextManager[None]:
        """Raise as a `LedgerError` what the database or the way to it refuses.

        Raises:
            LedgerError: with the cause in words, and without the password.
        """
        return _Errors(self)

    def explained(self, error: BaseException) -> LedgerError:
        """Return the error that says in words what the database or the way to it refuses, without the password."""
        text = _explained(error)
        for name, value in self._parameters.items():
            if isinstance(value, str) and value not in _MODES and name not in _SHOWN and not value.startswith("/"):
                # The driver quotes a setting that it refuses, and any may hold a password in the wrong place.
                text = text.replace(f'"{value}"', "***").replace(f"'{value}'", "***")
                if len(value) >= _TELLING or name in _SECRETS:
                    text = redacted(text, value) if value else text
        return LedgerError(one_line(shortened(text)), self.name)


class _Errors:
    """What `Address.errors` gives. A generator would keep the original error in a local variable of `contextlib`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._handled: BaseException | None = None

    def __enter__(self) -> None:
        self._handled = sys.exception()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, FAULTS):
            return
        explained = self._address.explained(error)
        # The names are cleared: the original's attributes, and its frames, have the password.
        del kind, error, traceback
        try:
            raise explained
        finally:
            # `with` handles the original until its end, and would make it the context.
            explained.__context__ = self._handled


def _read(url: object) -> Address | str:
    """Return an address, or what is wrong with its URL. It does not raise: its frame has the password."""
    if not isinstance(url, str) or not url.strip().startswith(_SCHEMES):
        return "the database must be given as postgresql://user@host:port/name"
    parameters: dict[str, Any] | None = None
    # A zero byte would end the URL, and half a character cannot be sent.
    if url.strip().isprintable():
        with suppress(psycopg.Error):
            parameters = conninfo_to_dict(url.strip())
    if parameters is None:
        return "the URL of the database cannot be read; it must be postgresql://user@host/name"
    host, port = parameters.get("host") or "", parameters.get("port")
    # What stands before an "@" of a host or a database is the end of a password. A socket's abstract name begins with
    # one.
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    if "@" in path or any("@" in one[1:] for one in str(host).split(",")):
        return 'in the password of postgresql://user:password@host/name, write "@" as %40 and "/" as %2F'
    if port and not all(one.isdecimal() and 0 < int(one) <= _LAST_PORT for one in str(port).split(",")):
        return "the port of postgresql://user@host:port/name must be a number from 1 to 65535"
    shown = f"{host}:{port}" if port else str(host)
    # All text is sent as UTF-8, however the URL, the environment or the server would have it.
    everything = {**_CONNECTION, **parameters, "client_encoding": "utf8"}
    return Address(everything, f"postgresql://{shown}/{parameters.get('dbname') or ''}")


def _explained(error: BaseException) -> str:  # noqa: C901, PLR0911, PLR0912 - one case for each cause
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    reason = _REPEATED.sub("", " ".join((said or str(error)).split())) or type(error).__name__
    match error:
        case sql.InsufficientPrivilege():
            return f"the user has not the rights: {reason}; make it the owner of the database"
        case sql.InvalidSchemaName():
            return f"the user has no schema for the tables: {reason}; set its search_path, such as to public"
        case sql.UndefinedTable() | sql.UndefinedColumn() | sql.UndefinedFunction():
            return f"its tables are not those of this version: {reason}"
        case sql.ForeignKeyViolation():
            return "the batch was deleted meanwhile"
        case sql.DiskFull():
            return "its disk is full; free some space, and nothing is lost"
        case sql.ReadOnlySqlTransaction():
            return "it is read-only, as a standby is; give the address of the primary"
        case sql.QueryCanceled() | sql.LockNotAvailable():
            return "a statement took longer than a minute; does another program hold locks on its tables?"
        case TimeoutError():
            return "it does not answer"
        case psycopg.OperationalError() if error.sqlstate is None and "password" in reason:
            return f"it refuses the user: {reason}; the password stands in the URL, in PGPASSWORD or in a password file"
        case psycopg.OperationalError() if error.sqlstate is None and "FATAL" in reason:
            return f"it refuses the connection: {reason}"
        case psycopg.OperationalError() if error.sqlstate is None:
            return f"it cannot be reached: {reason}"
        case sql.AdminShutdown() | sql.CrashShutdown() | sql.CannotConnectNow() | psycopg.InterfaceError():
            return f"it cannot be reached: {reason}"
        case UnicodeError():
            return f"it cannot be reached, or cannot store the text: {reason}"
        case OSError():
            return f"it cannot be reached: {reason}"
        case _:
            return reason
