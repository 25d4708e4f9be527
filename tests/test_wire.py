"""What real servers and networks do, beyond one faulty answer to one restart.

Here stand names with several addresses, slow handshakes, what is sent before the login, which host
keys are asked for, and logs that change while they are read. All of it goes over real SSH. One
faulty server between two good ones is a row in test_faults.py. What the counters in a log mean is
in test_sessions.py.
"""

from __future__ import annotations

import datetime
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Union

import paramiko
import pytest

import webbridge_restart
from conftest import Run, failed, restarted
from simulated_mmp import PASSWORD, SimulatedMMP, ecdsa_key, ed25519_key, rsa_key
from strict_mmp import StrictMMP

PARAMIKO = int(paramiko.__version__.partition(".")[0])
AnyMMP = Union[SimulatedMMP, StrictMMP]
KINDS = pytest.mark.parametrize("kind", [SimulatedMMP, StrictMMP])

# ---- Names with several addresses ----------------------------------------------------------------

NAME = "cms.example.test"
GOOD = "127.0.0.1"
# What a connection to an address ends with. These addresses are only for documentation.
ENDS: dict[str, type[OSError] | int] = {
    "192.0.2.1": socket.timeout,
    "192.0.2.2": errno.ENETUNREACH,
    "192.0.2.3": errno.EHOSTUNREACH,
    "192.0.2.4": errno.ECONNREFUSED,
    "192.0.2.5": errno.ECONNREFUSED,
}
SILENT, NO_ROUTE, NO_HOST, REFUSES, ALSO_REFUSES = ENDS


class Network:
    """What addresses the name has, and which connections were tried for how long."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.tried: list[tuple[str, float | None]] = []


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network, real = Network(), socket.getaddrinfo

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            network.tried.append((address[0], self.gettimeout()))
            end = ENDS.get(address[0])
            if isinstance(end, int):
                raise OSError(end, os.strerror(end))
            if end is not None:
                raise end("timed out")
            super().connect(address)

    def getaddrinfo(host: str, port: int, *others: Any, **named: Any) -> Any:
        if host != NAME:
            return real(host, port, *others, **named)
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*tcp, (address, port)) for address in network.addresses]

    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return network


@pytest.mark.parametrize("bad", [SILENT, NO_ROUTE, NO_HOST, REFUSES])
def test_address_that_fails_does_not_hide_a_good_one(
    network: Network, run: Run, mmp: SimulatedMMP, known_hosts: Path, bad: str
) -> None:
    network.addresses = [bad, GOOD]
    name = f"{NAME}:{mmp.port}"
    known_hosts.write_text(f"[{NAME}]:{mmp.port} {mmp.known_hosts_line.partition(' ')[2]}\n")
    ran = run([name])
    assert ran.log == [restarted(name)]
    assert [address for address, _ in network.tried] == [bad, GOOD]
    assert (mmp.connections, mmp.commands) == (1, ["webbridge restart"])


def test_each_address_gets_its_part_of_a_try(network: Network, run: Run) -> None:
    network.addresses = [SILENT, REFUSES, SILENT]
    run([NAME], "--timeout", "100")
    limits = [limit or 0 for _, limit in network.tried[:3]]
    assert limits == pytest.approx([10, 15, 30], rel=0.05)  # nobody used up a part of the 30 s


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([REFUSES], f"[Errno None] Unable to connect to port 22 on {REFUSES}"),
        (
            [ALSO_REFUSES, REFUSES],
            f"[Errno None] Unable to connect to port 22 on {REFUSES} or {ALSO_REFUSES}",
        ),
        (
            [REFUSES, NO_HOST],
            f"[Errno None] Unable to connect to port 22 on {NO_HOST} or {REFUSES}",
        ),
        (
            [REFUSES, SILENT],
            f"Cannot connect to {NAME} port 22: {os.strerror(errno.ECONNREFUSED)} ({REFUSES}), "
            f"timed out ({SILENT}).",
        ),
        (
            [NO_ROUTE, REFUSES],
            f"Cannot connect to {NAME} port 22: {os.strerror(errno.ENETUNREACH)} ({NO_ROUTE}), "
            f"{os.strerror(errno.ECONNREFUSED)} ({REFUSES}).",
        ),
    ],
    ids=["one refuses", "all refuse", "one has no host", "one is silent", "one has no route"],
)
def test_no_address_of_a_name_answers(
    network: Network, run: Run, addresses: list[str], reason: str
) -> None:
    network.addresses = addresses
    ran = run([NAME])
    assert ran.log == failed(NAME, reason)
    tries = webbridge_restart.CONNECT_TRIES
    assert [address for address, _ in network.tried] == addresses * tries


# ---- Slow servers --------------------------------------------------------------------------------


def slow_to_shake_hands(seconds: float) -> Callable[[paramiko.Transport], None]:
    """Return the set-up of a server that is slow with its banner and with its key exchange."""

    def set_up(transport: paramiko.Transport) -> None:
        real = transport._send_kex_init

        def send_kex_init() -> None:
            threading.Event().wait(seconds)
            real()

        transport._send_kex_init = send_kex_init
        threading.Event().wait(seconds)

    return set_up


def test_share_of_a_try_grows_with_the_timeout(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmp.set_up = slow_to_shake_hands(0.4)
    monkeypatch.setattr(webbridge_restart, "TRY_SHARE", 0.1)
    assert run([mmp], "--timeout", "4").status == 1
    assert mmp.passwords == []
    ran = run([mmp], "--timeout", "200")
    assert (ran.log, mmp.passwords) == ([restarted(mmp)], [PASSWORD])


def test_limits_of_paramiko_do_not_count(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its own limits, made this short, would end the connection."""
    real = paramiko.Transport.__init__

    def init(transport: paramiko.Transport, *others: Any, **named: Any) -> None:
        real(transport, *others, **named)
        if type(transport) is paramiko.Transport:  # and not the server's
            for limit in ("banner", "handshake", "auth", "channel"):
                setattr(transport, f"{limit}_timeout", 0.1)

    def right_password(_: paramiko.Transport) -> int:
        threading.Event().wait(0.3)
        return paramiko.AUTH_SUCCESSFUL

    monkeypatch.setattr(paramiko.Transport, "__init__", init)
    mmp.set_up, mmp.right_password = slow_to_shake_hands(0.3), right_password
    assert run([mmp]).log == [restarted(mmp)]
    assert (mmp.connections, mmp.passwords) == (1, [PASSWORD])


# ---- What is sent, and which keys are asked for --------------------------------------------------

KEX_INIT, NEW_KEYS, KEX_FROM_CLIENT = 20, 21, 30  # the numbers of SSH's messages
SERVICE_REQUEST, LOGIN = 5, 50
CHANNEL_OPEN, END_OF_FILE, CHANNEL_CLOSE, CHANNEL_REQUEST = 90, 96, 97, 98


def recording(received: list[int]) -> Callable[[paramiko.Transport], None]:
    """Return the set-up of a server that records the numbers of the messages it receives."""

    def set_up(transport: paramiko.Transport) -> None:
        real = transport.packetizer.read_message

        def read_message() -> tuple[int, paramiko.Message]:
            number, message = real()
            received.append(number)
            return number, message

        transport.packetizer.read_message = read_message

    return set_up


def test_nothing_is_sent_but_what_a_restart_needs(run: Run, mmp: SimulatedMMP) -> None:
    received: list[int] = []
    mmp.set_up = recording(received)
    assert run([mmp]).log == [restarted(mmp)]
    login = [KEX_INIT, KEX_FROM_CLIENT, NEW_KEYS, SERVICE_REQUEST, LOGIN]
    assert received[: len(login)] == login
    assert received[len(login) :][:2] == [CHANNEL_OPEN, CHANNEL_REQUEST]
    assert set(received[len(login) + 2 :]) <= {END_OF_FILE, CHANNEL_CLOSE}


def test_nothing_is_sent_while_the_password_is_checked(run: Run, mmp: SimulatedMMP) -> None:
    received: list[int] = []

    def right_password(_: paramiko.Transport) -> int:
        threading.Event().wait(1)
        return paramiko.AUTH_SUCCESSFUL

    mmp.set_up, mmp.right_password = recording(received), right_password
    assert run([mmp]).log == [restarted(mmp)]
    assert received.count(LOGIN) == 1
    assert received[received.index(LOGIN) + 1] == CHANNEL_OPEN


def test_end_of_file_comes_only_after_the_answer_and_silence(run: Run, mmp: SimulatedMMP) -> None:
    """Some servers drop their output when it comes right after the command."""
    received: list[int] = []
    at_answer: list[list[int]] = []

    def restart(channel: paramiko.Channel) -> None:
        channel.status_event.wait(0.7)  # longer than the silence after an answer
        at_answer.append(list(received))
        channel.sendall(b"SUCCESS: Webbridge restarted\n")
        while END_OF_FILE not in received and not channel.status_event.wait(0.01):
            pass
        channel.send_exit_status(0)
        channel.close()

    mmp.set_up, mmp.restart = recording(received), restart
    assert run([mmp]).log == [restarted(mmp)]
    assert END_OF_FILE not in at_answer[0]
    assert END_OF_FILE in received


def recording_offers(offers: list[list[str]]) -> Callable[[paramiko.Transport], None]:
    """Return the set-up of a server that records which types of host keys a client asks for."""

    def set_up(transport: paramiko.Transport) -> None:
        real = transport._parse_kex_init

        def parse_kex_init(message: paramiko.Message) -> None:
            copy = paramiko.Message(message.asbytes())
            copy.get_bytes(16)  # the cookie
            copy.get_list()  # of key exchanges
            # paramiko adds the certificates of each type.
            offers.append([kind for kind in copy.get_list() if "-cert-" not in kind])
            real(message)

        transport._parse_kex_init = parse_kex_init

    return set_up


RSA_NAMES = ["rsa-sha2-512", "rsa-sha2-256", *(["ssh-rsa"] if PARAMIKO < 5 else [])]


@pytest.mark.parametrize(
    ("own", "others", "offer"),
    [
        (rsa_key, [], RSA_NAMES),
        (rsa_key, [ed25519_key], ["ssh-ed25519", *RSA_NAMES]),
        (ecdsa_key, [rsa_key], ["ecdsa-sha2-nistp256", *RSA_NAMES]),
        (ed25519_key, [], ["ssh-ed25519"]),
    ],
    ids=["RSA", "RSA, and ED25519 that is gone", "ECDSA, and RSA that is gone", "ED25519"],
)
def test_only_known_types_of_host_keys_are_asked_for(
    run: Run,
    known_hosts: Path,
    own: Callable[[], paramiko.PKey],
    others: list[Callable[[], paramiko.PKey]],
    offer: list[str],
) -> None:
    offers: list[list[str]] = []
    with SimulatedMMP(host_key=own(), set_up=recording_offers(offers)) as server:
        name = server.known_hosts_line.split()[0]
        gone = [make_key() for make_key in others]
        lines = [f"{name} {key.get_name()} {key.get_base64()}" for key in gone]
        known_hosts.write_text("\n".join([*lines, server.known_hosts_line]))
        assert run([server]).log == [restarted(server)]
    assert offers == [offer]


def test_every_type_is_asked_for_if_no_key_is_known(
    run: Run, mmp: SimulatedMMP, known_hosts: Path
) -> None:
    offers: list[list[str]] = []
    mmp.set_up = recording_offers(offers)
    known_hosts.touch()
    assert run([mmp], "--accept-new-host-keys").log == [restarted(mmp)]
    assert offers == [[*paramiko.Transport._preferred_keys]]


# ---- Logs that change while they are read --------------------------------------------------------


def log_of(size: int = 0) -> bytes:
    """Return a log with counters at its end, and so many bytes before them."""
    now = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
    lines = (
        f"{now} user.info cms1 webbridge: INFO : [DEBUGGING] Stats 149, c:3477, d:3170\n"
        f'{now} user.info cms1 host:server:  INFO : STATS: {{"CMA": "14/17"}}\n'
    )
    filler = f"{now} user.info cms1 host:server:  INFO : recording device 1: available\n".encode()
    return filler * (size // len(filler)) + lines.encode()


COUNTED = "Leaked: 135 sessions (149 Web Bridge, 14 active CMA)."
SHORTER = "The log became shorter while it was read. Try again."
DROPPED = "The connection broke off while reading the server's log."
NO_SFTP = "The server refused while reading the server's log. Check what admin may do."


@pytest.fixture
def _threads_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for paramiko's threads as long as the script keeps their tracebacks back."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(20)


ENDS_EARLY = pytest.mark.usefixtures("_threads_end")


def assert_counted(run: Run, server: AnyMMP) -> None:
    ran = run([server], "--sessions")
    assert (ran.status, ran.err) == (0, ""), ran
    assert COUNTED in ran.out.splitlines()


def assert_not_counted(run: Run, server: AnyMMP, reason: str) -> None:
    ran = run([server], "--sessions")
    told = f"Cannot count the leaked sessions. {server.address}: {reason}\n"
    assert (ran.status, ran.err) == (1, told)
    assert "Leaked:" not in ran.out
    assert ran.out.splitlines()[1].endswith(f"Not counted: {reason}")


@KINDS
@pytest.mark.parametrize("size", [-1, 0, None], ids=["its size", "the size 0", "no size"])
def test_log_is_read_whatever_size_it_says(
    run: Run, kind: Callable[..., AbstractContextManager[AnyMMP]], size: int | None
) -> None:
    with kind(log=log_of(100_000), log_size=size) as server:
        assert_counted(run, server)


@ENDS_EARLY
@KINDS
@pytest.mark.parametrize("missing", [1, 100_000, 3 << 20], ids=["a byte", "a part", "all of it"])
def test_log_that_shrinks_is_not_counted(
    run: Run, kind: Callable[..., AbstractContextManager[AnyMMP]], missing: int
) -> None:
    """What is left of it still has counters, and they are old."""
    log = log_of(100_000)
    with kind(log=log, log_size=len(log) + missing) as server:
        assert_not_counted(run, server, SHORTER)


def test_log_without_a_size_is_kept_only_as_far_as_it_counts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbridge_restart, "MIB", 1 << 15)
    monkeypatch.setattr(webbridge_restart, "LOG_STEPS", (1, 2))
    counters = log_of()
    filler = log_of(200_000)[: -len(counters)]
    with SimulatedMMP(log=counters + filler, log_size=None) as server:
        assert_not_counted(run, server, "The log has no readable Web Bridge counter.")
        server.log = filler + counters
        assert_counted(run, server)


@ENDS_EARLY
def test_connection_that_drops_while_the_log_is_read(run: Run) -> None:
    with StrictMMP(log=log_of(100_000), log_drops_at=50_000) as server:
        assert_not_counted(run, server, DROPPED)


def test_reading_that_ends_early_prints_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of paramiko that sends the requests can come too late for the connection."""
    tracebacks: list[object] = []
    senders: list[threading.Thread] = []
    real = paramiko.SFTPClient._async_request

    def async_request(sftp: paramiko.SFTPClient, asker: object, *others: Any) -> Any:
        if isinstance(asker, paramiko.SFTPFile):  # else it is not from that thread
            if senders:
                sftp.get_channel().get_transport().join(20)  # until the connection is closed
            senders.append(threading.current_thread())
        return real(sftp, asker, *others)

    monkeypatch.setattr(paramiko.SFTPClient, "_async_request", async_request)
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    with SimulatedMMP(log=log_of(), log_size=2 << 20) as server:
        assert_not_counted(run, server, SHORTER)
        for sender in senders:
            sender.join(20)
    assert not tracebacks


def test_server_without_sftp(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbridge_restart, "HANG_UP_SECONDS", 0.3)
    with StrictMMP(log=None) as server:
        assert_not_counted(run, server, NO_SFTP)


def test_log_is_asked_for_in_pieces_of_one_mebibyte(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko sends all the requests of one readv() at once. Some servers take only so many."""
    asked: list[int] = []
    real = paramiko.SFTPFile.readv

    def readv(
        file: paramiko.SFTPFile, chunks: list[tuple[int, int]], *others: Any
    ) -> Iterator[bytes]:
        asked.append(sum(length for _, length in chunks))
        return real(file, chunks, *others)

    monkeypatch.setattr(paramiko.SFTPFile, "readv", readv)
    counters = log_of()
    filler = log_of(3 << 20)[: -len(counters)]
    mmp.log = counters + filler
    assert_counted(run, mmp)
    assert sum(asked) == len(mmp.log)
    assert max(asked) <= 1 << 20
