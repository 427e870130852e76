"""JupyterLab in a headless Chromium, used as by a person at a notebook.

Chromium is the machine's own, or Debian's packages unpacked into the cache: nothing is installed. Neither it
nor JupyterLab reaches anything beyond this machine's loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localbed import terminate, wait

from g5kvirt import paths
from g5kvirt.errors import MachineError
from g5kvirt.images import packages
from g5kvirt.testbeds.local import layers

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["Chromium", "Notebook", "chromium", "jupyter", "opened"]

PACKAGE = "chromium-headless-shell"
PATIENCE = 120.0  #: time-out in seconds for operations that are immediate on an idle machine

#: User settings of JupyterLab: no update checks over the network, no cell without its DOM.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "notebook-extension/tracker": {"windowingMode": "none"},
}

#: Fonts of this machine, or those unpacked with Chromium.
FONTS = """\
<fontconfig>
<include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<dir>{root}/usr/share/fonts</dir>
<cachedir>{root}/fontconfig</cachedir>
<alias binding="same"><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias binding="same"><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


# ---- Chromium -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chromium:
    """An executable Chromium: its program and the environment variables that it needs."""

    program: Path
    environment: Mapping[str, str]


def chromium() -> Chromium:
    """The installed Chromium, or Debian's unpacked into the cache. Raises MachineError if there is none."""
    for name in (PACKAGE, "chromium"):
        if found := shutil.which(name):
            return Chromium(Path(found), {})
    cache = paths.cache() / "chromium"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        root = _unpacked(cache, {})
    except MachineError:
        # The package lists of this machine may name versions that the mirror no longer has: use new lists.
        with tempfile.TemporaryDirectory(dir=cache) as place:
            (Path(place) / "lists/partial").mkdir(parents=True)
            configuration = Path(place) / "apt.conf"
            configuration.write_text(f'Dir::State::Lists "{place}/lists";\n')
            newer = {"APT_CONFIG": str(configuration)}
            _apt(newer, "update", "-o", "APT::Update::Error-Mode=any")
            root = _unpacked(cache, newer)
    fonts = root / "fonts.conf"
    libraries = [path for usr in ("usr/lib", "lib") for path in root.glob(f"{usr}/*-linux-gnu")]
    libraries += [path for folder in libraries for path in folder.iterdir() if path.is_dir()]
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)), "FONTCONFIG_FILE": str(fonts)}
    return Chromium(root / "usr/lib/chromium" / PACKAGE, environment)


def _unpacked(cache: Path, environment: Mapping[str, str]) -> Path:
    """Directory with Chromium and its dependencies that this machine lacks; replaces an older one."""
    simulated = _apt(environment, "-s", "install", "--no-install-recommends", PACKAGE)
    missing = re.findall(r"(?m)^Inst .*", simulated)
    root = cache / hashlib.sha256("\n".join(missing).encode()).hexdigest()[:16]
    if root.exists():
        return root
    with tempfile.TemporaryDirectory(dir=cache) as place:
        debs, new = Path(place) / "debs", Path(place) / "new"
        debs.mkdir()
        new.mkdir()
        _apt(environment, "download", *(line.split()[1] for line in missing), cwd=debs)
        for package in debs.glob("*.deb"):
            packages.unpack(package, new)
            package.unlink()
        (new / "fonts.conf").write_text(FONTS.format(root=root))
        for old in cache.iterdir():
            if old != Path(place):
                shutil.rmtree(old, ignore_errors=True)
        new.rename(root)
    return root


def _apt(environment: Mapping[str, str], *arguments: str, cwd: Path | None = None) -> str:
    """Run apt-get; returns its output. Raises MachineError."""
    user = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    try:
        return subprocess.run(
            ["apt-get", "-q", *user, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
    except OSError as error:
        raise MachineError(
            f"the browser is installed from Debian packages, but this machine has no apt: {error}"
        ) from None
    except subprocess.SubprocessError as error:
        messages = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise MachineError(f"apt-get {arguments[0]} failed for {PACKAGE}: {messages[-1]}") from None


# ---- JupyterLab ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: process, address and access token."""

    pid: int
    address: str
    token: str

    def get(self, path: str) -> Any:
        """The response of its REST API to a GET request."""
        request = urllib.request.Request(
            f"{self.address}api/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)


@contextmanager
def jupyter(folder: Path, home: Path, log: Path) -> Iterator[Server]:
    """JupyterLab in ``folder``, without any configuration of the user; ends with its kernels."""
    for name, settings in SETTINGS.items():
        file = home / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    token = secrets.token_hex()
    mine = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    environment = mine | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": layers.python_path(),
    }
    argv = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
    ]
    argv += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--LabApp.extension_manager=readonly"]
    argv += ["--LabApp.expose_app_in_browser=True"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            info = home / "runtime" / f"jpserver-{process.pid}.json"
            wait(lambda: process.poll() is not None or _json(info), PATIENCE)
            assert process.poll() is None, log.read_text(errors="replace")
            server = Server(process.pid, f"http://127.0.0.1:{_json(info)['port']}/", token)
            wait(lambda: _responds(server), PATIENCE)
            yield server
        finally:
            terminate(process)  # its kernels end with it


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty while the file does not exist or is incomplete."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return document


def _responds(server: Server) -> bool:
    try:
        return bool(server.get("status"))
    except OSError:
        return False


# ---- a notebook in it ---------------------------------------------------------------------------------

#: The kernel as JupyterLab's model has it: its indicators show "idle" before there is one.
_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
IDLE = f"() => {_KERNEL}?.connectionStatus === 'connected' && {_KERNEL}.status === 'idle'"
RESTARTS = f"""() => {{
    window.restarts = false;
    {_KERNEL}.statusChanged.connect((_, status) => {{ window.restarts ||= status === 'restarting'; }});
}}"""


class Notebook:
    """A notebook in a page of JupyterLab, used as by a person; ``ids`` are those of its cells.

    Every wait is bounded by `PATIENCE`, except that for the end of a cell.
    """

    def __init__(self, page: Page, ids: list[str], pictures: Path) -> None:
        self.page = page
        self.ids = ids
        self.errors: list[str] = []  #: of scripts in the page
        self._pictures = pictures
        self._taken = 0
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def cell(self, name: str) -> Locator:
        """The cell with this id."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.ids.index(name))

    def start(self, name: str) -> None:
        """Start a cell."""
        before = self._prompt(name)
        self.cell(name).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Shift+Enter")
        self._until("([cell, was]) => cell.querySelector('.jp-InputPrompt').innerText !== was", name, before)

    def finish(self, name: str, limit: float = PATIENCE) -> None:
        """Wait until the cell has finished."""
        done = "([cell]) => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').innerText)"
        self._until(done, name, limit=limit)

    def run(self, name: str, limit: float = PATIENCE) -> None:
        """Run a cell and wait until it has finished."""
        self.start(name)
        self.finish(name, limit)

    def interrupt(self) -> None:
        """Press the button that interrupts the kernel."""
        self._press("notebook:interrupt-kernel")

    def restart(self) -> None:
        """Restart the kernel."""
        self.page.evaluate(RESTARTS)
        self._press("notebook:restart-kernel")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_function("() => window.restarts")
        self.idle()

    def save(self) -> None:
        """Press the button that saves the notebook; returns before it is saved."""
        self._press("docmanager:save")

    def shut_down(self) -> None:
        """Shut the kernel down by the menu."""
        for name in ("Kernel", "Shut Down Kernel"):
            self.page.get_by_role("menuitem", name=name, exact=True).click()

    def insert(self, above: str, name: str, source: str) -> None:
        """Insert a cell with this source below the cell ``above``."""
        self.cell(above).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("b")
        self.ids.insert(self.ids.index(above) + 1, name)
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.insert_text(source)

    def output(self, name: str) -> Locator:
        """The output area of a cell."""
        return self.cell(name).locator(".jp-Cell-outputArea")

    def idle(self) -> None:
        """Wait until the kernel is connected and idle."""
        self.page.wait_for_function(IDLE)

    def show(self, name: str) -> None:
        """Scroll until the cell is at the top."""
        self.cell(name).evaluate("cell => cell.scrollIntoView()")

    def shot(self, name: str, cell: str = "") -> None:
        """Save a screenshot of the page as it is, or with this cell at the top."""
        if cell:
            self.show(cell)
        self._taken += 1
        self.page.screenshot(path=self._pictures / f"{self._taken:02d}-{name}.png")

    def _press(self, command: str) -> None:
        """A button of the notebook's toolbar, by its command."""
        self.page.locator(f'.jp-NotebookPanel-toolbar [data-command="{command}"]').first.click()

    def _prompt(self, name: str) -> str:
        return self.cell(name).locator(".jp-InputPrompt").inner_text()

    def _until(self, condition: str, name: str, *more: object, limit: float = PATIENCE) -> None:
        """Wait until a function of the cell and ``more`` is true in the page."""
        cell = self.cell(name).element_handle()
        self.page.wait_for_function(condition, arg=[cell, *more], timeout=1000 * limit)


@contextmanager
def opened(
    chromium: Chromium, server: Server, path: str, ids: list[str], pictures: Path
) -> Iterator[Notebook]:
    """Open the notebook ``path`` in a new page and wait for its kernel; a failure is saved as screenshot."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program,
            env={**os.environ, **chromium.environment},
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
            timeout=1000 * PATIENCE,
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        notebook = Notebook(page, ids, pictures)
        try:
            page.goto(f"{server.address}lab/tree/{path}?token={server.token}")
            notebook.idle()
            yield notebook
        except Exception:
            with suppress(Error):  # the page may have gone, and the original error matters more
                notebook.shot("failed")
            raise
        finally:
            browser.close()
