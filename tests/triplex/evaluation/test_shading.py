import pytest

from triplex.evaluation.shading import SHADE_NATS, Piece, pieces


def test_a_text_is_cut_where_its_tokens_begin() -> None:
    assert list(pieces("The tea.", [0, 3, 7], [1.0, 2.5, 0.1])) == [("The", 1.0), (" tea", 2.5), (".", 0.1)]


def test_what_stands_before_the_first_token_has_no_nats() -> None:
    assert list(pieces("  tea", [2], [1.5])) == [("  ", None), ("tea", 1.5)]


def test_tokens_of_one_character_are_one_piece_with_their_sum() -> None:
    assert list(pieces("a☕b", [0, 1, 1, 1, 2], [1.0, 4.0, 2.0, 0.5, 3.0])) == [("a", 1.0), ("☕", 6.5), ("b", 3.0)]


def test_pieces_put_together_are_the_text_and_their_nats_its_nats() -> None:
    text, starts, nats = "Tee für zwei ☕☕", [0, 3, 7, 7, 13, 13, 14], [0.5, 1.5, 2.0, 0.25, 4.0, 3.0, 1.0]
    found = list(pieces(text, starts, nats))
    assert "".join(piece.text for piece in found) == text
    assert sum(piece.nats for piece in found) == sum(nats)


def test_the_space_before_a_word_is_not_shaded() -> None:
    assert [piece.space for piece in pieces("a tea\n\n x", [0, 1, 5, 7], [1.0, 1.0, 1.0, 1.0])] == [
        "",
        " ",
        "\n\n",
        " ",
    ]


def test_edges() -> None:
    assert list(pieces("", [], [])) == []
    assert list(pieces("no token", [], [])) == [("no token", None)]


@pytest.mark.parametrize(("nats", "shade"), [(None, 0), (0.0, 0), (0.69, 0), (0.7, 1), (2.3, 2), (5.0, 3), (40.0, 4)])
def test_a_shade_begins_at_its_nats(nats: float | None, shade: int) -> None:
    assert Piece("x", nats).shade == shade
    assert len(SHADE_NATS) == 4
