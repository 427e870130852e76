"""What root in a container may do: Linux capabilities, by their numbers in linux/capability.h."""

from __future__ import annotations

__all__ = ["BASIC", "NAMESPACES", "NETWORK"]

#: Users, files, processes, ports: what sshd, PostgreSQL, OAR and apt need. Those that reach past the
#: container are not among them: modules, the clock, raw disks and memory, files by handle, kernel logs.
BASIC = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        18,  # SYS_CHROOT
        23,  # SYS_NICE
        24,  # SYS_RESOURCE
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)

#: Addresses, links, queues, filters, raw sockets.
NETWORK = frozenset({12, 13})  # NET_ADMIN, NET_RAW

#: Mounts and namespaces, which light guests and RAM disks need, and tracing of the processes in them. With
#: this a container is no boundary against its root: see SECURITY.md.
NAMESPACES = frozenset({19, 21})  # SYS_PTRACE, SYS_ADMIN
