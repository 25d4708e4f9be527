"""The decisions, against a paramiko.SSHClient that is mocked: retry or not, success or not."""

from __future__ import annotations

import builtins
import socket
import threading
from collections.abc import Callable, Iterator
from unittest.mock import MagicMock, patch

import paramiko
import pytest
from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

import webbridge_restart
from conftest import Ran, Run, failed, restarted

ADDRESS = "10.48.79.194"
REFUSED = NoValidConnectionsError({(ADDRESS, 22): ConnectionRefusedError()})
WAITING = "while waiting for the answer to 'webbridge restart'"
DOUBT = "The restart may or may not have happened: look before you repeat it."


class Client:
    """The mocked client of a run, whose connections fail as told and whose answer is as told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.login_failure: Exception | None = None
        self.answer: list[bytes | Exception] = [b"SUCCESS: Webbridge restarted\n"]
        self.status = 0
        self.transport = MagicMock()
        self.channel = self.transport.open_session.return_value
        self.channel.recv.side_effect = self._recv
        self.channel.exit_status_ready.side_effect = lambda: not self.answer
        self.channel.recv_ready.return_value = False
        self.mock = MagicMock()
        self.mock.get_transport.return_value = None
        self.mock.connect.side_effect = self._connect

    def _connect(self, *_: object, auth_strategy: object, **__: object) -> None:
        if self.failures:
            raise self.failures.pop(0)
        methods = paramiko.BadAuthenticationType("", ["publickey", "password"])
        self.transport.auth_none.side_effect = methods
        self.transport.auth_password.side_effect = self.login_failure
        self.transport.auth_password.return_value = []
        auth_strategy.authenticate(self.transport)  # type: ignore[attr-defined]
        self.mock.get_transport.return_value = self.transport

    def _recv(self, size: int) -> bytes:
        self.channel.exit_status = self.status
        piece = self.answer.pop(0) if self.answer else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    @property
    def connections(self) -> int:
        return self.mock.connect.call_count

    @property
    def commands(self) -> list[str]:
        return [call.args[0] for call in self.channel.exec_command.call_args_list]


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    with patch("paramiko.SSHClient", return_value=client.mock):
        yield client


Ask = Callable[[], Ran]


@pytest.fixture
def ask(run: Run) -> Ask:
    return lambda: run([ADDRESS])


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        ConnectionResetError(104, "Connection reset by peer"),
        OSError(101, "Network is unreachable"),
        TimeoutError(110, "Connection timed out"),
        socket.timeout("timed out"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        EOFError(),
        paramiko.SSHException("Error reading SSH protocol banner"),
    ],
    ids=repr,
)
def test_what_can_pass_is_tried_again(client: Client, ask: Ask, failure: Exception) -> None:
    client.failures = [failure, failure]
    assert ask().log == [restarted(ADDRESS)]
    assert (client.connections, client.commands) == (3, ["webbridge restart"])


def test_three_tries_in_all(client: Client, ask: Ask) -> None:
    client.failures = [REFUSED] * 4
    ran = ask()
    assert ran.log == failed(ADDRESS, f"[Errno None] Unable to connect to port 22 on {ADDRESS}")
    assert (ran.status, client.connections, client.commands) == (1, 3, [])


def test_no_try_is_begun_without_time_for_it(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbridge_restart.SECONDS_BETWEEN_TRIES", 2.0)
    client.failures = [REFUSED] * 4
    ran = run([ADDRESS], "--timeout", "3")
    assert ran.log == failed(ADDRESS, f"[Errno None] Unable to connect to port 22 on {ADDRESS}")
    assert client.connections == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            IncompatiblePeer("no acceptable kex algorithm"),
            f"The server and paramiko {paramiko.__version__} have no algorithm in common. ",
        ),
        (ValueError("odd\x1b"), r"ValueError while connecting: odd\x1b."),
    ],
    ids=repr,
)
def test_what_lasts_is_not_tried_again(
    client: Client, ask: Ask, failure: Exception, reason: str
) -> None:
    client.failures = [failure]
    ran = ask()
    assert ran.log[1].startswith(reason)
    assert (ran.status, client.connections, client.commands) == (1, 1, [])


@pytest.mark.parametrize(
    "failure",
    [
        paramiko.AuthenticationException("Authentication failed."),
        paramiko.BadAuthenticationType("no", ["publickey"]),
        paramiko.SSHException("Illegal info request from server"),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
    ids=repr,
)
def test_the_password_is_sent_once(client: Client, ask: Ask, failure: Exception) -> None:
    client.login_failure = failure
    ran = ask()
    assert (ran.status, client.connections, client.commands) == (1, 1, [])
    assert client.transport.auth_password.call_count == 1
    assert client.transport.auth_interactive.call_count == 0


def test_no_agent_and_no_key_files(client: Client, ask: Ask) -> None:
    ask()
    options = client.mock.connect.call_args.kwargs
    assert (options["allow_agent"], options["look_for_keys"]) == (False, False)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ([b"SUCCESS: Webbridge restarted\n"], 0),
        ([b""], 0),
        ([b"odd but done"], 0),
        ([b"SUCCESS: a\nSUCCESS: b\n", b""], -1),
        ([b"SUCC", b"ESS: a", b""], -1),
        ([b"\r\n  SUCCESS: a\r\n", b""], -1),
        ([b"no FAILURE of the ERROR kind\n"], 0),
        ([socket.timeout(), b"SUCCESS: a\n"], 0),
    ],
)
def test_restarted(client: Client, ask: Ask, answer: list[bytes], status: int) -> None:
    client.answer, client.status = list(answer), status
    assert ask().log == [restarted(ADDRESS)]
    assert client.commands == ["webbridge restart"]


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ([b"FAILURE: no\n"], 0, "The server answered: FAILURE: no"),
        ([b"SUCCESS: a\nFAIL", b"URE: b"], 0, "The server answered: FAILURE: b"),
        ([b"SUCCESS: a\r> error: b\r"], 0, "The server answered: error: b"),
        (
            [b"\x1b[1;31mFAILURE: no\x1b[0m\n"],
            0,
            r"The server answered: FAILURE: no\x1b[0m",
        ),
        ([b"ERROR\n"], -1, "The server answered: ERROR"),
        ([b"SUCCESS: a\n"], 1, "The server answered: SUCCESS: a (exit status 1)"),
        ([b""], 4294967295, "The server answered: nothing (exit status 4294967295)"),
        (
            [b"Unknown command: webbridge restart\n"],
            0,
            "The server answered: Unknown command: webbridge restart "
            "CMS 3.0 and newer have no Web Bridge 2.",
        ),
        ([b""], -1, f"The answer ended without exit status or SUCCESS, after: nothing. {DOUBT}"),
        (
            [b"no SUCCESS: here", b""],
            -1,
            "The answer ended without exit status or SUCCESS, after: no SUCCESS: here. " + DOUBT,
        ),
        (
            [b"x" * 70000 + b"\nFAILURE: late\n"],
            0,
            "The server answered: FAILURE: late",
        ),
        (
            [b"y" * 400, b"\n"],
            1,
            f"The server answered: {'y' * 300}... (exit status 1)",
        ),
        (
            [EOFError()],
            -1,
            f"The connection broke off {WAITING}. {DOUBT}",
        ),
        (
            [ZeroDivisionError("odd")],
            -1,
            f"ZeroDivisionError {WAITING}: odd. {DOUBT}",
        ),
    ],
)
def test_not_restarted(
    client: Client, ask: Ask, answer: list[bytes | Exception], status: int, reason: str
) -> None:
    client.answer, client.status = list(answer), status
    ran = ask()
    assert ran.log == failed(ADDRESS, reason)
    assert (ran.status, client.commands) == (1, ["webbridge restart"])


def test_a_system_without_more_threads(client: Client, run: Run) -> None:
    """The turn that cannot begin is one server's trouble."""
    with patch("threading.Thread.start", autospec=True, side_effect=[RuntimeError("no"), None]):
        ran = run([ADDRESS], "--timeout", "1")
    assert ran.log == failed(ADDRESS, "RuntimeError while connecting: no.")
    assert (ran.status, client.commands) == (1, [])


def test_who_cuts_off_says_why(client: Client, run: Run) -> None:
    """The server's own thread ends before the close that woke it has returned, and is not heard."""
    main, threads_before = threading.current_thread(), set(threading.enumerate())
    closed = threading.Event()

    def break_off(_: str) -> None:
        closed.wait(20)
        raise EOFError

    def close() -> None:
        closed.set()
        for thread in set(threading.enumerate()) - threads_before:
            if threading.current_thread() is main:
                thread.join(20)

    client.channel.exec_command.side_effect = break_off
    client.mock.close.side_effect = close
    ran = run([ADDRESS], "--timeout", "0.2")
    assert ran.log == failed(ADDRESS, f"Cut off after 0.2 s {WAITING}. {DOUBT}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_that_nobody_can_tell_is_cut_off(client: Client, run: Run) -> None:
    """Whatever goes wrong in a server's own thread, the run ends."""

    class Untold(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    client.answer = [Untold()]
    ran = run([ADDRESS], "--timeout", "0.5")
    assert ran.log == failed(ADDRESS, f"Cut off after 0.5 s {WAITING}. {DOUBT}")


def test_what_has_ended_is_told_before_the_clock_is_looked_at(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk or a paused terminal holds the main thread up while the servers answer."""
    real = webbridge_restart.Report.log
    answered = threading.Event()
    monkeypatch.setattr(client, "answer", [])
    client.channel.exec_command.side_effect = lambda _: answered.wait(20)

    def slow_log(report: webbridge_restart.Report, *messages: str) -> None:
        answered.set()
        threading.Event().wait(1)
        real(report, *messages)

    monkeypatch.setattr(webbridge_restart.Report, "log", slow_log)
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    timer = threading.Timer(0.3, answered.set)
    timer.start()
    ran = run([*addresses], "--parallel", "3", "--timeout", "0.8")
    assert sorted(ran.log) == [restarted(address) for address in addresses]


def test_a_failure_to_open_the_session_sends_nothing(client: Client, ask: Ask) -> None:
    client.transport.open_session.side_effect = paramiko.ChannelException(4, "\x1b[31mshortage")
    reason = "The server opens no session (code 4): are too many open?"
    assert ask().log == failed(ADDRESS, reason)
    assert client.commands == []


def test_every_type_that_has_a_reason_exists() -> None:
    """The table names types by their names; a name that paramiko drops would never match."""
    modules = (webbridge_restart, paramiko, paramiko.ssh_exception, socket, builtins)
    for key in webbridge_restart.REASONS:
        name = key.rpartition(": ")[2]
        found = [getattr(module, name, None) for module in modules]
        assert any(isinstance(kind, type) for kind in found), name
