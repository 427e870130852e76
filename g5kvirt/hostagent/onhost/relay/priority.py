"""How the kernel schedules the relay among VMs that boot."""

from __future__ import annotations

import os
import resource
import signal

from ..niceness import set_sessions
from ..processes import start_time

NICENESS = -10  #: of ours among processes; that of VMs is 0
REALTIME_LIMIT = 0.3  #: seconds that a process of real time may keep a processor without a pause


def set_scheduler(pid: int, policy: int, priority: int = 0) -> None:
    """Change how a process is scheduled, if that is allowed here."""
    try:
        os.sched_setscheduler(pid, policy, os.sched_param(priority))
    except OSError:
        pass


class Priority:
    """The relay comes before VMs, if that is allowed here: while they boot they take every processor, and
    what they wait for is what the relay brings.

    Always by its nice value. Many kernels first divide a processor's time among sessions, and only then heed
    priorities within each: a session of our own (the supervisor has given us one) is preferred as a whole.

    And while bytes come or go to successors, as a process of real time: a relay works for 0.2 ms in each
    millisecond, and what it has to wait for a processor is lost for all hosts behind it, since no link can
    catch up. Should it keep a processor for `REALTIME_LIMIT` seconds without a pause, the kernel sends
    SIGXCPU, and it is an ordinary process from then on.
    """

    def __init__(self) -> None:
        self.realtime = False
        self.overran = False
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
            if os.getsid(0) == os.getpid():
                set_sessions([{"pid": os.getpid(), "born": start_time(os.getpid())}], NICENESS, patience=1.0)
        except OSError:  # we are not root
            pass
        signal.signal(signal.SIGXCPU, self.on_overrun)
        resource.setrlimit(
            resource.RLIMIT_RTTIME, (int(REALTIME_LIMIT * 1e6), resource.getrlimit(resource.RLIMIT_RTTIME)[1])
        )

    def set_realtime(self, realtime: bool) -> None:
        """Be a process of real time, or an ordinary one."""
        realtime = realtime and not self.overran
        if realtime != self.realtime:
            self.realtime = realtime
            set_scheduler(0, os.SCHED_RR if realtime else os.SCHED_OTHER, int(realtime))

    def on_overrun(self, *_: object) -> None:
        """SIGXCPU: we keep others from a processor."""
        self.overran = True
        self.set_realtime(False)
