"""A first taste, without a Cisco Meeting Server: the whole job on four simulated servers.

Two behave well, one answers FAILURE, and at one address nobody listens. Run it from anywhere:

    python tests/demo.py
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import webbridge_restart  # noqa: E402
from simulated_mmp import PASSWORD, SimulatedMMP, answer, refusing_address  # noqa: E402

FAILURE = b"FAILURE: TLS port set but no certificates configured\n"


def log(sessions: int, cma: str) -> bytes:
    """Return the end of an MMP's log, with a Web Bridge's and a Call Bridge's counter."""
    lines = (
        f"14:00 user.info cms webbridge: INFO : [DEBUGGING] Stats {sessions}, c:3477, d:3170",
        f'15:00 user.info cms host:server:  INFO : STATS: {{"callLegs": "20/24", "CMA": "{cma}"}}',
        "16:00 user.info cms host:server:  INFO : recording device 1: available",
    )
    return "".join(f"Jun 20 21:{line}\n" for line in lines).encode()


def script_for(addresses: list[str], folder: Path) -> Path:
    """Return a copy of the script whose inventory has been edited, as its user would edit it."""
    text = webbridge_restart.SCRIPT.read_text(encoding="utf-8")
    lines = "".join(f'    {n}: "{address}",\n' for n, address in enumerate(addresses, 1))
    text = re.sub(r"(?s)(?<=\nWEBBRIDGES = \{\n).*?(?=\})", lines, text, count=1)
    script = folder / webbridge_restart.SCRIPT.name
    script.write_text(text, encoding="utf-8")
    return script


def show(script: Path, *options: str) -> None:
    """Run the script with the options, its output where this one's goes."""
    print(f"$ python {script.name} {' '.join(options)}", flush=True)
    command = [sys.executable, str(script), *options]
    status = subprocess.run(
        command, env={**os.environ, "MMP_PASSWORD": PASSWORD}, stderr=subprocess.STDOUT
    ).returncode
    print(f"(exit status {status})\n", flush=True)


def main() -> int:
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # the servers' side of it
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        full = stack.enter_context(SimulatedMMP(log=log(149, "14/17")))
        other = stack.enter_context(SimulatedMMP(log=log(31, "30/34")))
        failing = stack.enter_context(SimulatedMMP(restart=answer(FAILURE)))
        refusing = stack.enter_context(refusing_address())
        servers = [full.address, other.address, failing.address, refusing]
        script = script_for(servers, folder)
        show(script, "--check", "--accept-new-host-keys")
        show(script, "--verbose")
        print("The log that it wrote, webbridge_restart_logs.txt:\n")
        print(script.with_name("webbridge_restart_logs.txt").read_text(encoding="utf-8"))
        script_for(servers[:2], folder)
        show(script, "--sessions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
