"""Labels and colours of VM states and boot steps, the same in the terminal, in HTML and in print.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers tell
apart; in the order of the steps they also differ in lightness, for black and white prints. Steps are
what takes time (in figures); states are how far a VM is (in the live view).
"""

from __future__ import annotations

from g5kvirt.guests.registry import GUESTS
from g5kvirt.run.vocabulary import BOOT_STEPS, DEPLOYED, FAILED, PLANNED, REBOOTING, WRITING

__all__ = [
    "COLOURS",
    "LABELS",
    "MACRO_COLOURS",
    "PHASE_COLOURS",
    "PHASE_MARKS",
    "STATES",
    "STATE_COLOURS",
    "STATE_LABELS",
    "guest_description",
    "macro_colour",
    "shown_state",
]

#: Boot step → its label in the legend of a figure: what happens until the milestone. Other steps are shown
#: by their name.
LABELS = {step: step.replace("-", " ") for step in BOOT_STEPS} | {
    "power-on": "power on",
    "dhcp": "firmware, DHCP",
    "script": "script",
    "kernel": "kernel",
    "initrd": "initrd",
    "minimal-system": "system start",
}

#: The colour of all other steps.
_OTHER = "#a0783c"

COLOURS = dict.fromkeys(BOOT_STEPS, _OTHER) | {
    PLANNED: "#d0d0d0",
    "power-on": "#000000",
    "dhcp": "#e69f00",
    "script": "#cc79a7",
    "kernel": "#56b4e9",
    "initrd": "#0072b2",
    "minimal-system": "#009e73",
    FAILED: "#d55e00",
    REBOOTING: "#7a6fd0",
    WRITING: "#f0e442",
    DEPLOYED: "#5fd068",
}

#: The states of a VM in the live view, in order. Each is named after the step that leads to it.
STATES = (
    PLANNED,
    "power-on",
    "dhcp",
    "kernel",
    "minimal-system",
    WRITING,
    REBOOTING,
    DEPLOYED,
    FAILED,
)


def _shown_as() -> dict[str, str]:
    """Boot step → the last step up to it that is a state: script and initrd, for example, are too short to be
    seen."""
    shown, state = {}, PLANNED
    for step in BOOT_STEPS:
        state = step if step in STATES else state
        shown[step] = state
    return shown


_SHOWN_AS = _shown_as()


def shown_state(position: str) -> str:
    """The state of `STATES` in which a VM at a position of `g5kvirt.run.vocabulary` is shown."""
    return _SHOWN_AS.get(position, position)


STATE_LABELS = {state: state for state in STATES} | {
    PLANNED: "planned",
    "power-on": "started",
    "dhcp": "DHCP",
    "minimal-system": "minimal system",
}

#: Readable on light and dark pages; two greys first, so that the start of a run is unobtrusive.
STATE_COLOURS = {
    PLANNED: "#c9c9c9",
    "power-on": "#606060",
    "dhcp": "#e69f00",
    "kernel": "#56b4e9",
    "minimal-system": "#0072b2",
    WRITING: "#f0e442",
    REBOOTING: "#cc79a7",
    DEPLOYED: "#009e73",
    FAILED: "#d55e00",
}

#: State of a phase → its mark, and its colour on a page.
PHASE_MARKS = {"waiting": "·", "running": "▸", "ok": "✓", "failed": "✗"}
PHASE_COLOURS = {"waiting": "inherit", "running": "#0072b2", "ok": "#009e73", "failed": "#d55e00"}

#: The macro-steps of a deployment in their order: light, dark, medium.
MACRO_COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")


def macro_colour(number: int) -> str:
    """The colour of the ``number``-th macro-step, from 0."""
    return MACRO_COLOURS[number % len(MACRO_COLOURS)]


_GUESTS = {"simulated": "predicted by a model, no machine ran"}
for _guest in GUESTS.values():
    _GUESTS |= _guest.words


def guests_clause(guest: str) -> str:
    """`guest_description` as a part of a caption: ``guests: virtual machines (QEMU, KVM)``."""
    words = guest_description(guest)
    return words if words.startswith(("light guests", "predicted")) else f"guests: {words}"


def guest_description(guest: str) -> str:
    """A description of the kind of guest; that of ``"simulated"`` says that it is a prediction."""
    return _GUESTS.get(guest, guest)
