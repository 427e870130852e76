"""The host agent: everything g5kvirt does on a physical machine, in the standard library alone.

It is sent to every host as a directory named by the hash of its content (`hostagent.bundle`) and run there
over ssh, one connection for many requests, see `main`. A directory, and not a file, so that Python keeps
the compiled modules; named by its content, so that services keep running under the version that started them
while a newer one arrives.

Everything is idempotent: what is already as requested is answered with ``"unchanged": true``. Processes that
it starts (QEMU, supervisors of services) are detached, recorded under ``home`` and ended by ``teardown``.

Modules import each other relatively: on a host this package is called ``onhost``. An operation's module is
imported when the operation is requested. All of it runs with Python 3.9 and newer and leaves out modules
that take long to import (pathlib, contextlib, dataclasses, typing). Times are seconds since the epoch, sizes
bytes.
"""
