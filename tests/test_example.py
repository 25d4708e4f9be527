"""What is delivered beside the script holds to what the script does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import demo
import webbridge_restart
from conftest import Run, unstamped
from simulated_mmp import SimulatedMMP, answer, refusing_address

EXAMPLE = webbridge_restart.SCRIPT.with_name("webbridge_restart_logs.txt.example")


def test_the_example_is_what_a_run_like_the_demo_writes(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second, SimulatedMMP() as failing:
        failing.restart = answer(demo.FAILURE)
        with refusing_address() as refusing:
            ran = run([first, second, failing, refusing])
    addresses = [first.address, second.address, failing.address, refusing]
    example = unstamped(EXAMPLE.read_text(encoding="utf-8"))
    shown = dict.fromkeys(re.findall(r"server:? (\S+?)(?: restarted|\. Error)", "\n".join(example)))
    log = "\n".join(ran.log).replace(f"port {refusing.split(':')[1]} on", "port 22 on")
    for address, in_example in zip(addresses, shown):
        log = log.replace(address, in_example)
    assert log.splitlines() == example


def test_the_example_is_stamped_as_the_log_is() -> None:
    stamps = [line[:32] for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    assert stamps == sorted(stamps)
    assert (stamps[2], stamps[4]) == (stamps[3], stamps[5])


def test_the_demo_edits_the_inventory(tmp_path: Path) -> None:
    script = demo.script_for(["10.48.79.194", "cms2.example.com"], tmp_path)
    edited = runpy.run_path(str(script))
    assert edited["WEBBRIDGES"] == {1: "10.48.79.194", 2: "cms2.example.com"}
