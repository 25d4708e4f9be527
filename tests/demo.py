"""A first taste, without a Cisco Meeting Server: the whole job on four simulated servers.

It shows each command of the script and what it prints, and says what to look at. It proves
nothing: that is what the tests are for. Run it from anywhere:

    python tests/demo.py
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import webbridge_restart  # noqa: E402
from simulated_mmp import PASSWORD, SimulatedMMP, answer, refusing_address  # noqa: E402

FAILURE = b"FAILURE: Webbridge configuration not complete\n"
SECONDS_BETWEEN_TRIES = 0.3  # so that nobody has to wait for a server that is off

START = """\
This is a demo. It starts four simulated Cisco Meeting Servers on this computer,
and edits a copy of the script as you would: it lists the four servers.
Two of the four fail on purpose: server 3 refuses to restart its Web Bridge, and
at the address of server 4 nobody answers. No real server is touched.
"""
CHECK = """\
1. Check the set-up.
   --check logs in to each server and restarts nothing. This first time, it also
   stores the host keys. It finds out that server 4 does not answer. The exit
   status 1 means that at least one server failed.
"""
NIGHT = """\
2. A night with two failures.
   This is what a scheduled job does. A failure does not stop it: each server
   gets its turn. --verbose also shows what each server answered.
"""
LOG = """\
3. The log.
   Each run appends its results to webbridge_restart_logs.txt, in UTC. A success
   is one line. A failure is two: first the server, then the reason.
"""
SESSIONS = """\
4. Count the leaked sessions.
   --sessions reads the newest counters in each server's own log. From here on
   the script lists only servers 1 and 2, because every server must be counted.
"""
CONDITIONS = """\
5. A conditional night that restarts nobody.
   --if-leaked and --max-active count first. Many sessions are leaked, but there
   are people in meetings. So the script restarts nothing, and logs why.
"""
NEXT = """\
That was the demo. Its servers and its copy of the script are gone again.
What to do next: open README.md and follow "Set up". It takes you from the list
of your servers to a scheduled job.
"""


def log_of(web_bridge: int, cma: str) -> bytes:
    """Return the end of an MMP's log with both counters, logged within the last minutes."""
    now = datetime.datetime.now(datetime.timezone.utc)
    lines = (
        (3, f'"webbridge": INFO : [DEBUGGING] Stats {web_bridge}, c:3477, d:3170'),
        (2, f'host:server:  INFO : STATS: {{"callLegs": "20/24", "CMA": "{cma}"}}'),
        (1, "host:server:  INFO : recording device 1: available (1 recordings)"),
    )
    text = ""
    for minutes, line in lines:
        logged = now - datetime.timedelta(minutes=minutes)
        text += f"{logged:%Y-%m-%dT%H:%M:%S} user.info cms {line}\n"
    return text.encode()


def script_for(
    addresses: Sequence[str], folder: Path, pause: float = SECONDS_BETWEEN_TRIES
) -> Path:
    """Return a copy of the script for these servers, edited as its user would edit it.

    It also pauses for less time between two tries to connect.
    """
    text = webbridge_restart.SCRIPT.read_text(encoding="utf-8")
    lines = "".join(f'    {n}: "{address}",\n' for n, address in enumerate(addresses, 1))
    text, blocks = re.subn(r"(?s)(?<=\nWEBBRIDGES = \{\n).*?(?=\})", lines, text, count=1)
    text, pauses = re.subn(r"(?<=\nSECONDS_BETWEEN_TRIES = )[\d.]+", str(pause), text)
    if (blocks, pauses) != (1, 1):
        raise ValueError("the script no longer has these lines")
    script = folder / webbridge_restart.SCRIPT.name
    script.write_text(text, encoding="utf-8")
    return script


def show(script: Path, *options: str) -> None:
    """Run the script with the options. Its output goes where this one's goes."""
    print(f"$ python {script.name} {' '.join(options)}".rstrip(), flush=True)
    command = [sys.executable, str(script), *options]
    status = subprocess.run(
        command, env={**os.environ, "MMP_PASSWORD": PASSWORD}, stderr=subprocess.STDOUT
    ).returncode
    print(f"(exit status {status})\n", flush=True)


def main() -> int:
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # the servers' side of it
    print(START)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        full = stack.enter_context(SimulatedMMP(log=log_of(149, "14/17")))
        other = stack.enter_context(SimulatedMMP(log=log_of(31, "30/34")))
        failing = stack.enter_context(SimulatedMMP(restart=answer(FAILURE)))
        refusing = stack.enter_context(refusing_address())
        servers = [full.address, other.address, failing.address, refusing]
        script = script_for(servers, folder)
        print(CHECK)
        show(script, "--check", "--accept-new-host-keys")
        print(NIGHT)
        show(script, "--verbose")
        print(LOG)
        print(script.with_name(webbridge_restart.LOG_NAME).read_text(encoding="utf-8"))
        script_for(servers[:2], folder)
        print(SESSIONS)
        show(script, "--sessions")
        print(CONDITIONS)
        show(script, "--if-leaked", "20", "--max-active", "0")
    print(NEXT, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
