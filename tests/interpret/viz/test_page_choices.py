"""What a reader can choose for all cards of the page: the quantity, hidden positions, the target, a twin beside it; and thumbnails."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import close, numbers_of, picture_of, read, table_of
from made_explanations import made, made_of_image

from hf_tanhmax.interpret import Conservation, GenerationExplanation
from hf_tanhmax.interpret.viz.page import save_page, to_html
from hf_tanhmax.interpret.viz.views import head_numbers

VIEWS = {
    "raw": ("attention weight", "weights"),
    "oriented": ("oriented weight", "oriented"),
    "contributions": ("contribution (logits)", "contributions"),
}


def test_it_begins_with_the_two_signed_head_that_does_most(visit):
    """And with the row of its strongest cell; heads of one sign and softmax ones are passed over, unless there are no others."""
    contributions = torch.zeros(2, 3, 7, 7)
    contributions[0, 2, 4, 3] = -5
    contributions[0, 1, 1, 1] = contributions[1, 0, 1, 1] = 20
    page = visit(made(contributions=contributions)).settled(view="contributions", layer=0, head=2, query=4)
    assert page.inner_text("#head-title") == "Layer 0, head 2"
    assert page.inner_text("#matrix-readout") == "at looks at ##ny: −5.00"
    page.locator("#heads button[data-layer='1'][data-head='1']").click()
    page.get_by_role("button", name="Strongest of two signs").press("Enter")
    page.wait_for_function("() => document.getElementById('head-title').textContent === 'Layer 0, head 2'")
    visit(made(contributions=contributions, signed=(False, False))).settled(view="contributions", layer=0, head=1, query=1)


def test_one_choice_for_all_cards(visit):
    explanation = made()
    one = visit(explanation)
    page = one.page
    for view, (name, score) in VIEWS.items():
        page.check(f"input[value={view}]", force=True)
        one.settled(view=view)
        assert page.inner_text("#matrix-legend span:last-child") == name
        assert page.get_attribute("#matrix", "aria-label").endswith(f"{name}, 7 queries by 7 keys")
        assert name in page.inner_text("#row-note")
        torch.testing.assert_close(torch.tensor(numbers_of(one, "#tokens [role=option]")), explanation.by_word(score), rtol=1e-3, atol=1e-6)
        close(numbers_of(one, "#heads button"), head_numbers(explanation, view).flatten())
        page.wait_for_function("view => document.documentElement.dataset.drawn === view", arg=view)
    page.select_option("#method", "rollout")  # of the words alone; another view takes the words along again
    assert page.inner_text("#evidence-legend span:last-child") == "signed rollout"
    page.check("input[value=raw]", force=True)
    one.settled(view="raw")
    assert page.inner_text("#evidence-legend span:last-child") == "attention weights"
    assert "Blue is above zero" in page.inner_text(".lead")


def test_scores_that_no_view_has(visit):
    """The words show the first scores that there are, where the view's own were not computed."""
    page = visit(made(scores={"rollout": torch.ones(7)})).page
    assert page.input_value("#method") == "rollout"
    assert page.inner_text("#evidence-legend span:last-child") == "signed rollout"


def test_positions_can_be_hidden(visit):
    """Words, heads, matrix, row and table leave them out; the row that the logit is read from stays."""
    weights = torch.full((2, 3, 7, 7), 0.02)
    weights[:, :, :, 4] = -0.7
    one = visit(made(weights=weights, orientation=torch.ones(2, 3), padding=(6,)))
    page = one.page
    assert [text.strip() for text in one.texts("#hiding label:not([hidden])")] == ["Special tokens 2", "Sinks 1", "Padding 1"]
    page.check("input[value=raw]", force=True)
    page.check("input[value=tokens]", force=True)
    page.click("#numbers summary")
    page.get_by_role("checkbox", name="Sinks").check()
    page.wait_for_function("() => document.querySelectorAll('#table tbody tr').length === 6")
    kept = ["[CLS]", "not", "fun", "##ny", "$all_", "[SEP]"]
    assert one.texts("#tokens [role=option]") == kept
    assert table_of(one)["token"] == kept
    assert page.get_attribute("#matrix", "aria-label").endswith("6 queries by 6 keys")
    close(numbers_of(one, "#heads button"), torch.full((6,), 0.12))
    assert read(page.locator("#matrix-legend span").nth(1).inner_text()) == pytest.approx(0.02, rel=1e-2)
    assert "at" not in one.texts("#row .name")
    assert page.text_content("#live") == "1 positions are hidden"
    page.get_by_role("checkbox", name="Special tokens").check()
    page.wait_for_function("() => document.querySelectorAll('#table tbody tr').length === 4")
    assert page.get_attribute("#matrix", "aria-label").endswith("5 queries by 4 keys")  # the logit is read from [CLS]
    page.focus("#matrix")
    for key in ("Home", "PageUp"):
        page.keyboard.press(key)
    assert page.text_content("#live") == "[CLS] looks at not: +0.0200"
    page.get_by_role("checkbox", name="Special tokens").uncheck()
    page.get_by_role("checkbox", name="Sinks").uncheck()
    page.get_by_role("checkbox", name="Padding").check()
    page.wait_for_function("() => document.querySelectorAll('#table tbody tr').length === 6")
    assert "[SEP]" not in one.texts("#tokens [role=option]")


def test_everything_hidden_is_no_fault(visit):
    one = visit(made(tokens=("[CLS]", "[SEP]"), words=(None, None), word_texts=()))
    one.page.get_by_role("checkbox", name="Special tokens").check()
    one.page.wait_for_function("() => document.getElementById('live').textContent === '2 positions are hidden'")


def test_what_cannot_be_hidden_is_not_offered(visit):
    words = ("a", "film")
    assert visit(made(tokens=words, words=(0, 1), word_texts=words, layers=2)).page.is_hidden("#hiding")


def test_the_target_can_be_switched(visit):
    one = made()
    other = replace(one, target=0, target_name="negative", probability=0.0625, logit=-2.0, contributions=-one.contributions)
    other = replace(other, scores={name: -values for name, values in one.scores.items()})
    seen = visit([one, other])
    page = seen.page
    assert page.is_hidden("#several")  # it is one text
    assert seen.texts("#target-choice option") == ["positive (93.8 %)", "negative (6.25 %)"]
    page.locator("#heads button[data-layer='0'][data-head='1']").click()
    seen.settled(layer=0, head=1)
    page.get_by_role("combobox", name="Target").select_option("negative (6.25 %)")
    seen.settled(example=1, layer=0, head=1)  # the same head
    assert page.inner_text("h1") == "What speaks for “negative”?"
    close(numbers_of(seen, "#heads button"), head_numbers(other, "contributions").flatten())
    page.check("input[value=raw]", force=True)
    seen.settled(example=1, view="raw")
    assert page.locator("script[id^='weights-']").count() == 6  # the page holds them once
    assert page.locator("script[id^='contributions-']").count() == 12


def test_a_twin_stands_beside(visit):
    twin = made(seed=4, signed=(False, False), model_name="tiny/softmax", logit=1.5, probability=0.75, notes=("of the twin",))
    explanation = made(twin=twin)
    one = visit(explanation)
    page = one.page
    assert "softmax twin: probability 75.0 %logit +1.50" in page.inner_text("#facts").replace("\n", "")
    assert one.texts("#notes li") == ["softmax twin: of the twin"]
    assert set(one.texts(".twin-title")) == {"Softmax twin: tiny/softmax"}
    words = numbers_of(one, "#twin-tokens [role=listitem]")
    torch.testing.assert_close(torch.tensor(words), twin.by_word("contributions"), rtol=1e-3, atol=1e-6)
    close(numbers_of(one, "#twin-heads button"), head_numbers(twin, "contributions").flatten())
    page.locator("#twin-heads button[data-layer='1'][data-head='2']").click()
    one.settled(layer=1, head=2)
    page.focus("#matrix")
    for key in ("Home", "PageUp", "ArrowRight"):
        page.keyboard.press(key)
    one.settled(query=0)
    said = page.text_content("#live")
    assert said == page.inner_text("#matrix-readout")
    ours, theirs = said.removeprefix("[CLS] looks at not: ").split("; softmax twin ")
    assert read(ours) == pytest.approx(float(explanation.contributions[1, 2, 0, 1]), rel=6e-3)
    assert read(theirs) == pytest.approx(float(twin.contributions[1, 2, 0, 1]), rel=6e-3)
    end = max(float(each.contributions[1, 2].abs().max()) for each in (explanation, twin))
    assert read(page.locator("#matrix-legend span").nth(1).inner_text()) == pytest.approx(end, rel=6e-3)  # one range for both
    page.click("#numbers summary")
    page.wait_for_function("() => document.getElementById('table').dataset.stamp")
    close([read(text) for text in table_of(one)["softmax twin, attention weight"]], twin.weights[1, 2, 0])
    assert page.get_by_role("img", name="The same head of the softmax twin").count() == 1


def test_a_twin_of_an_image(visit):
    page = visit(made_of_image(twin=made_of_image(seed=3))).page
    assert page.is_visible("#twin-picture")
    assert page.is_hidden("#twin-tokens")
    assert picture_of(page.locator("#twin-picture")).std() > 1


def test_unknown_words_and_cut_texts_are_flagged(visit):
    one = visit(made(unknown=(2,), cut=12, notes=("the tokenizer has [UNK]", "the text was cut", "another")))
    assert one.texts("#notes li.warning") == ["the tokenizer has [UNK]", "the text was cut"]
    assert one.texts("#tokens .unknown") == ["funny"]
    assert one.page.get_attribute("#tokens .unknown", "aria-label").endswith(", not known to the tokenizer")
    assert one.texts("#tokens .cut") == ["✂ 12 tokens cut"]


PIXELS = "canvas => [canvas.width, canvas.height, ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


def test_every_head_has_its_matrix_small(visit):
    weights = torch.zeros(2, 3, 7, 7)
    weights[0, 2, 1, 5], weights[0, 2, 6, 0] = 0.4, -0.4
    page = visit(made(weights=weights, orientation=torch.ones(2, 3), contributions=weights)).page
    page.wait_for_function("() => document.documentElement.dataset.drawn")
    pixels = page.eval_on_selector("#heads button[data-layer='0'][data-head='2'] canvas", PIXELS)
    assert pixels[:2] == [7, 7]
    colours = np.array(pixels[2:]).reshape(7, 7, 4)[..., :3]
    assert colours[1, 5].tolist() == [15, 74, 145]
    assert colours[6, 0].tolist() == [141, 63, 4]
    assert (colours.reshape(49, 3) == 255).all(1).sum() == 47
    page.get_by_role("radio", name="Sums").check(force=True)
    assert page.locator("#heads canvas:visible").count() == 0
    assert page.locator("#heads button:visible").count() == 6


def test_a_thumbnail_keeps_the_strongest_cells_of_a_long_matrix(visit):
    tokens = tuple(f"w{index}" for index in range(70))
    contributions = torch.zeros(2, 1, 70, 70)
    contributions[0, 0, 69, 34] = -3
    explanation = made(tokens=tokens, words=tuple(range(70)), word_texts=tokens, heads=2)
    page = visit(replace(explanation, contributions=contributions.repeat(1, 2, 1, 1))).page
    page.wait_for_function("() => document.documentElement.dataset.drawn")
    pixels = page.eval_on_selector("#heads canvas", PIXELS)
    assert pixels[:2] == [24, 24]  # three cells a pixel
    assert np.array(pixels[2:]).reshape(24, 24, 4)[23, 11, :3].tolist() == [141, 63, 4]


def test_what_scores_add_up_to_is_told(visit):
    """With the method's note, and as a warning where it is far from what it should be."""
    near, far = Conservation(2.2, 2.25, "the logit", 3.0), Conservation(0.2, 2.25, "the logit", 3.0)
    notes = (far.sentence("contributions"), "another")
    one = visit(made(conservation={"contributions": far, "integrated_gradients": near}, notes=notes))
    page = one.page
    assert one.texts("#notes li") == ["another"]
    assert "The scores sum to 0.2 of the logit 2.25, which is too far from it" in page.inner_text("#method-note .far")
    page.select_option("#method", "integrated_gradients")
    assert page.inner_text("#method-note .sum") == "The scores sum to 2.2 of the logit 2.25."
    assert page.locator("#method-note .far").count() == 0
    page.select_option("#method", "rollout")
    assert page.locator("#method-note .sum").count() == 0


def generation(**changes):
    """Three tokens that were written after two."""
    scores = torch.tensor([[1.0, -2.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0, 0.0]])
    sums = tuple(Conservation(float(row.sum()), 1.0, "the logit", 3.0) for row in scores)
    values = {
        "model_name": "tiny/llama",
        "family": "llama",
        "method": "input_x_gradient",
        "tokens": ("of", "France", "is", "Paris", "."),
        "prompt": 2,
        "targets": (1, 2, 3),
        "logits": torch.ones(3),
        "probabilities": torch.tensor([0.5, 0.25, 0.75]),
        "scores": scores,
        "conservation": sums,
        "notes": ("2 of 3 rows are far",),
    }
    return GenerationExplanation(**{**values, **changes})


def test_a_whole_generation_has_a_card(visitor, tmp_path):
    one = visitor.open(save_page(made(), tmp_path / "page.html", generation=generation()))
    page = one.page
    assert page.inner_text("#generation-note").endswith("2 of 3 rows are far.")
    page.focus("#generation")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#live") == "is by France: −2.00"
    assert "is by France: −2.00" in page.inner_text("#generation-readout")
    assert page.inner_text("#generation-readout .far").startswith("The scores sum to -1 of the logit 1")
    for key in ("ArrowDown", "ArrowDown", "End"):
        page.keyboard.press(key)
    assert page.text_content("#live") == ". by Paris: +3.00"
    page.keyboard.press("PageUp")
    assert page.text_content("#live") == "is by France: −2.00"  # the last token before it
    assert picture_of(page.locator("#generation")).std() > 3
    assert one.texts("#generation-table tbody tr:nth-child(3) td") == ["0", "0", "0", "+3.00"]
    assert one.texts("#generation-legend span")[1] == "+3.00"
    assert one.found_fault() == ([], [])


def test_a_page_without_a_generation_has_no_such_card(visit):
    assert visit(made()).page.is_hidden("#generation-card")


def test_a_generation_that_is_no_number():
    with pytest.raises(ValueError, match="the scores of the generation are not finite"):
        to_html(made(), generation=generation(scores=torch.full((3, 5), torch.nan)))
