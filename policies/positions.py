"""In which line each key of a TOML document stands: tomllib tells it only for syntax errors."""

from __future__ import annotations

import bisect
import tomllib

KeyPath = tuple[str | int, ...]

_BARE_END = ",]}\n#"
_WHITESPACE = " \t\n"


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line, from 1, of each key and array element in *text*, which must be valid TOML 1.0.

    A table that headers or dotted keys open more than once stands where it comes first.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    """Reads what is known to be valid: it finds the ends of things and checks nothing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [at for at, character in enumerate(text) if character == "\n"]
        self._elements: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip_blank()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip_blank()

    def _header(self) -> KeyPath:
        """[table] or [[array of tables]]; keys below an array of tables belong to its last element."""
        line = self._line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        key = self._key("]")
        for depth, part in enumerate(key, 1):
            path += (part,)
            self.lines.setdefault(path, line)
            if is_array and depth == len(key):
                self._elements[path] = self._elements.get(path, -1) + 1
            if path in self._elements:
                path += (self._elements[path],)
                self.lines.setdefault(path, line)
        self._at += 2 if is_array else 1
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self._key("="):
            path += (part,)
            self.lines.setdefault(path, line)
        self._at += 1
        self._skip_blank()
        self._value(path)

    def _key(self, end: str) -> list[str]:
        """The parts of a dotted key, up to *end*."""
        start = self._at
        while self._text[self._at] != end:
            if self._text[self._at] in "\"'":
                self._string()
            else:
                self._at += 1
        parts: list[str] = []
        tree = tomllib.loads(f"{self._text[start : self._at]} = 0")
        while isinstance(tree, dict):
            ((part, tree),) = tree.items()
            parts.append(part)
        return parts

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _BARE_END:
                self._at += 1

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        self._skip_blank()
        index = 0
        while self._text[self._at] != "]":
            element = (*path, index)
            self.lines[element] = self._line()
            self._value(element)
            index += 1
            self._skip_comma()
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip_blank()
        while self._text[self._at] != "}":
            self._pair(path)
            self._skip_comma()
        self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        long = self._text.startswith(quote * 3, self._at)
        end = quote * 3 if long else quote
        self._at += len(end)
        while not self._text.startswith(end, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(end)
        # Up to two quotes more may stand before the closing three.
        while long and self._at < len(self._text) and self._text[self._at] == quote:
            self._at += 1

    def _skip_comma(self) -> None:
        self._skip_blank()
        if self._text[self._at] == ",":
            self._at += 1
            self._skip_blank()

    def _skip_blank(self) -> None:
        """Whitespace, line ends and comments."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text[self._at] in _WHITESPACE:
                self._at += 1
            else:
                return

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1
