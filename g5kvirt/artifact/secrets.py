"""Finds keys, tokens and passwords in texts: by their own form, or by what stands in front of them. Pure.

A text may have been quoted for JSON, for printf(1) or for a URL, more than once: what stands between two
words, and before one, may be an escape. Where it is not clear where a secret ends, rather more is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BEGIN", "GAP", "QUOTE", "SECRET_KEY", "replace_secrets"]

GAP = r"(?:\s|%20)"
QUOTE = r"(?:\\0(?:042|047|134)|[\\\"']|%(?:22|27|5C))"
BEGIN = (
    r"(?:(?<![A-Za-z0-9_.+-])|(?<=\\[bfnrt])|(?<=\\0[0-7]{3})|(?<=\\x[0-9A-Fa-f]{2})"
    r"|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
)

#: Fields whose values are secrets.
SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?s?$|^pwd$|^_?auth$|token|secret|credential|authorization|cookie|signature|_pat$"
    r"|(api|private|access)[_-]?key",
    re.I,
)

_END_OF_LINE = r"(?:\r?\n|\\n|\\0?012|%0A)"
_BASE64 = r"(?:[A-Za-z0-9+/=_-]|%2B|%2F|%3D)"

_PEM = re.compile(r"-----BEGIN[A-Z0-9 %]*-----.*?(?:-----END[A-Z0-9 %]*-----|\Z)", re.S)
_PUBLIC_KEY = re.compile(
    rf"((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]{{1,60}}){GAP}+(AAAA{_BASE64}+)(?:{GAP}+[^\s'\"\\%]+)?"
)
#: Keys without what stands around them: a whole file in base64 (-----BEGIN), the inside of OpenSSH's own
#: (openssh-key-v1), of an RSA key's, a public one (a length and the key's type).
_BARE_KEY = re.compile(
    rf"{BEGIN}(?:(?:LS0tLS1CRUdJTi|b3BlbnNzaC1rZXktdjE|MII[A-Za-z0-9+/]{{37}}){_BASE64}*"
    rf"(?:{_END_OF_LINE}{_BASE64}{{16,}})*|AAAA[A-Z][A-Za-z0-9+/]{{12,}}={{0,2}})"
)
#: Those that are known by their beginning: GitHub's, GitLab's, Slack's, JSON web tokens, Amazon's, Google's,
#: npm's, PyPI's, Docker's, Hugging Face's, of age and of OpenAI, tickets of CAS, and hashes of crypt(5).
_TOKEN = re.compile(
    BEGIN + r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl[a-z]{2,5}-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|npm_\w{30,}"
    r"|pypi-A[\w-]{12,}|dckr_pat_[\w-]{16,}|hf_[A-Za-z0-9]{20,}|AGE-SECRET-KEY-1\w{16,}"
    r"|sk-(?:[a-z]{2,8}-)*[A-Za-z0-9_]{20,}|(?:TGT|PGT|ST)-[0-9]{1,9}-[\w.-]{8,}"
    r"|\$(?:[156y7]|gy|2[abxy]|apr1|argon2\w{1,2})\$[./\w$,=+-]{8,})"
)
_BEARER = re.compile(rf"(bearer|basic){GAP}+([A-Za-z0-9._~+/=-]{{6,}})", re.I)
#: The rest of the line: these have several parts.
_SCHEME = re.compile(
    rf"(authorization{QUOTE}*{GAP}*(?::|%3A){GAP}*{QUOTE}*(?:digest|negotiate|aws4-hmac-sha256){GAP}+)"
    rf"((?:(?!{_END_OF_LINE})[^\n])+)",
    re.I,
)
_COOKIE = re.compile(
    rf"(cookie2?(?::|%3A){GAP}*)([^\s\"'\\;]+(?:;{GAP}?[^\s\"'\\;]+)*)|(?<=MIT-MAGIC-COOKIE-1)({GAP}+[0-9a-f]{{32}})",
    re.I,
)

#: A name is looked for from its first letter on, so that a text of one long word is read once.
_NAME = (
    r"(?<![\w-])[\w-]*(?:pass(?:word|wd|phrase)?s?|mdp|mot(?:\s|%20|_)de(?:\s|%20|_)passe|token|secret"
    r"|(?:secret|api|access|private)[_-]?(?:access[_-]?)?key|authorization|signature|_pat)"
)
_ASSIGNMENT = rf"{_NAME}{QUOTE}*{GAP}*(?:[:=]|%3[AD]){GAP}*"
_QUOTED = re.compile(
    rf"((?:{_ASSIGNMENT}|(?<=[\"'])(?:pwd|_?auth){QUOTE}+{GAP}*(?::|%3A){GAP}*)(?P<quote>{QUOTE}+))"
    r"(?![,}\]\s\"'\\])([^\n]{1,200}?)(?=(?P=quote))",
    re.I,
)
_ASSIGNED = re.compile(rf"({_ASSIGNMENT}{QUOTE}*)([^\s\"'\\}}]+)", re.I)
#: As an option of a command, in a .netrc, of sshpass and of MySQL's client.
_WORD = re.compile(
    rf"((?<![\w-])--[\w-]*(?:password|passphrase|token|secret|api-?key){GAP}+{QUOTE}*"
    rf"|\blogin{GAP}+\S{{1,80}}{GAP}+password{GAP}+|\bsshpass{GAP}+-p{GAP}*{QUOTE}*"
    rf"|\bmy(?:sql|sqldump|sqladmin){GAP}[^\n]{{0,200}}?{GAP}-p)([^\s\"'\\]+)",
    re.I,
)
_PHRASE = re.compile(
    rf"(\b(?:password|passphrase|mot de passe){GAP}+(?:is|est){GAP}+{QUOTE}*)([^\s\"'\\]+)", re.I
)
_QUERY = re.compile(r"([?&](?:key|sig|auth|x-amz-[a-z-]{4,40})(?:=|%3D))([^\s&\"'\\]+)", re.I)
#: Up to the last @: a password may have one.
_URL_USER = re.compile(r"(?<=//)[^/\s'\"\\]+(?=@|%40)")
_OPTION_USER = re.compile(rf"((?:\s|%20)(?:-u|--user=?){GAP}*{QUOTE}*)([^\s:'\"\\%]+(?::|%3A)[^\s'\"\\%]+)")

_AFTER_A_PREFIX = (_SCHEME, _BEARER, _COOKIE, _ASSIGNED, _WORD, _PHRASE, _QUERY, _OPTION_USER)


def replace_secrets(text: str, replacement: Callable[[str, str], str]) -> str:
    """``text`` with ``replacement(kind, secret)`` for each secret; the kind is ``key`` or ``secret``."""
    text = _PEM.sub(lambda m: f"({replacement('key', m[0])})", text)
    text = _PUBLIC_KEY.sub(lambda m: f"{m[1]} {replacement('key', m[2])}", text)
    text = _BARE_KEY.sub(lambda m: replacement("key", m[0]), text)
    text = _TOKEN.sub(lambda m: replacement("secret", m[0]), text)
    text = _URL_USER.sub(lambda m: replacement("secret", m[0]), text)
    text = _QUOTED.sub(lambda m: m[1] + replacement("secret", m[3]), text)
    for pattern in _AFTER_A_PREFIX:
        text = pattern.sub(lambda m: (m[1] or " ") + replacement("secret", m[2] or m[3]), text)
    return text
