"""Takes out of a report or an archive what concerns a person: names, keys, passwords, addresses. Pure.

The same value has the same replacement everywhere, such as ``user-1``: what belongs together stays so.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Redaction"]

_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?$|token|secret|credential|authorization|api_?key|private_?key", re.I
)
#: Fields whose value is a login.
_LOGIN_KEY = re.compile(r"(user|user_uid|owner|login|api_username|username|logname)", re.I)
#: Words that name no person and no machine of anybody, though a login or a host may be called so: to replace
#: them would make a report of VMs unreadable.
_NOBODY = frozenset(
    [
        "root",
        "oar",
        "g5k",
        "deploy",
        "default",
        "nobody",
        "true",
        "false",
        "none",
        "null",
        "admin",
        "user",
        "vm",
        "vms",
        "host",
        "hosts",
        "node",
        "site",
        "run",
        "service",
        "server",
        "localhost",
        "debian",
        "ubuntu",
        "grid5000",
        "local",
        "reserve",
        "configure",
        "place",
        "launch",
        "measure",
    ]
)

#: All addresses of IPv6 that are given out; what else has colons is no address.
_UNICAST = ipaddress.IPv6Network("2000::/3")

# A text may have been quoted for JSON, for printf(1) or for a URL, more than once: what stands between two
# words, and before one, may be an escape.
_GAP = r"(?:\s|%20)"
_QUOTE = r"(?:\\0(?:042|047|134)|[\\\"']|%(?:22|27|5C))"
_BEGIN = (
    r"(?:(?<![A-Za-z0-9_.+-])|(?<=\\[bfnrt])|(?<=\\0[0-7]{3})|(?<=\\x[0-9A-Fa-f]{2})"
    r"|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
)

_END_OF_LINE = r"(?:\r?\n|\\n|\\0?012|%0A)"
_BASE64 = r"(?:[A-Za-z0-9+/=_-]|%2B|%2F|%3D)"

_PEM = re.compile(r"-----BEGIN[A-Z0-9 %]*-----.*?(?:-----END[A-Z0-9 %]*-----|\Z)", re.S)
_PUBLIC_KEY = re.compile(
    rf"((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+){_GAP}+(AAAA{_BASE64}+)(?:{_GAP}+[^\s'\"\\%]+)?"
)
#: Keys without what stands around them: a whole file in base64 (-----BEGIN), the inside of OpenSSH's own
#: (openssh-key-v1), a public one (a length and the key's type).
_BARE_KEY = re.compile(
    rf"{_BEGIN}(?:(?:LS0tLS1CRUdJTi|b3BlbnNzaC1rZXktdjE){_BASE64}*(?:{_END_OF_LINE}{_BASE64}{{16,}})*"
    rf"|AAAA[A-Z][A-Za-z0-9+/]{{12,}}={{0,2}})"
)
#: Tokens that are known by their beginning: GitHub's, GitLab's, Slack's, JSON web tokens.
_TOKEN = re.compile(
    _BEGIN + r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
)
#: Up to the last @: a password may have one.
_URL_USER = re.compile(r"(?<=//)[^/\s'\"\\]+(?=@|%40)")
_OPTION_USER = re.compile(rf"((?:\s|%20)(?:-u|--user){_GAP}+{_QUOTE}*)([^\s:'\"\\%]+(?::|%3A)[^\s'\"\\%]+)")
#: Where somebody came from: a frontend greets with it.
_LAST_LOGIN = re.compile(rf"(Last{_GAP}login(?::|%3A)[^\n]{{0,80}}?{_GAP}from{_GAP}+)([A-Za-z0-9.:_-]+)")
_IPV4 = re.compile(_BEGIN + r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(rf"{_BEGIN}(?<!:)(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}[0-9A-Fa-f]{{0,4}}(?![\w:])")
_BEARER = re.compile(rf"(bearer|basic){_GAP}+([A-Za-z0-9._~+/=-]{{6,}})", re.I)
_ASSIGNMENT = (
    r"(?:pass(?:word|wd|phrase)?|[a-z_-]*token|[a-z_-]*secret|api[_-]?key|authorization)"
    rf"{_QUOTE}*{_GAP}*(?:[:=]|%3[AD]){_GAP}*"
)
_QUOTED = re.compile(
    rf"({_ASSIGNMENT}(?P<quote>{_QUOTE}+))(?![,}}\]\s\"'\\])([^\n]{{1,200}}?)(?=(?P=quote))", re.I
)
_ASSIGNED = re.compile(rf"({_ASSIGNMENT}{_QUOTE}*)([^\s\"'\\,;&}}%]+)", re.I)
_EMAIL = re.compile(
    _BEGIN + r"(?!root@)([A-Za-z0-9_.+-]+)(?:@|%40)((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})(?![A-Za-z0-9-])"
)
_HOME = re.compile(r"/(home|Users)/(?!user-\d)([^/\s\"'\\:,;%]+)")
_LOGIN_FIELD = re.compile(
    rf"(?:{_QUOTE}+(?:user|user_uid|owner|login){_QUOTE}+{_GAP}*(?::|%3A){_GAP}*{_QUOTE}+"
    rf"|(?:owner|user){_GAP}(?:=|%3D){_GAP}|\bUser{_GAP}(?=\S+{_GAP}requested))"
    r"([A-Za-z_][\w.-]*)"
)


class Redaction:
    """Replacements for one report. ``logins``, ``secrets``, ``hosts``: values that are known beforehand;
    ``home``: the person's own directory."""

    def __init__(
        self,
        logins: Iterable[str] = (),
        secrets: Iterable[str] = (),
        hosts: Iterable[str] = (),
        home: str = "",
    ) -> None:
        self.count: Counter[str] = Counter()  #: how often something was replaced, by its kind
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self._known: dict[str, str] = {}  # value → its kind
        self._pattern: re.Pattern[str] | None = None
        self._home = home.rstrip("/")
        self._secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)
        for login in logins:
            self._know("user", login)
        for host in hosts:
            self._know("host", host)
            self._know("host", host.partition(".")[0])

    # ---- finding names first --------------------------------------------------------------------------

    def learn(self, value: Any) -> None:
        """Find the logins in a document or a text, which are replaced wherever else they are."""
        if isinstance(value, Mapping):
            for key, own in value.items():
                if isinstance(own, str) and _LOGIN_KEY.fullmatch(str(key)):
                    self._know("user", own)
                self.learn(own)
        elif isinstance(value, list | tuple):
            for own in value:
                self.learn(own)
        elif isinstance(value, str):
            for login in (*_LOGIN_FIELD.findall(value), *(found[1] for found in _HOME.findall(value))):
                self._know("user", login)

    def _know(self, kind: str, value: str) -> None:
        if value.lower() in _NOBODY or len(value) < 2:
            return
        if value not in self._known:
            self._known[value] = kind
            self._pattern = None

    # ---- replacing ------------------------------------------------------------------------------------

    def document(self, value: Any) -> Any:
        """A JSON value without personal data, its keys included."""
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): self._replacement("secret", str(own))
                if isinstance(own, str | int) and not isinstance(own, bool) and _SECRET_KEY.search(str(key))
                else self.document(own)
                for key, own in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.document(own) for own in value]
        return self.text(value) if isinstance(value, str) else value

    def line(self, text: str) -> str:
        """A line of JSON, or whatever else it is."""
        try:
            return json.dumps(self.document(json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.text(text)

    def text(self, text: str) -> str:
        """A text without personal data."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, self._replacement("secret", secret))
        text = _PEM.sub(lambda m: f"({self._replacement('key', m[0])})", text)
        text = _PUBLIC_KEY.sub(lambda m: f"{m[1]} {self._replacement('key', m[2])}", text)
        text = _BARE_KEY.sub(lambda m: self._replacement("key", m[0]), text)
        text = _TOKEN.sub(lambda m: self._replacement("secret", m[0]), text)
        text = _BEARER.sub(lambda m: f"{m[1]} {self._replacement('secret', m[2])}", text)
        text = _QUOTED.sub(lambda m: m[1] + self._replacement("secret", m[3]), text)
        text = _ASSIGNED.sub(lambda m: m[1] + self._replacement("secret", m[2]), text)
        text = _URL_USER.sub(lambda m: self._replacement("secret", m[0]), text)
        text = _OPTION_USER.sub(lambda m: m[1] + self._replacement("secret", m[2]), text)
        text = _EMAIL.sub(lambda m: self._replacement("email", m[0]), text)
        text = _LAST_LOGIN.sub(lambda m: m[1] + self._replacement("address", m[2]), text)
        for pattern in (_IPV4, _IPV6):
            text = pattern.sub(lambda m: self._replacement("address", m[0]) if _public(m[0]) else m[0], text)
        if self._home and self._home not in ("/", "/root"):
            text = re.sub(
                re.escape(self._home) + r"(?![\w.-])", lambda m: self._replacement("home", m[0]), text
            )
        if self._known:
            if self._pattern is None:
                words = sorted(self._known, key=len, reverse=True)
                self._pattern = re.compile(
                    rf"(?:(?<![A-Za-z0-9_])|{_BEGIN})(?:{'|'.join(map(re.escape, words))})(?![A-Za-z0-9_])"
                )
            text = self._pattern.sub(lambda m: self._replacement(self._known[m[0]], m[0]), text)
        return text

    def _replacement(self, kind: str, value: str) -> str:
        if re.fullmatch(r"(?:user|secret|key|email|home|host|address)-\d+", value):
            return value  # it is one already
        self.count[kind] += 1
        name = self._names.get((kind, value))
        if name is None:
            self._numbers[kind] += 1
            name = self._names[kind, value] = f"{kind}-{self._numbers[kind]}"
        return name


def _public(text: str) -> bool:
    """Whether an address is one of the Internet, as homes have; machines of a site have private ones."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST)
