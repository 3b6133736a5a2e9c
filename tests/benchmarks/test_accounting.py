"""The figures of the benchmark are right: letters on the page, delays, percentiles."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accounting import (
    Received,
    ReplyOnPage,
    delays,
    is_sustained,
    letters,
    percentile,
    read_reply,
    token_ends,
    visible_letters,
)
from benchmarks.report import Table, number, write
from benchmarks.streams import prose
from conversations.reply.fragments import partial, text_arrived
from conversations.reply.markdown import BlockStream

FENCE = 7
TOKENS = prose(400)
TEXT = "".join(TOKENS)


def final_frame(blocks: BlockStream) -> str:
    final = blocks.finish()
    return partial(f"#open-{FENCE}", "beforebegin", final.closed) + partial(
        f"#open-{FENCE}", "delete", ""
    )


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=30))
def test_a_page_shows_exactly_the_letters_of_what_was_flushed(cuts: list[int]) -> None:
    blocks, page, at = BlockStream(), ReplyOnPage(FENCE), 0
    for cut in sorted(cuts):
        page.apply(text_arrived(FENCE, blocks.feed(TEXT[at:cut], flush=True)))
        at = cut
        assert page.letters == letters(TEXT[:cut])
    page.apply(text_arrived(FENCE, blocks.feed(TEXT[at:])))
    page.apply(final_frame(blocks))
    assert page.letters == letters(TEXT)


def test_code_that_grows_by_suffixes_is_counted_once() -> None:
    blocks, page = BlockStream(), ReplyOnPage(FENCE)
    page.apply(text_arrived(FENCE, blocks.feed("```\nfirst < 1\n", flush=True)))
    before = page.letters
    page.apply(text_arrived(FENCE, blocks.feed("second\n", flush=True)))
    assert page.letters == before + len("second")


def test_a_snapshot_replaces_what_was_shown() -> None:
    page = ReplyOnPage(FENCE)
    page.apply(partial(f"#open-{FENCE}", "innerMorph", "<p>old words</p>"))
    page.start_over(
        f'<div class="prose" id="prose-{FENCE}" hx-ignore><p>new</p></div>'
        f'<div class="evidence" id="evidence-{FENCE}">Model</div>'
    )
    assert page.letters == len("new")


def test_bytes_of_text_leave_out_the_first_frame_and_the_last() -> None:
    texts = [orjson.dumps({"id": f"{FENCE}:{n}", "content": "x" * n}).decode() for n in range(3)]
    messages = [Received(float(n), 100 + 10 * n, text) for n, text in enumerate(texts)]
    read = read_reply(messages, 90)
    assert (read.frames, read.wire_bytes, read.text_wire_bytes) == (3, 30, 10)
    assert (read.raw_bytes, read.text_raw_bytes) == (sum(map(len, texts)), len(texts[1]))


def test_a_token_arrives_with_the_first_message_that_reaches_its_end() -> None:
    ends = token_ends(["Hel", "lo", " you"])
    assert ends == [3, 5, 8]
    samples = [(1.0, 0), (1.5, 4), (1.75, 8)]
    assert delays([1.0, 1.25, 1.5], ends, samples) == [0.5, 0.5, 0.25]
    assert delays([1.0, 1.25, 1.5], ends, samples[:2]) == [0.5]


def test_sustained_means_all_of_it_at_the_rate_and_in_time() -> None:
    sent = [0.0, 1.0, 2.0]
    assert is_sustained(sent, [0.25, 1.25, 2.25])
    assert not is_sustained(sent, [0.25, 1.25])
    assert not is_sustained(sent, [0.0, 1.0, 2.75])
    assert not is_sustained(sent, [0.75, 1.75, 2.75], lag=0.5)


def test_percentiles_are_interpolated() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([5.0], 0.95) == 5.0
    assert number(percentile([], 0.5)) == "–"


def test_visible_letters_know_entities_and_tags() -> None:
    assert visible_letters('<p title="no">a &lt; b</p>\n') == 3


def test_writing_keeps_what_stands_around_the_figures(tmp_path) -> None:
    path, table = tmp_path / "benchmarks.md", Table("One", ["", "ms"], [["a", "1"]])
    write(path, [table], "first")
    path.write_text("Before. " + path.read_text() + "After.")
    write(path, [table], "second")
    text = path.read_text()
    assert text.startswith("Before. ")
    assert text.endswith("After.")
    assert "second" in text
    assert "first" not in text
    assert text.count("| a | 1 |") == 1


@pytest.mark.parametrize("tokens", [1, 300, 600])
def test_prose_has_as_many_tokens_as_asked_for(tokens: int) -> None:
    assert len(prose(tokens)) == tokens
