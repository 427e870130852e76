"""The words and colours of a VM's way up, the same in the terminal, in HTML and in print.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers tell
apart, and in the order of the steps they also differ in lightness in a black and white print. Steps are
what takes time, in figures; states are where a VM stands, in the live view.
"""

from __future__ import annotations

from g5kvirt.guests.registry import GUESTS
from g5kvirt.run.vocabulary import BOOT_STEPS, DEPLOYED, FAILED, PLANNED, REBOOTING, WRITING

__all__ = [
    "COLOURS",
    "LABELS",
    "MACRO_COLOURS",
    "STATES",
    "STATE_COLOURS",
    "STATE_LABELS",
    "guest_words",
    "macro_colour",
    "shown_state",
]

#: What happens until the milestone, in words that a figure's legend can bear. A step without an entry here is
#: shown by its own name.
LABELS = {step: step.replace("-", " ") for step in BOOT_STEPS} | {
    "power-on": "power on",
    "dhcp": "firmware, DHCP",
    "script": "script",
    "kernel": "kernel",
    "initrd": "initrd",
    "minimal-system": "system start",
}

#: Of a step without a colour of its own.
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

#: Where a VM stands, in the order of its way. Each is named after the step that brought it there.
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
    """Each step of a boot → the last one up to it that is a state: script and initrd, say, are too short to
    see by eye."""
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

#: Seen on light and on dark; two greys, then colour, so that the start of a run is quiet.
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

#: The macro-steps of a deployment in their order: light, dark, between.
MACRO_COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")


def macro_colour(number: int) -> str:
    """The colour of the ``number``-th macro-step, from 0."""
    return MACRO_COLOURS[number % len(MACRO_COLOURS)]


_GUESTS = {"simulated": "predicted by a model, no machine ran"}
for _guest in GUESTS.values():
    _GUESTS |= _guest.words


def guest_words(guest: str) -> str:
    """The kind of guest in words: ``"simulated"`` always says that it is a prediction."""
    return _GUESTS.get(guest, guest)
