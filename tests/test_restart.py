"""The job in plain words: start here.

remote.at(address) is a server that behaves well; a test names only what differs. An answer is what
it sends in turn: text, the exit status as a number, "end" of file, "close"; or the connection is
"lost". With known=[], its host key is not known. A refused connection is tried three times, 2 s
apart, on a clock that the tests move. The rest is in remote.py.

Cisco's workaround logs in to the MMP of each server, one after another, sends `webbridge restart`,
once, and writes a line for each into its log.
"""

from __future__ import annotations

import errno

from conftest import DOUBT
from remote import KEY, Remote

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
RESTARTED = "connect, handshake, password, session, webbridge restart, hang up"
COUNTED = "connect, handshake, password, session, sftp, log, hang up"


def test_one_server_refuses_the_connection_and_the_next_is_restarted(remote: Remote) -> None:
    first = remote.at("10.48.79.194", connect=[REFUSED, REFUSED, REFUSED])
    second = remote.at("10.48.79.195")

    ran = remote.run()

    assert first.received == "connect, connect, connect"
    assert second.received == RESTARTED
    assert ran.log == [
        "Failed to restart webbridge on server 10.48.79.194. Error:",
        "[Errno None] Unable to connect to port 22 on 10.48.79.194",
        "Webbridge on server: 10.48.79.195 restarted successfully",
    ]
    assert ran.err == (
        "Server 1 (10.48.79.194) FAILED after 4.0 s: "
        "[Errno None] Unable to connect to port 22 on 10.48.79.194\n"
    )
    assert ran.out == "Server 2 (10.48.79.195) restarted in 0.0 s\nRestarted 1 of 2 servers.\n"
    assert ran.status == 1


def test_the_reply_in_cisco_s_document(remote: Remote) -> None:
    certificates = b"SUCCESS: Key and certificate pair match\n"
    chain = b"SUCCESS: certificate verified against CA bundle\n"
    enabled = b"SUCCESS: Webbridge enabled\n"
    remote.at("10.48.79.194", answer=[certificates, chain, enabled, 0, "end", "close"])

    ran = remote.run("--verbose")

    assert ran.log == ["Webbridge on server: 10.48.79.194 restarted successfully"]
    assert ran.out == (
        "Server 1 (10.48.79.194) restarted in 0.0 s\n"
        "  answered: SUCCESS: Key and certificate pair match | "
        "SUCCESS: certificate verified against CA bundle | SUCCESS: Webbridge enabled\n"
        "Restarted 1 of 1 server.\n"
    )
    assert ran.status == 0


def test_a_failure_line(remote: Remote) -> None:
    remote.at("10.48.79.194", answer=[b"FAILURE: Webbridge is not enabled\n", 1, "end", "close"])

    ran = remote.run()

    assert ran.log == [
        "Failed to restart webbridge on server 10.48.79.194. Error:",
        "The server answered: FAILURE: Webbridge is not enabled (exit status 1)",
    ]
    assert ran.status == 1


def test_a_connection_that_breaks_leaves_the_restart_in_doubt(remote: Remote) -> None:
    """It is not sent again: a second restart would end the meetings of who came back."""
    mmp = remote.at("10.48.79.194", answer=["lost"])

    ran = remote.run()

    assert mmp.received == RESTARTED
    assert ran.log == [
        "Failed to restart webbridge on server 10.48.79.194. Error:",
        f"The connection broke off before the end of the answer. {DOUBT}",
    ]
    assert ran.status == 1


def test_a_host_key_that_is_not_known(remote: Remote) -> None:
    """The password does not leave this computer."""
    mmp = remote.at("10.48.79.194", known=[])

    ran = remote.run()

    assert mmp.received == "connect, handshake, hang up"
    failure, reason = ran.log
    assert failure == "Failed to restart webbridge on server 10.48.79.194. Error:"
    assert reason.startswith(f"New host key, not trusted yet: ssh-ed25519 {KEY.fingerprint}.")
    assert ran.status == 1


# ---- Conditions: 30 sessions of the Web Bridge, of which the Call Bridge knows 3 -----------------

LOG = b"""\
Jun 20 21:14:00 user.info cms1 webbridge: INFO : [DEBUGGING] Stats 30, c:3477, d:3170
Jun 20 21:15:00 user.info cms1 host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "3/99"}
"""  # The mocked clock stands still at 21:16.


def test_enough_sessions_are_leaked(remote: Remote) -> None:
    mmp = remote.at("10.48.79.194", text=LOG)

    ran = remote.run("--if-leaked", "20", "--max-active", "3")

    assert mmp.received == f"{COUNTED}, {RESTARTED}"
    assert ran.log == [
        "Restarting: 3 active sessions; 27 leaked sessions.",
        "Webbridge on server: 10.48.79.194 restarted successfully",
    ]
    assert ran.status == 0


def test_somebody_is_in_a_meeting(remote: Remote) -> None:
    mmp = remote.at("10.48.79.194", text=LOG)

    ran = remote.run("--if-leaked", "20", "--max-active", "0")

    assert mmp.received == COUNTED
    assert ran.log == [
        "Not restarted: 3 active sessions, more than --max-active 0; 27 leaked sessions."
    ]
    assert ran.status == 0
