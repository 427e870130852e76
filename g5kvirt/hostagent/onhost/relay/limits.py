"""What a relay's job may leave out: limits, in seconds."""

from __future__ import annotations

DEFAULTS = {
    "silence": 0.4,  #: without a byte, after which a predecessor is probed, at the latest
    "answer": 0.6,  #: that a predecessor has for its answer, and for a connection
    "grace": 5.0,  #: after our start, in which a predecessor that refuses may still be starting
    "patience": 30.0,  #: without a byte and without a predecessor alive, before we give up
    "deadline": 900.0,  #: for everything until the file is here and checked
    "serve": 86400.0,  #: how long to serve after that
    "idle": 300.0,  #: after which a client that takes nothing of what is there is disconnected
}
