"""Explanations of one input with several targets stand together, and twins beside theirs."""

from dataclasses import replace

from made_explanations import made

from hf_tanhmax.interpret.viz.arrangement import arrange


def test_targets_of_one_text_share_its_weights():
    one = made(target=1)
    other = replace(one, target=0, target_name="negative", contributions=-one.contributions)
    second = made(seed=3)
    found = arrange([one, second, other])
    assert found.texts == ((0, 2), (1,))
    assert found.weights_of == (0, 1, 0)
    assert found.names == ("1: not funny at $all_", "2: not funny at $all_")
    assert found.twins == (None, None, None)
    assert not found.follows


def test_the_same_twice_is_two_texts():
    assert arrange([made(), made()]).texts == ((0,), (1,))
    assert arrange([made(), made()]).weights_of == (0, 0)


def test_other_models_are_other_texts():
    one = made()
    assert arrange([one, replace(one, target=0, model_name="other")]).texts == ((0,), (1,))


def test_twins_stand_after_all_others():
    twin = made(seed=5, model_name="softmax")
    one = made(twin=twin)
    other = replace(one, target=0, twin=replace(twin, target=0))
    found = arrange([one, other, made(seed=2)])
    assert found.texts == ((0, 1), (2,))
    assert found.twins == (3, 4, None, None, None)
    assert found.weights_of == (0, 0, 2, 3, 3)


def test_steps_follow_each_other():
    words = ("The", "capital", "of")
    steps = [made(tokens=words[:count], words=range(count), word_texts=words[:count], seed=count) for count in (1, 2, 3)]
    assert arrange(steps).follows
    assert not arrange(steps[::-1]).follows
    assert not arrange(steps[:1]).follows


def test_a_long_text_has_a_short_name():
    words = tuple(f"word{index}" for index in range(40))
    (name,) = arrange([made(tokens=words, words=range(40), word_texts=words, layers=2)]).names
    assert name.startswith("1: word0 word1 ")
    assert name.endswith("…")
    assert len(name) == 63
