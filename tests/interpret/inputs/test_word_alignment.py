"""Tokens are merged to words by where they stand in the text."""

from tiny_tokenizers import byte_pieces, word_pieces

from hf_tanhmax.interpret.inputs.word_alignment import align_words, token_texts


def merged(tokenizer, text):
    batch = tokenizer(text, return_offsets_mapping=True)
    special = [identifier in tokenizer.all_special_ids for identifier in batch["input_ids"]]
    return token_texts(tokenizer, batch["input_ids"]), *align_words(text, batch["offset_mapping"], special)


def test_pieces_and_apostrophes_are_one_word_and_marks_are_their_own():
    tokens, words, texts = merged(word_pieces(), "Unwatchable, don't.")
    assert tokens == ("[CLS]", "un", "##watch", "##able", ",", "don", "'", "t", ".", "[SEP]")
    assert words == (None, 0, 0, 0, 1, 2, 2, 2, 3, None)
    assert texts == ("Unwatchable", ",", "don't", ".")


def test_bytes_with_their_leading_space_belong_to_the_word_after_it():
    tokens, words, texts = merged(byte_pieces(), "bad a\nfilm")
    assert tokens == ("b", "a", "d", "a", "\\n", "f", "i", "l", "m")
    assert words == (0, 0, 0, 1, 2, 3, 3, 3, 3)
    assert texts == ("bad", "a", "\\n", "film")


def test_a_character_of_several_tokens_is_in_one_word():
    _, words, texts = merged(byte_pieces(), "fé a")
    assert words == (0, 0, 0, 1)
    assert texts == ("fé", "a")


def test_scripts_without_spaces_have_a_word_for_each_character():
    assert align_words("好片 ok", [(0, 1), (1, 2), (2, 5)], [False] * 3) == ((0, 1, 2), ("好", "片", "ok"))


def test_without_a_tokenizer_tokens_are_numbers():
    assert token_texts(None, [7, 9]) == ("id 7", "id 9")
