"""Signals that ask a run to stop, in this process and in ones that cannot hear."""

import os
import signal
import subprocess
import sys
import time

import pytest
from batch_runs import ENVIRONMENT, ROOT
from trajectories import RUN, draws, follow

from jaxllc import stopping
from jaxllc.locations import Location
from jaxllc.reading import overview
from jaxllc.store import Store
from jaxllc.writers import Membership


def wait_until_asked():
    for _ in range(500):
        if stopping._asked.is_set():
            return
        time.sleep(0.01)
    pytest.fail("the signal was not heard")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_a_check_leaves(number):
    before = signal.getsignal(number)
    with stopping.on_signals():
        stopping.check()
        os.kill(os.getpid(), number)
        wait_until_asked()
        with pytest.raises(stopping.Stopped):
            stopping.check()
    assert signal.getsignal(number) is before
    stopping.check()


def test_stopped_is_no_exception_that_others_take_for_a_failure():
    assert not issubclass(stopping.Stopped, Exception)


def test_a_trajectory_leaves_what_is_whole(tmp_path):
    """Asked when two groups are written, it ends what it can, and the next call has the numbers of one go."""
    write, written = Store.write, []

    def asking(self, place, *rest):
        write(self, place, *rest)
        written.append(place)
        if len(written) == 2:
            stopping._asked.set()

    with pytest.MonkeyPatch.context() as patch, stopping.on_signals():
        patch.setattr(Store, "write", asking)
        with pytest.raises(stopping.Stopped):
            follow(store=tmp_path / "llc.zarr", group_size=1)
    steps = [place.step for place in overview(tmp_path / "llc.zarr").done]
    assert 2 <= len(steps) < len(RUN)
    assert steps == list(RUN)[: len(steps)]
    resumed = follow(store=tmp_path / "llc.zarr", group_size=1)
    assert (draws(resumed) == draws(follow(group_size=1))).all()


def test_a_process_that_waits_for_another_leaves(tmp_path):
    """For one that lays the store out, and for a first one that never came. Seen to fail without the checks there."""
    location = Location(tmp_path / "llc.zarr")
    with Membership(location, (0, 2)) as first, Membership(location, (1, 2)) as second, first.alone("layout"), stopping.on_signals():
        stopping._asked.set()
        with pytest.raises(stopping.Stopped), second.alone("layout"):
            pass
    with stopping.on_signals(), Store(tmp_path / "other.zarr", (1, 2), first_lays_out=True) as store:
        stopping._asked.set()
        with pytest.raises(stopping.Stopped), store.laying_out([]):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_end_of_all_work_changes_nothing(number):
    """A process that has done all must end with 0. One that goes on hears signals as before."""
    code = f"import os; from jaxllc import stopping\nwith stopping.on_signals(ends_process=True): pass\nos.kill(os.getpid(), {int(number)})\nprint('ended')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended\n")


@pytest.mark.parametrize("second", [False, True])
def test_a_process_that_cannot_stop_is_ended(second):
    """Within the grace, or at the second signal; `time.sleep` goes on after a signal, as a compilation does."""
    code = (
        "import time\nfrom jaxllc import stopping\n"
        f"with stopping.on_signals(grace={60 if second else 0.5}):\n    print('ready', flush=True)\n    time.sleep(120)\n"
    )
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        if second:
            process.stderr.readline()
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == stopping.RESUMABLE
    assert time.monotonic() - began < 50
