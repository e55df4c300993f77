"""Text from outside, made safe to show: a name or a message may not move the cursor or forge a line.

Names, messages and errors of pushed code end up on an operator's terminal. Imports nothing: hooks load this.
"""


def printable(text: object) -> str:
    """Return `text` on one line, with all that a terminal would obey written out as escapes."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(char if char.isprintable() else _escaped(char) for char in plain)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def printable_lines(text: object) -> str:
    """Like `printable`, but line ends stay: for texts of ours with several lines, such as a traceback."""
    return "\n".join(printable(line) for line in str(text).replace("\r\n", "\n").split("\n"))
