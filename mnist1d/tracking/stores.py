"""Opening stores, and what is said of one that cannot be used.

SQLite is set to write-ahead logging with `synchronous=NORMAL`, which is a third faster and lets `make ui` read while a
sweep writes. A crash of the process loses nothing; a power cut may lose the last seconds, never the database.
"""

from __future__ import annotations

import logging
import math
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mnist1d.events import NotTaken
from mnist1d.spelling import without_password

REACH_SECONDS = 3.0
"""How long a server may take to answer the first knock."""
LOCK_SECONDS = 60.0
"""How long to wait while other processes create the store, which takes one to two seconds each."""
DATABASES = ("postgresql", "mysql", "mssql")
DEFAULT_PORTS = {"mysql": 3306, "mssql": 1433}

# The first opening of a store logs every migration as INFO; a database that goes away, a traceback that we explain.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class TrackingError(NotTaken):
    """The tracking store cannot be used; the message names the URI, what was tried and what to do."""


class StoreAway(TrackingError):
    """A server, or a database on one, cannot be used at the moment: nothing is wrong with what was asked of it.

    Attributes:
        cause: the part of the message that says why.
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


@contextmanager
def reading(uri: str) -> Iterator[MlflowClient]:
    """A client of a store that is there; whatever goes wrong while it is used becomes a TrackingError."""
    with explained(uri, "reading it", "Set tracking.uri to a store that has runs."):
        yield client_of(reachable(uri, create=False))


def opened(uri: str) -> str:
    """What MLflow is to be given for a store that is there; a TrackingError says that it is not."""
    with explained(uri, "reading it", "Set tracking.uri to a store that has runs."):
        return reachable(uri, create=False)


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store and the experiment's id, both created where missing."""
    advice = "Set tracking.uri=sqlite:///FOLDER/mlflow.db or MLFLOW_TRACKING_URI to a store you can write to."
    with explained(uri, "opening it", advice):
        address = reachable(uri, create=True)
        if not address.startswith("sqlite:"):
            with postgres_lock(address) if address.startswith("postgresql") else nullcontext():
                client = client_of(address)
                ours = None if address.startswith("http") else Path("mlruns/artifacts").absolute().as_uri()
                return client, _experiment(client, experiment, ours)  # a server has a place of its own for artifacts
        database = Path(address.removeprefix("sqlite:///"))
        lock = Path(f"{database}.lock")
        lock.open("a").close()  # where this fails FileLock would go on trying, as if another process held the lock
        # several processes creating the tables at once fail with "table already exists"
        with FileLock(lock, timeout=LOCK_SECONDS), _fast_sqlite():
            _check_writable(database)
            client = client_of(address)
            return client, _experiment(client, experiment, (database.parent / "artifacts").as_uri())


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} was deleted there: restore it, or set another tracking.experiment")
    return found.experiment_id


def reachable(uri: str, *, create: bool) -> str:
    """`uri` with an absolute path, if something is there: a quick error instead of minutes of retries."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return f"sqlite:///{database_path(uri, create=create)}"
    if scheme in ("http", "https"):
        _knock(uri)
    elif scheme == "postgresql":
        uri = with_driver(uri)
        with _connected(uri):
            pass
    elif scheme in DEFAULT_PORTS:
        address = (parts.hostname or "localhost", parts.port or DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=REACH_SECONDS).close()
    else:
        kinds = ", ".join(["sqlite:///PATH.db", "http(s)://HOST:PORT", *(f"{kind}://…" for kind in DATABASES)])
        raise TrackingError(f"a tracking URI is one of {kinds} (MLflow's plain folders are no longer supported)")
    return uri


def with_driver(uri: str) -> str:
    """`uri`; a plain `postgresql://` means psycopg2, as it did before SQLAlchemy 2.1."""
    return uri.replace("postgresql://", "postgresql+psycopg2://", 1) if uri.startswith("postgresql://") else uri


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """A connection of its own to a PostgreSQL database, without MLflow's minutes of retries."""
    seconds = {"connect_timeout": math.ceil(REACH_SECONDS)}  # libpq's
    with create_engine(uri, poolclass=NullPool, connect_args=seconds, isolation_level="AUTOCOMMIT").connect() as one:
        yield one


@contextmanager
def postgres_lock(uri: str) -> Iterator[None]:
    """While other processes wait; the database lets go of it when this process ends, however it does."""
    with _connected(with_driver(uri)) as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_SECONDS:.0f}s'"))
        connection.execute(text("SELECT pg_advisory_lock(hashtext('mnist1d'))"))
        yield


def database_path(uri: str, *, create: bool) -> Path:
    name = uri.partition("?")[0].removeprefix("sqlite:///")
    if name in ("", ":memory:") or name.startswith("sqlite:"):
        raise TrackingError("an SQLite store needs a file: sqlite:///relative.db or sqlite:////absolute.db")
    path = Path(name).absolute()  # MLflow would read it against whatever the working directory is later
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise TrackingError(f"there is no database at {path}")
    return path


def _knock(uri: str) -> None:
    """One request to a server, without MLflow's minutes of retries."""
    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS)
    if answer.status_code >= 500:
        raise TrackingError(f"the server answers with HTTP status {answer.status_code}")


def _check_writable(database: Path) -> None:
    """Try one write transaction, where MLflow would retry for over a minute before it says that it cannot."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


@contextmanager
def _fast_sqlite() -> Iterator[None]:
    """Connections opened meanwhile, which then stay in the store's pool, use WAL and fewer disk syncs."""

    def tune(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            with suppress(sqlite3.OperationalError):  # a file system without shared memory keeps the old journal
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(Engine, "connect", tune)
    try:
        yield
    finally:
        event.remove(Engine, "connect", tune)


def client_of(address: str) -> MlflowClient:
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 about MLflow's own tables: nothing a user could do about it
        warnings.filterwarnings("ignore", message="The ``noload`` loader", category=DeprecationWarning)
        return MlflowClient(address)


@contextmanager
def explained(uri: str, attempt: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a TrackingError that names URI, attempt, cause and advice."""
    failures = (
        TrackingError,
        MlflowException,
        SQLAlchemyError,
        sqlite3.Error,
        requests.RequestException,
        Timeout,
    )
    try:
        yield
    except (*failures, OSError, ImportError, ValueError) as error:
        cause = str(error) if isinstance(error, TrackingError) else first_line(error)
        if "out-of-date database schema" in cause:  # and five lines about it
            cause = "It was made by an older MLflow."
            advice = f"Back it up, then bring it up to date: mlflow db upgrade {without_password(uri)}"
        message = f"tracking store {without_password(uri)}: {attempt} failed.\n  {cause}\n  {advice}"
        if uri.startswith("sqlite:") or not is_away(error):
            raise TrackingError(message) from error
        raise StoreAway(message, cause) from error


def is_away(error: Exception) -> bool:
    """Whether a server, or the database behind it, is to blame rather than what was asked of it."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(error, StoreAway | requests.ConnectionError | requests.Timeout | DBAPIError)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
