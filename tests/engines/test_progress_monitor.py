"""What a builder may call from native code: nothing leaves these calls but in the end."""

from types import SimpleNamespace

import pytest

from flashvsr_trt.engines.progress_monitor import Cancellation, progress_monitor

TRT = SimpleNamespace(IProgressMonitor=object)


def test_phases_may_end_twice_and_tell_of_steps_that_never_began():
    told = []
    monitor = progress_monitor(TRT, Cancellation(), lambda *phase: told.append(phase))
    monitor.phase_start("tactics", None, 2)
    assert monitor.step_complete("tactics", 0)
    monitor.phase_finish("tactics")
    monitor.phase_finish("tactics")
    assert monitor.step_complete("tactics", 1)
    assert told == [("tactics", 0, 2), ("tactics", 1, 2), ("tactics", 2, 2)]
    monitor.raise_failure()


def test_a_cancelled_build_is_stopped_at_its_next_step():
    cancellation = Cancellation()
    monitor = progress_monitor(TRT, cancellation, ignore_phase)
    cancellation.requested = True
    assert not monitor.step_complete("tactics", 0)


def ignore_phase(phase, done, steps):
    """Progress is not what is looked at."""


@pytest.mark.parametrize("error", [BrokenPipeError("nobody reads"), KeyboardInterrupt()])
def test_what_a_report_raises_stops_the_build_and_comes_out_afterwards(error):
    def report(phase, done, steps):
        raise error

    monitor = progress_monitor(TRT, Cancellation(), report)
    monitor.phase_start("tactics", None, 2)
    assert not monitor.step_complete("tactics", 0)
    monitor.phase_finish("tactics")
    with pytest.raises(type(error)):
        monitor.raise_failure()
