"""The database's URL: checked, shown without its password, and its errors in words that say what to do."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from attrs import field, frozen
from psycopg import errors as sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from nairi_async.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Generator

_SCHEMES: Final = ("postgresql://", "postgres://")
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

    @classmethod
    def of(cls, url: object) -> Address:
        """Return the address that a URL gives.

        Raises:
            ConfigurationError: it is no URL of a PostgreSQL database. The text does not repeat it.
        """
        if not isinstance(url, str) or not url.strip().startswith(_SCHEMES):
            raise ConfigurationError("the database must be given as postgresql://user@host:port/name")
        parameters: dict[str, Any] | None = None
        with suppress(psycopg.Error):
            parameters = conninfo_to_dict(url.strip())
        if parameters is None:
            # Not chained: the text of the cause may hold a part of the password.
            raise ConfigurationError("the URL of the database cannot be read; it must be postgresql://user@host/name")
        host, port = parameters.get("host") or "", parameters.get("port")
        shown = f"{host}:{port}" if port else str(host)
        return cls({**_CONNECTION, **parameters}, f"postgresql://{shown}/{parameters.get('dbname') or ''}")

    @property
    def conninfo(self) -> str:
        """What psycopg connects with; it contains the password."""
        return make_conninfo(**self._parameters)

    @contextmanager
    def errors(self) -> Generator[None]:
        """Raise as a `LedgerError` what the database or the way to it refuses.

        Raises:
            LedgerError: with the cause in words, and without the password.
        """
        try:
            yield
        except psycopg.Error as error:
            text = self._without_password(_explained(error))
        else:
            return
        # Outside of the handler: the original could repeat the password in a traceback.
        raise LedgerError(text, self.name)

    def _without_password(self, text: str) -> str:
        password = str(self._parameters.get("password") or "")
        return text.replace(password, "…") if password else text


def _explained(error: psycopg.Error) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    match error:
        case sql.InsufficientPrivilege():
            return f"the user has not the rights: {reason}; make it the owner of the database"
        case sql.UndefinedTable() | sql.UndefinedColumn() | sql.UndefinedFunction():
            return f"its tables are not those of this version: {reason}"
        case sql.DiskFull():
            return "its disk is full; free some space, and nothing is lost"
        case sql.ReadOnlySqlTransaction():
            return "it is read-only, as a standby is; give the address of the primary"
        case psycopg.OperationalError() if error.sqlstate is None:
            return f"it cannot be reached: {reason}"
        case _:
            return reason
