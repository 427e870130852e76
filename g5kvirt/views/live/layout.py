"""Positions of the VMs' cells on the wall: sites below each other, with their hosts and VMs.

The same for the live view and the static picture. Lengths are CSS pixels. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from g5kvirt.views.formatting import count

__all__ = ["WIDTH", "Block", "Label", "Wall", "arrange"]

WIDTH = 880
_HEIGHT = 420  #: cells shrink until the wall is at most this high, or they have their minimum size
_PITCHES = (20, 17, 14, 12, 10, 8, 7, 6)
_TITLE = 20  #: a line above each site
_NAME = 13  #: a line above each host, if hosts are named
_LETTER = 6.2  #: width of a letter of a host's name
_NAMED = 60  #: up to this many hosts are named


@dataclass(frozen=True)
class Label:
    """A text; ``y`` is its base line."""

    x: float
    y: float
    text: str
    strong: bool


@dataclass(frozen=True)
class Block:
    """A host: its cells ``first`` … ``first + count - 1`` of the wall's order, in rows of ``columns``."""

    host: str
    site: str
    x: int
    y: int
    columns: int
    first: int
    count: int


@dataclass(frozen=True)
class Wall:
    """All cells: cell i of a block is at x + i % columns × pitch, y + i // columns × pitch."""

    width: int
    height: int
    pitch: int
    size: int  #: of a cell; the rest of the pitch is the gap to the next
    names: tuple[str, ...]  #: the VMs in the wall's order
    blocks: tuple[Block, ...]
    labels: tuple[Label, ...]

    def corners(self) -> list[tuple[int, int]]:
        """The upper left corner of each cell, in the wall's order."""
        return [
            (block.x + i % block.columns * self.pitch, block.y + i // block.columns * self.pitch)
            for block in self.blocks
            for i in range(block.count)
        ]


def arrange(places: Iterable[tuple[str, str, str]], width: int = WIDTH) -> Wall:
    """The wall for (VM, host, site); sites, hosts and VMs in order of first appearance."""
    sites: dict[str, dict[str, list[str]]] = {}
    for name, host, site in places:
        sites.setdefault(site, {}).setdefault(host, []).append(name)
    for pitch in _PITCHES:
        wall = _arrange(sites, width, pitch)
        if wall.height <= _HEIGHT:
            break
    return wall


def _arrange(sites: dict[str, dict[str, list[str]]], width: int, pitch: int) -> Wall:
    named = pitch >= 10 and sum(map(len, sites.values())) <= _NAMED
    names: list[str] = []
    blocks: list[Block] = []
    labels: list[Label] = []
    y = 0
    for site, hosts in sites.items():
        vms = sum(map(len, hosts.values()))
        if site:
            y += _TITLE
            words = f"{count(len(hosts), 'host')}, {count(vms, 'VM')}"
            labels += [Label(0, y - 6, site, True), Label(_LETTER * len(site) + 14, y - 6, words, False)]
        # the same number of columns for all hosts of a site, so that they align; never wider than the wall
        columns = min(math.ceil(math.sqrt(max(map(len, hosts.values())))), width // pitch)
        x = tall = 0
        for host, own in hosts.items():
            uid = host.partition(".")[0]
            wide = columns * pitch
            if named:
                wide = max(wide, math.ceil(_LETTER * len(uid)))
            if x and x + wide > width:
                x, y, tall = 0, y + tall, 0
            top = y + (_NAME if named and uid else 0)
            if top > y:
                labels.append(Label(x, top - 4, uid, False))
            blocks.append(Block(host, site, x, top, columns, len(names), len(own)))
            names += own
            tall = max(tall, top - y + math.ceil(len(own) / columns) * pitch + max(4, pitch // 2))
            x += wide + max(4, pitch // 2)
        y += tall
    return Wall(width, y, pitch, pitch - (1 if pitch < 10 else 2), tuple(names), tuple(blocks), tuple(labels))
