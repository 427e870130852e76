"""execo's configuration for a testbed. It is process-wide, so a process uses one testbed at a time."""

from __future__ import annotations

import logging
import shutil
import threading

from g5kvirt.errors import TestbedError
from g5kvirt.remote.access import PLAIN_LOGIN, PLAIN_SHELL
from g5kvirt.testbeds.grid5000.api import hide_password
from g5kvirt.testbeds.grid5000.api_login import read_login, use_login
from g5kvirt.testbeds.grid5000.recording import record
from g5kvirt.testbeds.grid5000.settings import Settings
from g5kvirt.testbeds.transcript import transcript

__all__ = ["configure"]

_DEFAULT_API = "grid5000"
_configured: list[str] = []  # the API for which execo is configured; at most one


def _wrapper() -> list[str]:
    """The command line in front of execo's ``ssh``, which runs in the environment of this process.

    A plain shell for its ProxyCommand and English messages, as in `Access.environment`; and where setpriv(1)
    exists, ssh ends with the thread that started it: an oarsub that outlives a killed run would reserve for
    nobody.
    """
    setpriv = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return [*setpriv, "env", f"SHELL={PLAIN_SHELL}", "LC_ALL=C"]


def configure(settings: Settings, jump: str) -> None:
    """Configure execo for a testbed; ``jump``: the ssh servers in between, as ``ssh -J`` takes them.

    Harmless if it is configured for that testbed already. Raises TestbedError if it is configured for another
    one, or for none yet and this is not the main thread.
    """
    uri = settings.api_uri or _DEFAULT_API
    if _configured and _configured[0] != uri:
        raise TestbedError(
            f"this process already uses the testbed at {hide_password(_configured[0])}, and execo supports"
            " one testbed per process",
            advice="start a new process (in a notebook: restart the kernel)",
        )
    if threading.current_thread() is not threading.main_thread() and not _configured:
        raise TestbedError(
            "execo does not support a first connection to a testbed outside the main thread",
            advice="connect from the main thread first",
        )
    import execo
    import execo.log
    import execo_g5k
    from execo_g5k import api_utils

    stock = execo.config.make_default_connection_params()
    program, *options = [*_wrapper(), "ssh"]
    options += ["-F", str(settings.ssh_config)] if settings.ssh_config is not None else []
    options += ["-J", jump] if jump else []
    options += [word for option in (*settings.ssh_options, *PLAIN_LOGIN) for word in ("-o", option)]
    # execo's two dictionaries do not inherit from each other: both get the options.
    for params in (execo.default_connection_params, execo_g5k.default_frontend_connection_params):
        params["ssh"] = program
        params["ssh_options"] = (*options, *stock["ssh_options"])
    if settings.user is not None:
        execo_g5k.default_frontend_connection_params["user"] = settings.user
    configuration = execo_g5k.config.g5k_configuration
    configuration["polling_interval"] = settings.polling_interval
    configuration["tiny_polling_interval"] = settings.tiny_polling_interval
    configuration["default_timeout"] = settings.command_timeout
    if settings.api_uri is not None:
        configuration["api_uri"] = settings.api_uri
    if settings.cache is not None:
        # execo's cache does not record which API it came from and would give another testbed's answers;
        # its directory is a default argument, fixed when the module was imported.
        api_utils.get_api_data.__defaults__ = (f"{settings.cache}/",)
    if not _configured:
        record(transcript)
        use_login(read_login(settings.password_file) if settings.password_file is not None else None)
    # Failures are reported by our own errors; execo logs whole processes with their output.
    execo.log.logger.setLevel(logging.CRITICAL)
    _configured[:] = [uri]
