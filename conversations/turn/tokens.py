"""How many tokens a text has, about: an estimate from above that needs no tokenizer.

Tokenizers differ, and their tables are fetched from a network. So bytes are counted, by kind: a
third of a token for each byte of lower-case words and the spaces between them, a half for each byte
of other scripts and emoji, and a whole one for each digit, capital and mark of punctuation, since
figures, hashes and keys break into pieces of one or two characters. Prose, with four bytes and more
for a token, comes out too high; a long run of random lower-case letters may come out too low.
"""

from collections.abc import Iterable

from prompts.provider import ChatMessage

TOKENS_PER_MESSAGE = 8
"""The marks around each message of a chat, and the ones at its end."""

_IN_WORDS = b"abcdefghijklmnopqrstuvwxyz \n"
_ASCII = bytes(range(128))


def estimated_tokens(text: str) -> int:
    """Return about how many tokens the text has: rarely fewer than a tokenizer would count."""
    written = text.encode(errors="surrogatepass")
    in_words = len(written) - len(written.translate(None, _IN_WORDS))
    not_ascii = len(written.translate(None, _ASCII))
    others = len(written) - in_words - not_ascii
    # A third, a half and a whole token for each byte, rounded up.
    return (2 * in_words + 3 * not_ascii + 6 * others + 5) // 6


def estimated_tokens_told(messages: Iterable[ChatMessage]) -> int:
    """Return about how many tokens the provider will count as its input."""
    return sum(TOKENS_PER_MESSAGE + estimated_tokens(message["content"]) for message in messages)
