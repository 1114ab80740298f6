import os
import signal
import subprocess
import sys

import pytest

from triplex.runs import interrupt

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_outside_of_a_loop_a_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    assert interrupt.requested() is None
    with pytest.raises(interrupt.Interrupted) as found:
        os.kill(os.getpid(), number)
    assert (found.value.code, found.value.signal) == (code, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_inside_a_loop_it_waits_to_be_looked_at(number: signal.Signals) -> None:
    seen = []

    def loop() -> None:
        with interrupt.deferred():
            os.kill(os.getpid(), number)
            seen.append(interrupt.requested())
            os.kill(os.getpid(), number)  # an impatient one changes nothing
            seen.append(interrupt.requested())

    with pytest.raises(interrupt.Interrupted):
        loop()
    assert seen == [number, number]


def test_after_the_loop_it_ends_at_once_again() -> None:
    with interrupt.deferred():
        pass
    with pytest.raises(interrupt.Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_error_of_the_loop_is_not_hidden() -> None:
    def loop() -> None:
        with interrupt.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            raise KeyError

    with pytest.raises(KeyError):
        loop()
    with pytest.raises(interrupt.Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_with_the_code_of_the_signal_and_no_traceback(number: signal.Signals) -> None:
    code = f"import os; from triplex.runs import interrupt; interrupt.install(); os.kill(os.getpid(), {int(number)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")
