"""A first taste, without a Cisco Meeting Server: the whole job on four simulated servers.

It shows each command of the script and what it prints, and says what to look at. It proves
nothing: that is what the tests are for. Run it from anywhere:

    python tests/demo.py
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demo_mmp import FAILURE, PASSWORD, DemoMMP

SCRIPT = Path(__file__).resolve().parents[1] / "webbridge_restart.py"
LOG_NAME = "webbridge_restart_logs.txt"

STORY = """\
This is a demo. It starts four simulated Cisco Meeting Servers on this computer,
and edits a copy of the script as you would: it lists the four servers.
Two of the four fail on purpose: server 3 refuses to restart its Web Bridge, and
at the address of server 4 nobody answers. No real server is touched.

1. Check the set-up.
   --check logs in to each server and restarts nothing. This first time, it also
   stores the host keys. It finds out that server 4 does not answer. The exit
   status 1 means that at least one server failed.

2. A night with two failures.
   This is what a scheduled job does. A failure does not stop it: each server
   gets its turn. --verbose also shows what each server answered.

3. The log.
   Each run appends its results to webbridge_restart_logs.txt, in UTC. A success
   is one line. A failure is two: first the server, then the reason.

4. Count the leaked sessions.
   --sessions reads the newest counters in each server's own log. From here on
   the script lists only servers 1 and 2, because every server must be counted.
   Server 1 is FULL: nobody else can join there.

5. A conditional night that restarts nothing.
   --if-leaked and --max-active count first. Many sessions are leaked, but 44
   are active: people are in meetings. So the script restarts nothing, and logs
   why. The exit status is 1 only because server 1 is full: you must know that.

6. A conditional night that restarts.
   The people have left their meetings. The leaked sessions are still there, so
   now the script restarts both servers.

7. The log of the two conditional nights.
   One line has the figures that decided. Compare them over some nights: they
   show how fast your servers leak.

That was the demo. Its servers and its copy of the script are gone again.
What to do next: open README.md and follow "Set up" for your system. It takes
you from the list of your servers to a scheduled job.
"""


def log_of(web_bridge: int, cma: str, now: datetime.datetime) -> bytes:
    """Return the end of an MMP's log with both counters, logged within the last minutes."""
    lines = {
        2: f'"webbridge": INFO : [DEBUGGING] Stats {web_bridge}, c:3477, d:3170',
        1: f'host:server:  INFO : STATS: {{"callLegs": "20/24", "CMA": "{cma}"}}',
    }
    text = ""
    for minutes, line in lines.items():
        logged = now - datetime.timedelta(minutes=minutes)
        text += f"{logged:%Y-%m-%dT%H:%M:%S} user.info cms {line}\n"
    return text.encode()


def script_for(addresses: Sequence[str], folder: Path) -> Path:
    """Return a copy of the script for these servers, edited as its user would edit it.

    It also pauses for less time between two tries to connect, so that nobody has to wait.
    """
    text = SCRIPT.read_text(encoding="utf-8")
    lines = "".join(f'    {n}: "{address}",\n' for n, address in enumerate(addresses, 1))
    text = re.sub(r"(?s)(?<=\nWEBBRIDGES = \{\n).*?(?=\})", lines, text, count=1)
    text = re.sub(r"(?<=\nSECONDS_BETWEEN_TRIES = )[\d.]+", "0.1", text)
    script = folder / SCRIPT.name
    script.write_text(text, encoding="utf-8")
    return script


def show(text: str, script: Path, options: str) -> None:
    """Run the script with the options. Its output goes where this one's goes."""
    print(f"{text}\n\n$ python {script.name} {options}", flush=True)
    environment = {**os.environ, "MMP_PASSWORD": PASSWORD}
    command = [sys.executable, str(script), *options.split()]
    ran = subprocess.run(command, env=environment, stderr=subprocess.STDOUT)
    print(f"(exit status {ran.returncode})\n", flush=True)


def tell_story(folder: Path, refusing: str) -> None:
    start, check, night, told, sessions, busy, later, figures, _ = STORY.split("\n\n")
    full, other, failing = DemoMMP(), DemoMMP(), DemoMMP(restart=FAILURE)
    servers = [full.address, other.address, failing.address, refusing]
    script, log = script_for(servers, folder), folder / LOG_NAME
    print(start, end="\n\n")
    show(check, script, "--check --accept-new-host-keys")
    show(night, script, "--verbose")
    print(told, "", log.read_text(encoding="utf-8"), sep="\n")
    log.unlink()
    script_for(servers[:2], folder)
    now = datetime.datetime.now(datetime.timezone.utc)
    full.log, other.log = log_of(149, "14/17", now), log_of(31, "30/34", now)
    show(sessions, script, "--sessions")
    show(busy, script, "--if-leaked 20 --max-active 0")
    full.log, other.log = log_of(135, "0/14", now), log_of(1, "0/30", now)
    show(later, script, "--if-leaked 20 --max-active 0")
    print(figures, "", log.read_text(encoding="utf-8"), sep="\n")


if __name__ == "__main__":
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # the servers' side of it
    with tempfile.TemporaryDirectory() as folder, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # holds the port, and does not listen
        tell_story(Path(folder), f"127.0.0.1:{nobody.getsockname()[1]}")
    print(STORY.rpartition("\n\n")[2], end="")
