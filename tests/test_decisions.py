"""What is sent how often, on a mocked paramiko.Transport: again or not, once or never.

A test reads the steps of a run from a list: "connect", "password", "session", "webbridge restart".
Only here can a failure come at exactly one step, and one thread wait for another. How a failure is
explained, and what real servers do, is in test_faults.py and test_wire.py. How an answer is judged
is in test_answers.py.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock, create_autospec

import paramiko
import pytest
from paramiko.ssh_exception import IncompatiblePeer, NoValidConnectionsError

import webbridge_restart
from conftest import Run, failed, restarted
from simulated_mmp import PASSWORD, SUCCESS, ed25519_key
from webbridge_restart import RESTART_COMMAND, Session

ADDRESS, SECOND, THIRD = "10.48.79.194", "10.48.79.195", "10.48.79.196"
REFUSED = NoValidConnectionsError({(ADDRESS, 22): ConnectionRefusedError()})
UNABLE = f"[Errno None] Unable to connect to port 22 on {ADDRESS}"
MAYBE = "The restart may or may not have happened: check the Web Bridge before you run this again."
CONNECT, KEYS, PASSWORD_SENT, SESSION = "connect", "keys", "password", "session"
QUESTION = "question"
BEGINNING = [CONNECT, KEYS, PASSWORD_SENT, SESSION]
ALL_STEPS = [*BEGINNING, RESTART_COMMAND]
WANTS_ANSWERS = paramiko.BadAuthenticationType("no", ["publickey", "keyboard-interactive"])
PATIENCE = 60  # seconds; then a test fails
Transport = paramiko.Transport  # before a test puts the mock in its place


class Network:
    """The mocked connections of a run: the steps that they took, and what goes wrong with them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.steps_at: dict[str, list[str]] = {}  # the same, by the server's address
        self.failures: dict[str, list[Exception | None]] = {}  # of a step: the next ones
        self.waits: dict[str, Callable[[str], object]] = {}  # called with the address at a step
        self.answers: dict[str, list[bytes | Exception]] = {}  # by address, if not SUCCESS
        self.status = 0
        self.still_wanted: list[str] = []  # after the right password
        self.host_keys = [ed25519_key()]  # of the connections in turn; the last one stays
        self.sockets: list[MagicMock] = []

    def step(self, address: str, name: str) -> None:
        self.steps.append(name)
        self.steps_at.setdefault(address, []).append(name)
        failures = self.failures.get(name)
        failure = failures.pop(0) if failures else None
        if name in self.waits:
            self.waits[name](address)
        if failure:
            raise failure

    def dial(self, host: str, port: int, seconds: float) -> MagicMock:
        self.step(host, CONNECT)
        connection = create_autospec(socket.socket, instance=True)
        connection.host = host
        self.sockets.append(connection)
        return connection

    def transport(self, connection: MagicMock) -> MagicMock:
        host = connection.host
        host_key = self.host_keys.pop(0) if len(self.host_keys) > 1 else self.host_keys[0]

        def auth_password(username: str, password: str, *, fallback: bool) -> list[str]:
            right = (username, password, fallback) == ("admin", PASSWORD, False)
            self.step(host, PASSWORD_SENT if right else "something else")
            return self.still_wanted

        def auth_interactive(_: str, handler: Callable[..., list[str]]) -> list[str]:
            self.step(host, QUESTION)
            assert handler("", "", [("Password: ", False)]) == [PASSWORD]
            return []

        def open_session() -> MagicMock:
            self.step(host, SESSION)
            return self.channel(host)

        transport = create_autospec(Transport, instance=True)
        transport.sock, transport.host_key_type = connection, host_key.get_name()
        transport.get_security_options.return_value.key_types = ["ssh-ed25519", "rsa-sha2-512"]
        transport.start_client.side_effect = lambda timeout: self.step(host, KEYS)
        transport.get_remote_server_key.return_value = host_key
        transport.auth_password.side_effect = auth_password
        transport.auth_interactive.side_effect = auth_interactive
        transport.open_session.side_effect = open_session
        transport.is_active.return_value = True
        return transport

    def channel(self, host: str) -> MagicMock:
        answer = list(self.answers.get(host, [SUCCESS]))

        def recv(_: int) -> bytes:
            piece = answer.pop(0) if answer else b""
            if isinstance(piece, Exception):
                raise piece
            return piece

        channel = create_autospec(paramiko.Channel, instance=True)
        channel.status_event = MagicMock()
        channel.exit_status = self.status
        channel.closed = channel.eof_received = channel.eof_sent = True
        channel.exec_command.side_effect = lambda command: self.step(host, command)
        channel.recv.side_effect = recv
        channel.recv_ready.side_effect = lambda: bool(answer)
        channel.exit_status_ready.return_value = False
        return channel


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, known_hosts: Path) -> Network:
    network = Network()
    monkeypatch.setattr(webbridge_restart, "dial", network.dial)
    monkeypatch.setattr(paramiko, "Transport", network.transport)
    key = network.host_keys[0]
    names = ",".join([ADDRESS, SECOND, THIRD])
    known_hosts.write_text(f"{names} {key.get_name()} {key.get_base64()}\n")
    return network


def new_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


def join(threads: set[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def time_is_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], bool]]:
    """Says of an address whether its time is over. The time of others is never over."""
    over: dict[str, Callable[[], bool]] = {}

    def why_cut_off(_: object, session: Session) -> str:
        is_over = over.get(session.server.address)
        return "after 60 s" if is_over and is_over() else ""

    monkeypatch.setattr(webbridge_restart.Run, "why_cut_off", why_cut_off)
    return over


# ---- Connecting: what is tried again -------------------------------------------------------------

PASSING = {
    "refused": REFUSED,
    "reset": ConnectionResetError(104, "Connection reset by peer"),
    "no network": OSError(101, "Network is unreachable"),
    "timed out": socket.timeout("timed out"),
    "no name server": socket.gaierror(-3, "Temporary failure in name resolution"),
    "end": EOFError(),
    "no banner": paramiko.SSHException("Error reading SSH protocol banner"),
}


@pytest.mark.parametrize("step", [CONNECT, KEYS])
@pytest.mark.parametrize("failure", PASSING.values(), ids=PASSING)
def test_what_can_pass_is_tried_again(
    network: Network, run: Run, failure: Exception, step: str
) -> None:
    network.failures[step] = [failure, failure]
    assert run([ADDRESS]).log == [restarted(ADDRESS)]
    one_try = [CONNECT] if step == CONNECT else [CONNECT, KEYS]
    assert network.steps == [*one_try, *one_try, *ALL_STEPS]


def test_three_tries_in_all(network: Network, run: Run) -> None:
    network.failures[CONNECT] = [REFUSED] * 4
    ran = run([ADDRESS])
    assert ran.log == failed(ADDRESS, UNABLE)
    assert (ran.status, network.steps) == (1, [CONNECT] * 3)


def test_no_try_is_begun_without_time_for_it(
    network: Network, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is then in the log, instead of a cut-off a moment later."""
    monkeypatch.setattr(webbridge_restart, "SECONDS_BETWEEN_TRIES", 50.0)
    network.failures[CONNECT] = [REFUSED] * 4
    assert run([ADDRESS], "--timeout", "60").log == failed(ADDRESS, UNABLE)
    assert network.steps == [CONNECT]


def test_connection_of_a_failed_try_is_closed(network: Network, run: Run) -> None:
    network.failures[KEYS] = [EOFError()]
    assert run([ADDRESS]).status == 0
    assert [bool(each.close.called) for each in network.sockets] == [True, True]


def test_what_lasts_is_not_tried_again(network: Network, run: Run) -> None:
    network.failures[KEYS] = [ValueError("odd\x1b")]
    assert run([ADDRESS]).log == failed(ADDRESS, r"ValueError while connecting: odd\x1b.")
    assert network.steps == [CONNECT, KEYS]


@pytest.mark.parametrize(("known", "tries"), [(True, 2), (False, 1)], ids=["known", "unknown"])
def test_nothing_in_common(
    network: Network, run: Run, known_hosts: Path, known: bool, tries: int
) -> None:
    """If the server's keys are known, one more try shows which key it has instead."""
    network.failures[KEYS] = [IncompatiblePeer("no acceptable kex algorithm") for _ in range(4)]
    if not known:
        known_hosts.write_text("")
    ran = run([ADDRESS])
    assert "have no algorithm in common" in ran.log[1]
    assert (ran.status, network.steps) == (1, [CONNECT, KEYS] * tries)


# ---- From the login on: nothing is repeated ------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "failure", "steps"),
    [
        (PASSWORD_SENT, paramiko.AuthenticationException("Authentication failed."), 3),
        (PASSWORD_SENT, paramiko.BadAuthenticationType("no", ["publickey"]), 3),
        (PASSWORD_SENT, paramiko.BadAuthenticationType("no", ["password"]), 3),
        (PASSWORD_SENT, paramiko.SSHException("Illegal info request from server"), 3),
        (PASSWORD_SENT, ConnectionResetError(104, "Connection reset by peer"), 3),
        (PASSWORD_SENT, EOFError(), 3),
        (SESSION, paramiko.ChannelException(4, "shortage"), 4),
        (SESSION, paramiko.SSHException("No existing session"), 4),
        (SESSION, EOFError(), 4),
    ],
    ids=lambda value: value if isinstance(value, (str, int)) else type(value).__name__,
)
def test_failure_ends_it(
    network: Network, run: Run, step: str, failure: Exception, steps: int
) -> None:
    network.failures[step] = [failure]
    ran = run([ADDRESS])
    assert (ran.status, network.steps) == (1, ALL_STEPS[:steps])


@pytest.mark.parametrize("failure", [EOFError(), OSError(104, "reset"), ZeroDivisionError("odd")])
def test_failure_in_the_answer_ends_it(network: Network, run: Run, failure: Exception) -> None:
    network.answers[ADDRESS] = [b"SUCC", failure]
    ran = run([ADDRESS])
    assert (ran.status, network.steps) == (1, ALL_STEPS)
    assert ran.log[1].endswith(MAYBE)


def test_second_factor_gets_nothing(network: Network, run: Run) -> None:
    network.still_wanted = ["keyboard-interactive"]
    assert run([ADDRESS]).status == 1
    assert network.steps == [CONNECT, KEYS, PASSWORD_SENT]


def test_key_that_is_not_the_known_one_gets_nothing(network: Network, run: Run) -> None:
    network.host_keys = [ed25519_key()]
    assert run([ADDRESS]).status == 1
    assert network.steps == [CONNECT, KEYS]


@pytest.mark.parametrize("came", ["text", "status"])
def test_answer_that_comes_before_the_reply_to_the_request(
    network: Network, run: Run, came: str
) -> None:
    """It is judged like any other, but silence confirms nothing there."""
    network.failures[RESTART_COMMAND] = [paramiko.SSHException("Channel closed.")]
    if came == "text":
        network.status = -1
        assert run([ADDRESS]).log == [restarted(ADDRESS)]
    else:
        network.answers[ADDRESS] = []
        reason = "The answer does not confirm the restart: nothing (exit status 0)."
        assert run([ADDRESS]).log == failed(ADDRESS, f"{reason} {MAYBE}")
    assert network.steps == ALL_STEPS


# ---- Answering the question for the password -----------------------------------------------------

ANSWERED = [CONNECT, KEYS, PASSWORD_SENT, CONNECT, KEYS, QUESTION]


def test_question_is_answered_on_a_connection_of_its_own(network: Network, run: Run) -> None:
    network.failures[PASSWORD_SENT] = [WANTS_ANSWERS]
    assert run([ADDRESS]).log == [restarted(ADDRESS)]
    assert network.steps == [*ANSWERED, SESSION, RESTART_COMMAND]
    assert [bool(each.close.called) for each in network.sockets] == [True, True]


@pytest.mark.parametrize(
    "failure",
    [
        paramiko.AuthenticationException("Authentication failed."),
        WANTS_ANSWERS,
        paramiko.SSHException("odd"),
        EOFError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_question_is_answered_once(network: Network, run: Run, failure: Exception) -> None:
    network.failures = {PASSWORD_SENT: [WANTS_ANSWERS], QUESTION: [failure]}
    assert run([ADDRESS]).status == 1
    assert network.steps == ANSWERED


def test_connection_for_the_question_has_its_tries_too(network: Network, run: Run) -> None:
    network.failures = {CONNECT: [None, REFUSED, REFUSED], PASSWORD_SENT: [WANTS_ANSWERS]}
    assert run([ADDRESS]).status == 0
    assert network.steps == [
        *(CONNECT, KEYS, PASSWORD_SENT),
        *(CONNECT, CONNECT),
        *(CONNECT, KEYS, QUESTION, SESSION, RESTART_COMMAND),
    ]


def test_connection_for_the_question_must_show_the_key_that_was_stored(
    network: Network, run: Run, known_hosts: Path
) -> None:
    """The first connection stored it. Somebody else may answer the second one."""
    known_hosts.write_text("")
    network.host_keys = [ed25519_key(), ed25519_key()]
    network.failures[PASSWORD_SENT] = [WANTS_ANSWERS]
    ran = run([ADDRESS], "--accept-new-host-keys")
    assert ran.log[1].startswith("The host key has CHANGED.")
    assert network.steps == [CONNECT, KEYS, PASSWORD_SENT, CONNECT, KEYS]
    assert len(known_hosts.read_text().splitlines()) == 1


# ---- Turns and threads ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", ALL_STEPS[:-1])
def test_nothing_is_sent_after_the_cut_off(
    network: Network, run: Run, time_is_over: dict[str, Callable[[], bool]], step: str
) -> None:
    """A step that succeeds a moment later is the last one, and its connection is closed."""
    before = set(threading.enumerate())
    reached, cut_off = threading.Event(), threading.Event()

    def wait(_: str) -> None:
        reached.set()
        assert cut_off.wait(PATIENCE)

    network.waits[step] = wait
    time_is_over[ADDRESS] = reached.is_set
    ran = run([ADDRESS])
    cut_off.set()
    join(new_threads(before))
    doing = {PASSWORD_SENT: "logging in", SESSION: "opening a session"}.get(step, "connecting")
    assert ran.log == failed(ADDRESS, f"Cut off after 60 s while {doing}.")
    assert network.steps == ALL_STEPS[: ALL_STEPS.index(step) + 1]
    assert [bool(each.close.called) for each in network.sockets] == [True]


def test_no_try_is_begun_after_the_cut_off(
    network: Network, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal also ends the pause before the next try."""
    before = set(threading.enumerate())
    monkeypatch.setattr(webbridge_restart, "SECONDS_BETWEEN_TRIES", 1000.0)
    network.failures[CONNECT] = [REFUSED]
    network.waits[CONNECT] = lambda _: signal.raise_signal(signal.SIGTERM)
    ran = run([ADDRESS], "--timeout", "80000")
    join(new_threads(before))
    ended = "Ended by SIGTERM. Not attempted: none"
    assert ran.log == [*failed(ADDRESS, "Cut off by SIGTERM while connecting."), ended]
    assert network.steps == [CONNECT]


def test_what_has_ended_is_told_before_the_clock_is_looked_at(
    network: Network,
    run: Run,
    time_is_over: dict[str, Callable[[], bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow disk holds the main thread up while the servers answer and their time goes by."""
    real, before = webbridge_restart.Log.write, set(threading.enumerate())
    first_is_told = threading.Event()

    def restart(address: str) -> None:
        if address != ADDRESS:
            assert first_is_told.wait(PATIENCE)

    def write(log: webbridge_restart.Log, *messages: str) -> None:
        first_is_told.set()
        join(new_threads(before))
        real(log, *messages)

    monkeypatch.setattr(webbridge_restart.Log, "write", write)
    network.waits[RESTART_COMMAND] = restart
    time_is_over.update({SECOND: first_is_told.is_set, THIRD: first_is_told.is_set})
    ran = run([ADDRESS, SECOND, THIRD], "--parallel", "3")
    assert ran.log[0] == restarted(ADDRESS)
    assert sorted(ran.log[1:]) == [restarted(SECOND), restarted(THIRD)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failure_that_nobody_can_tell_is_cut_off(
    network: Network, run: Run, time_is_over: dict[str, Callable[[], bool]]
) -> None:
    """Whatever goes wrong in a server's own thread, the run ends."""
    before = set(threading.enumerate())
    begun = threading.Event()

    class Untold(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    network.answers[ADDRESS] = [Untold()]
    network.waits[RESTART_COMMAND] = lambda _: begun.set()
    time_is_over[ADDRESS] = lambda: begun.is_set() and not new_threads(before)
    ran = run([ADDRESS])
    cut_off = f"Cut off after 60 s while waiting for the answer. {MAYBE}"
    assert ran.log == failed(ADDRESS, cut_off)
    assert (ran.status, network.steps) == (1, ALL_STEPS)
