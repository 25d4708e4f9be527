"""The job over real SSH: what the log says, what the server received, what the exit status is."""

from __future__ import annotations

from conftest import Run, failed, restarted
from simulated_mmp import PASSWORD, SimulatedMMP, answer


def test_restarts_every_server_in_order(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second:
        ran = run([first, second])
    assert ran.log == [restarted(first), restarted(second)]
    assert ran.status == 0
    assert ran.err == ""
    assert first.commands == second.commands == ["webbridge restart"]
    assert first.passwords == second.passwords == [PASSWORD]


def test_failure_of_one_server_does_not_stop_the_next(run: Run, mmp: SimulatedMMP) -> None:
    with SimulatedMMP(restart=answer(b"SUCCESS: a\r\nFAILURE: b\r\n")) as bad:
        ran = run([bad, mmp])
    assert ran.log == [*failed(bad, "The server answered: SUCCESS: a | FAILURE: b"), restarted(mmp)]
    assert ran.status == 1
