"""Text that files can hold: Python's may have halves of characters, which UTF-8 has not."""


def writable(text: str) -> str:
    """Replace lone surrogates, as JSON escapes and names of files that are not UTF-8 give them, by question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
