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

from g5kvirt.artifact.secrets import BEGIN, GAP, QUOTE, SECRET_KEY, replace_secrets

__all__ = ["Redaction"]

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

#: Colours and the like of a terminal: they would part a name from what stands before it.
_ANSI = re.compile(r"(?:\x1b|\\u001b|\\x1b|\\0?33|\\e)\[[0-9;?]{0,40}[A-Za-z]", re.I)
#: Where somebody came from: a frontend greets with it.
_LAST_LOGIN = re.compile(
    rf"((?:Last{GAP}login|Derni.{{1,12}}re{GAP}connexion){GAP}?(?::|%3A)[^\n]{{0,80}}?{GAP}(?:from|depuis|de){GAP}+)"
    r"([A-Za-z0-9.:_-]+)"
)
#: An address in a name, as providers give to homes.
_NUMBERED = re.compile(
    r"(?<![\w-])(?:[a-z]{1,20}[-.])?((?:[0-9]{1,3}[-.]){3}[0-9]{1,3})(?:[.-][A-Za-z0-9-]+)+"
)
_IPV4 = re.compile(BEGIN + r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(rf"{BEGIN}(?<!:)(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}[0-9A-Fa-f]{{0,4}}(?![\w:])")
_EMAIL = re.compile(
    BEGIN + r"(?!root@)([A-Za-z0-9_.+-]+)(?:@|%40)((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})(?![A-Za-z0-9-])"
)
_HOME = re.compile(r"(/home/|/Users/|(?<![\w/~.-])~(?=[a-z_][\w.-]*/))(?!user-\d)([^/\s\"'\\:,;%]+)")
_LOGIN_FIELD = re.compile(
    rf"(?:{QUOTE}+(?:user|user_uid|owner|login){QUOTE}+{GAP}*(?::|%3A){GAP}*{QUOTE}+"
    rf"|(?:owner|user){GAP}(?:=|%3D){GAP}|\bUser{GAP}(?=\S+{GAP}requested)"
    rf"|^{GAP}*(?:owner|user):{GAP}+|\bX-(?:Remote-Ident|Kadeploy-User):{GAP}*|\buid=[0-9]{{1,10}}\("
    rf"|\bsudo{GAP}+-u{GAP}*|\bC:\\+Users\\+|^[-dl](?:[-rwxsStT]{{9}})[.+@]?{GAP}+[0-9]{{1,6}}{GAP}+)"
    r"([A-Za-z_][\w.-]*)",
    re.M,
)
#: Logins with what follows them: a refusal of ssh, a line of who(1) or of passwd(5), a home.
_LOGIN_BEFORE = re.compile(
    r"(?<![^\s'\"])([A-Za-z_][\w.-]{0,40})"
    r"(?:@[\w.-]{1,100}: Permission denied|\s{1,20}pts/[0-9]|:[x*!]?:[0-9]{1,10}:[0-9]{1,10}:)",
    re.M,
)
_GECOS = re.compile(r"^([A-Za-z_][\w.-]{0,40}:[x*!]?:[0-9]{1,10}:[0-9]{1,10}:)([^:\n]+)(?=:)", re.M)


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
            value = _ANSI.sub("", value)
            homes = [found[1] for found in _HOME.findall(value)]
            for login in (*_LOGIN_FIELD.findall(value), *_LOGIN_BEFORE.findall(value), *homes):
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
                self.text(str(key)): (self._secret if SECRET_KEY.search(str(key)) else self.document)(own)
                for key, own in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.document(own) for own in value]
        return self.text(value) if isinstance(value, str) else value

    def _secret(self, value: Any) -> Any:
        """A JSON value whose name says that it is a secret: nothing of it stays but its form."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._secret(own) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [self._secret(own) for own in value]
        if value is None or isinstance(value, bool) or value == "":
            return value
        return self._replacement("secret", str(value))

    def line(self, text: str) -> str:
        """A line of JSON, or whatever else it is."""
        try:
            done = json.dumps(self.document(json.loads(text)), ensure_ascii=False)
            # half of a surrogate pair, as a VM may report it, is no text that can be written
            return done.encode("utf-8", "backslashreplace").decode()
        except (ValueError, RecursionError):
            return self.text(text)

    def text(self, text: str) -> str:
        """A text without personal data."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, self._replacement("secret", secret))
        text = replace_secrets(_ANSI.sub("", text), self._replacement)
        text = _GECOS.sub(lambda m: m[1] + self._replacement("user", m[2]), text)
        text = _EMAIL.sub(lambda m: self._replacement("email", m[0]), text)
        text = _LAST_LOGIN.sub(lambda m: m[1] + self._replacement("address", m[2]), text)
        text = _NUMBERED.sub(
            lambda m: self._replacement("address", m[0]) if _public(m[1].replace("-", ".")) else m[0], text
        )
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
                    rf"(?:(?<![A-Za-z0-9_])|{BEGIN})(?:{'|'.join(map(re.escape, words))})(?![A-Za-z0-9_])"
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
