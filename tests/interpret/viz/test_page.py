"""The page in a real browser: what it shows are the tensors, it can be used without a mouse, and it asks nothing of any network."""

import json
import time
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browser import close, numbers_of, picture_of, read, table_of
from made_explanations import TOKENS, made, made_long, made_of_image
from PIL import Image

from hf_tanhmax.interpret.viz import page as page_module
from hf_tanhmax.interpret.viz.page import save_page, to_html
from hf_tanhmax.interpret.viz.views import head_numbers

EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
VIEWS = ("raw", "oriented", "contributions")


def of_view(explanation, view):
    return {"raw": explanation.weights, "oriented": explanation.oriented, "contributions": explanation.contributions}[view]


# What it shows


def test_it_renders(visit):
    explanation = made(target_name="positive", notes=("this model computes softmax in layer 1",))
    one = visit(explanation)
    page = one.page
    assert page.title() == "tiny/model · what speaks for “positive”"
    assert page.inner_text("h1") == "What speaks for “positive”?"
    assert page.inner_text("#facts").replace("\n", "") == "probability 93.8 %logit +2.252 layers3 heads7 tokens"
    assert "a negative weight takes away" in page.inner_text(".lead")
    assert one.texts("#notes li") == ["this model computes softmax in layer 1"]
    assert one.texts("#tokens [role=option]") == ["not", "funny", "at", "$all_"]
    assert page.locator("#heads button").count() == 6
    assert [text.strip() for text in one.texts("#heads tbody th")] == ["0", "softmax 1"]
    assert page.locator("#heads button.one").count() == 1  # of the TanhMax layer; softmax has a word of its own
    assert page.is_hidden("#several")  # there is one text, one target and no twin
    assert page.is_hidden("#targets")
    assert page.locator(".twin:visible").count() == 0


@pytest.mark.parametrize("view", VIEWS)
def test_numbers_are_the_tensors(view, visit):
    explanation = made()
    one = visit(explanation)
    page = one.page
    page.check(f"input[value={view}]", force=True)
    page.click("#numbers summary")
    page.locator("#heads button[data-layer='0'][data-head='2']").click()
    one.settled(view=view, layer=0, head=2)
    close(numbers_of(one, "#heads button"), head_numbers(explanation, view).flatten())
    for query in (0, 3):
        page.check("input[value=tokens]", force=True)
        page.locator("#tokens [role=option]").nth(query).click()
        one.settled(query=query)
        page.wait_for_function("() => document.getElementById('table').dataset.stamp")
        table = table_of(one)
        assert table["token"] == list(TOKENS)
        for name, wanted in (("attention weight", "raw"), ("oriented weight", "oriented"), ("contribution (logits)", "contributions")):
            close([read(text) for text in table[name]], of_view(explanation, wanted)[0, 2, query])
        close([read(text) for text in table["score: signed rollout"]], explanation.scores["rollout"])


def test_scores_of_words_and_tokens(visit):
    explanation = made()
    page = visit(explanation).page
    for method in explanation.scores:
        view = {"weights": "raw", "oriented": "oriented", "contributions": "contributions"}.get(method)
        if view:
            page.check(f"input[value={view}]", force=True)
        else:
            page.select_option("#method", method)
        for unit, wanted in (("words", explanation.by_word(method)), ("tokens", explanation.scores[method])):
            page.check(f"input[value={unit}]", force=True)
            shown = page.eval_on_selector_all("#tokens [role=option]", "found => found.map(one => one.dataset.value)")
            torch.testing.assert_close(torch.tensor([read(text) for text in shown]), wanted, rtol=1e-3, atol=1e-6)


def test_one_row_as_colours_of_the_text(visit):
    explanation = made()
    one = visit(explanation)
    one.page.check("input[value=tokens]", force=True)
    one.page.check("input[value=oriented]", force=True)
    one.page.select_option("#method", "row")
    one.page.locator("#heads button[data-layer='0'][data-head='0']").click()
    one.page.locator("#tokens [role=option]").first.click()
    one.settled(layer=0, head=0, query=0)
    close(numbers_of(one, "#tokens [role=option]"), explanation.oriented[0, 0, 0])
    bars = dict(zip(one.texts("#row .name"), map(read, one.texts("#row .value")), strict=True))
    torch.testing.assert_close(
        torch.tensor([bars[token] for token in TOKENS]), explanation.oriented[0, 0, 0], rtol=6e-3, atol=1e-6
    )  # three digits
    assert [abs(value) for value in bars.values()] == sorted(map(abs, bars.values()), reverse=True)


# Colours


def test_zero_is_white_and_signs_have_their_colours(visit):
    weights = torch.zeros(2, 3, 7, 7)
    weights[0, 0, 2, 3], weights[0, 0, 4, 5] = 0.5, -0.5
    explanation = made(weights=weights, orientation=torch.ones(2, 3), contributions=weights)
    for scheme, paper in (("light", [255, 255, 255]), ("dark", [22, 24, 28])):
        one = visit(explanation, scheme=scheme)
        page = one.settled(layer=0, head=0)
        page.locator("#matrix").focus()
        for key in ("Home", "PageUp"):  # the cursor away from what is looked at
            page.keyboard.press(key)
        place = json.loads(page.get_attribute("#matrix", "data-place"))
        pixels = picture_of(page.locator("#matrix"))

        def cell(row, column, place=place, pixels=pixels):
            return pixels[int(place["top"] + (row + 0.5) * place["high"]), int(place["left"] + (column + 0.5) * place["cell"])]

        strong = {"light": ([15, 74, 145], [141, 63, 4]), "dark": ([180, 216, 255], [255, 211, 168])}[scheme]
        assert abs(cell(5, 1) - paper).max() <= 1
        assert abs(cell(2, 3) - strong[0]).max() <= 1
        assert abs(cell(4, 5) - strong[1]).max() <= 1
        # Apart from those two, nothing in the matrix has a colour.
        inner = pixels[
            int(place["top"]) + 2 : int(place["top"] + place["height"]) - 2,
            int(place["left"]) + 2 : int(place["left"] + place["width"]) - 2,
        ]
        coloured = (abs(inner - inner.mean(-1, keepdims=True)).max(-1) > 12).mean()
        assert coloured == pytest.approx(2 / 49, abs=0.01)


def test_contrast_and_range(visit):
    explanation = made()
    one = visit(explanation)
    page = one.page
    page.check("input[value=raw]", force=True)
    page.locator("#heads button[data-layer='0'][data-head='2']").click()
    one.settled(view="raw", layer=0, head=2)

    def end():
        return read(page.locator("#matrix-legend span").nth(1).inner_text())

    assert end() == pytest.approx(float(explanation.weights[0, 2].abs().max()), rel=6e-3)
    page.check("input[name=range][value=all]", force=True)
    assert end() == pytest.approx(float(explanation.weights.abs().max()), rel=6e-3)
    page.locator("#contrast").fill("1")
    assert end() == pytest.approx(float(explanation.weights.abs().max()) / 2, rel=6e-3)
    assert "beyond the range the colour stays" in page.inner_text("#matrix-legend")


def test_dark_and_light(visit):
    for scheme, first in (("dark", "true"), ("light", "false")):
        page = visit(made(), scheme=scheme).page

        def paper(page=page):
            return page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")

        assert page.get_attribute("#theme", "aria-checked") == first
        before = paper()
        page.get_by_role("switch", name="Dark").press("Space")
        assert page.get_attribute("#theme", "aria-checked") != first
        assert {before, paper()} == {"rgb(255, 255, 255)", "rgb(22, 24, 28)"}
        assert page.evaluate("getComputedStyle(document.querySelector('#heads button')).color") is not None


# Without a mouse


def test_the_keyboard_reaches_and_moves_everything(visit):
    explanation = made()
    one = visit(explanation)
    page = one.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to one head"
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.role")
        )
    assert {"matrix", "layer", "head", "contrast", "Save as SVG", "numbers"} <= reached | {"numbers"}
    page.keyboard.press("Home")
    page.locator("body").focus()
    page.locator("#theme").focus()
    order = ["theme"]
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.role"))
    wanted = ["theme", "view", "hide-special", "method", "unit", "option", "cells", "strongest"]
    assert [name for name in order if name in wanted] == wanted  # as they stand on the page

    page.locator("#heads button[aria-pressed=true]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    one.settled(layer=0, head=0)
    page.keyboard.press("ArrowRight")
    one.settled(layer=0, head=1)
    page.keyboard.press("ArrowDown")
    one.settled(layer=1, head=1)
    assert page.inner_text("#head-title") == "Layer 1, head 1 (softmax)"
    page.get_by_role("radio", name="Oriented weights").check(force=True)
    one.settled(view="oriented")
    page.locator("#heads button[aria-pressed=true]").focus()
    page.wait_for_function("() => document.getElementById('live').textContent.startsWith('layer 1, head 1 (softmax)')")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("layer 1, head 1 (softmax): +1.00")

    page.focus("#matrix")
    for key in ("PageUp", "ArrowDown", "ArrowDown", "End", "ArrowLeft"):
        page.keyboard.press(key)
    one.settled(query=2)
    said = page.inner_text("#live") or page.text_content("#live")
    assert said.startswith("fun looks at $all_: ")
    assert read(said.split(": ")[1]) == pytest.approx(float(explanation.weights[1, 1, 2, 5]), rel=6e-3)
    assert page.inner_text("#matrix-readout") == said

    page.check("input[value=tokens]", force=True)
    page.locator("#tokens [aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    one.settled(query=3)
    assert page.evaluate("document.activeElement.textContent") == "##ny"
    page.keyboard.press("End")
    one.settled(query=6)


def test_choices_by_their_labels(visit):
    one = visit(made())
    page = one.page
    page.get_by_role("combobox", name="Layer").select_option("1")
    page.get_by_role("combobox", name="Head").select_option("2")
    one.settled(layer=1, head=2)
    page.get_by_role("radio", name="Raw weights").check(force=True)
    one.settled(view="raw", layer=1, head=2)
    page.get_by_role("combobox", name="Colour by").select_option("signed rollout")
    assert "Attention followed through the layers" in page.inner_text("#method-note")


def test_everything_has_a_name_and_an_identity(visit):
    page = visit([made(), made_of_image()]).page
    nameless = page.eval_on_selector_all(
        "button, select, input, canvas:not([aria-hidden]), [role=listbox], [role=list], table, img",
        """found => found.filter(one => {
            const unread = one.closest("[hidden]") || (one.matches("table") && !one.rows.length);  // filled when it is opened
            const labels = one.labels ? [...one.labels].map(label => label.textContent).join("") : "";
            return !unread && !(labels + one.textContent + (one.getAttribute("aria-label") ?? "") + (one.getAttribute("alt") ?? "")).trim();
        }).map(one => one.outerHTML)""",
    )
    assert nameless == []
    identities = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(identities) == len(set(identities))
    for attribute in ("aria-labelledby", "aria-describedby"):
        for name in page.eval_on_selector_all(f"[{attribute}]", f"found => found.map(one => one.getAttribute('{attribute}'))"):
            assert name in identities
    assert page.get_attribute("html", "lang") == "en"


# What it must not do


def test_markup_in_texts_is_shown_and_not_run(visit):
    tokens = (EVIL, "<b>bold</b>", "&amp;", "-->", "']}", "`${1}`", "\u2028")
    explanation = made(tokens=tokens, word_texts=tokens, words=tuple(range(7)), target_name=EVIL, model_name=EVIL, notes=(EVIL,))
    one = visit([explanation, explanation])
    page = one.page
    assert one.texts("#tokens [role=option]")[:6] == list(tokens[:6])
    assert EVIL in page.inner_text("h1")
    assert EVIL in page.inner_text("#model")
    assert page.title().startswith(EVIL[:20])
    page.click("#numbers summary")
    page.wait_for_function("() => document.getElementById('table').dataset.stamp")
    assert table_of(one)["token"][0] == EVIL
    assert page.locator("img[src=x], #tokens b").count() == 0
    assert page.locator("script:not([type='text/plain'])").count() == 2  # its data and its own script
    with page.expect_download() as download:
        page.locator("[data-picture=evidence] button", has_text="SVG").click()
    svg = ElementTree.parse(download.value.path())
    assert EVIL in "".join(svg.getroot().itertext())


def test_nothing_but_its_own_script_can_run(visitor, tmp_path):
    one = visitor.open(save_page(made(), tmp_path / "page.html"))
    one.page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'run'";
        const picture = "<img src='https://example.invalid/a.png' onerror='document.title = 1'>";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", `${picture}<p style='color: red' id='styled'>a</p>`);
        return fetch("https://example.invalid/").catch(() => null);
    }""")
    assert one.page.title() != "run"
    assert one.page.evaluate("getComputedStyle(document.getElementById('styled')).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in complaint for complaint in one.complaints) >= 4
    one.complaints.clear()
    one.asked.clear()


def test_the_file_names_no_other_place():
    text = to_html([made(), made_of_image()])
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in text


# Saving


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["evidence", "heads", "head"])
def test_what_is_shown_can_be_saved(picture, visit):
    explanation = made()
    one = visit(explanation)
    page = one.page
    page.check("input[value=oriented]", force=True)
    one.settled(view="oriented")
    saved = {}
    for kind in ("PNG", "SVG", "JSON"):
        with page.expect_download() as download:
            page.locator(f"[data-picture={picture}] button", has_text=kind).click()
        assert download.value.suggested_filename.endswith(kind.lower())
        saved[kind] = download.value.path()
    image = np.asarray(Image.open(saved["PNG"]).convert("RGB")).astype(int)
    assert (image[0, 0] == 255).all()
    assert (image[..., 2] - image[..., 0]).max() > 60  # blue
    assert (image[..., 0] - image[..., 2]).max() > 60  # orange
    words = "".join(ElementTree.parse(saved["SVG"]).getroot().itertext())
    assert "for “positive”, probability 0.938, logit +2.25, tiny/model" in words
    numbers = json.loads(saved["JSON"].read_text())
    assert (numbers["target"], numbers["logit"]) == ("positive", 2.25)
    if picture == "evidence":
        torch.testing.assert_close(torch.tensor(numbers["scores"]), explanation.by_word("oriented"))
        assert "funny" in words
    elif picture == "heads":
        torch.testing.assert_close(torch.tensor(numbers["numbers"]), head_numbers(explanation, "oriented"))
    else:
        layer, head = numbers["layer"], numbers["head"]
        close(numbers["values"], explanation.oriented[layer, head])
        assert "$all_" in words


# Images, several examples, long texts


def test_an_image_under_its_patches(visit):
    scores = {"contributions": torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0])}
    explanation = replace(made_of_image(rows=2, columns=3, size=(60, 40), scores=scores), image=Image.new("RGB", (60, 40), (128, 128, 128)))
    one = visit(explanation)
    page = one.page
    page.uncheck("#smooth", force=True)
    pixels = picture_of(page.locator("#picture"))
    high, wide = pixels.shape[:2]
    first, last, middle = pixels[high // 4, wide // 6], pixels[3 * high // 4, 5 * wide // 6], pixels[high // 4, wide // 2]
    assert first[2] - first[0] > 60
    assert last[0] - last[2] > 60
    assert abs(middle - 128).max() <= 2
    page.locator("#picture").focus()
    for key in ("Home", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    one.settled(query=2)
    assert page.inner_text("#evidence-readout").startswith("0, 1")
    page.locator("#strength").fill("0")
    page.locator("#picture").focus()
    assert abs(picture_of(page.locator("#picture"))[3 * high // 4, 5 * wide // 6] - 128).max() <= 2


def test_an_image_that_is_not_at_hand(visit):
    page = visit(made_of_image(image=None)).page
    assert page.is_hidden("#original")
    assert page.is_visible("#picture")


def test_next_tokens_that_follow_each_other(visit):
    words = ("The", "capital", "of", "France", "is")
    written = ("Paris", ",", "where")
    steps = []
    for count, name in enumerate(written):
        tokens = (*words, *written[:count])
        places = tuple(range(len(tokens)))
        steps.append(
            made(tokens=tokens, words=places, word_texts=tokens, position=len(tokens) - 1, target_name=name, layers=16, seed=count)
        )
    one = visit(steps)
    page = one.page
    assert page.is_hidden("#several")
    assert one.texts("#written button") == ["Paris93.8 %", ",93.8 %", "where93.8 %"]
    page.get_by_role("button", name="where").press("Enter")
    one.settled(example=2)
    assert page.inner_text("h1") == "What speaks for “where”?"
    assert one.texts("#tokens [role=option]") == [*words, "Paris", ","]
    assert page.evaluate("document.activeElement.textContent") == "where93.8 %"
    assert page.locator("#right #row-card").count() == 1  # as sixteen layers are taller than the matrix


def test_a_page_that_is_too_large_says_which_texts_take_how_much(monkeypatch, tmp_path):
    """Also in a notebook; a twin counts for its text."""
    long = made(tokens=("very",) * 60, words=tuple(range(60)), word_texts=("very",) * 60)
    short = made()
    short = replace(short, twin=replace(made(seed=3), target=short.target))
    save_page([short, long], tmp_path / "a.html")
    monkeypatch.setattr(page_module, "LARGEST_PAGE", 30_000)
    said = r"the page takes 0\.\d MB, more than the 0.03 MB that a browser shows well: 0\.\d MB for “2: very very .*”, 0\.0 MB for “1: not"
    for make in (lambda given: save_page(given, tmp_path / "a.html"), to_html):
        with pytest.warns(UserWarning, match=said + " .*; explain fewer texts in one page, shorter ones"):
            make([short, long])
    many = [made(seed=seed) for seed in range(7)]
    with pytest.warns(UserWarning, match="and 2 more texts; explain fewer"):
        to_html(many)


def test_several_texts(visit):
    second = made(tokens=("[CLS]", "fine"), words=(None, 0), word_texts=("fine",), target_name="negative", layers=3, heads=2)
    one = visit([made(), second, made_of_image()])
    page = one.page
    assert one.texts("#text option") == ["1: not funny at $all_", "2: fine", "3: flower"]
    page.get_by_role("combobox", name="Text").select_option("1")
    one.settled(example=1)
    assert page.inner_text("h1") == "What speaks for “negative”?"
    assert one.texts("#tokens [role=option]") == ["fine"]
    assert page.locator("#heads button").count() == 6
    page.select_option("#text", "2")
    one.settled(example=2)
    assert page.is_visible("#picture")
    assert page.is_hidden("#tokens")


@pytest.mark.parametrize(("position", "name"), [(5, "$all_"), (None, "all positions together")])
def test_contributions_of_one_row(position, name, visit):
    explanation = made(position=position)
    one = visit(explanation, contributions="row")
    page = one.page
    one.settled(view="contributions")
    assert f"it holds contributions of {name} only" in page.inner_text("#head-note")
    assert page.inner_text("#row-title") == f"What “{name}” looks at"
    page.click("#numbers summary")
    page.wait_for_function("() => document.getElementById('table').dataset.stamp")
    layer, head = (int(part) for part in page.get_attribute("html", "data-shown").split("/")[2:4])
    wanted = explanation.contributions[layer, head]
    shown = [read(text) for text in table_of(one)[f"contribution (logits), {name}"]]
    close(shown, wanted.sum(0) if position is None else wanted[position])


def test_a_next_token_follows_the_text(visit):
    one = visit(made(position=6, target_name=" Paris"))
    assert one.texts("#tokens .next") == ["→  Paris  93.8 %"]
    assert visit(made(position=0)).page.locator("#tokens .next").count() == 0


@pytest.mark.slow
def test_512_tokens_and_144_heads(visitor, tmp_path):
    """At most 30 MB; numbers are rounded by no more than the page says; and it can be used while the thumbnails are drawn."""
    explanation = made_long()
    path = save_page(explanation, tmp_path / "long.html")
    assert path.stat().st_size <= 30_000_000
    one = visitor.open(path)
    page = one.page
    start = time.perf_counter()
    page.check("input[value=raw]", force=True)
    page.get_by_role("combobox", name="Layer").select_option("11")
    one.settled(layer=11)
    page.get_by_role("combobox", name="Head").select_option("7")
    one.settled(layer=11, head=7, view="raw")
    page.focus("#matrix")
    for key in ("Home", *["PageUp"] * 52, "End", "PageDown"):
        page.keyboard.press(key)
    one.settled(query=10)
    assert time.perf_counter() - start < 60  # on a machine that does a lot besides
    assert page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") < 15_000
    said = page.inner_text("#rounding")
    assert said.startswith("Rounded to keep this file small: its numbers are off by at most ")
    error = float(said.removesuffix(".").split()[-1])
    assert 0 < error < 0.11 * float(explanation.weights[11, 7].abs().max())
    assert abs(read(page.text_content("#live").split(": ")[1]) - float(explanation.weights[11, 7, 10, 511])) <= error * 1.01
    assert page.locator("#tokens [role=option]").count() == 512
    assert one.found_fault() == ([], [])


def test_what_cannot_be_shown():
    with pytest.raises(ValueError, match=r"there is no explanation to show; explain makes one"):
        to_html([])
    with pytest.raises(ValueError, match=r"the contributions are not finite"):
        to_html(made(contributions=torch.full((2, 3, 7, 7), float("nan"))))


def test_what_says_nothing_is_pale(visit):
    """The range of colours of scores in logits ends at half a logit or beyond, and far beyond for a text of unknown words."""
    noise = {"contributions": torch.tensor([0.0, 0.05, 0.0, 0.0, -0.05, 0.0, 0.0]), "weights": torch.full((7,), 0.05)}
    one = visit(made(scores=noise))
    assert one.texts("#evidence-legend span")[1:2] == ["+0.500"]
    one.page.check("input[value=raw]", force=True)
    one.settled(view="raw")
    assert one.texts("#evidence-legend span")[1:2] == ["+0.100"]  # of a word of two tokens
    unknown = visit(made(scores=noise, unknown=(1, 2, 3, 4, 5), notes=("the model knows none of these words",)))
    assert unknown.texts("#evidence-legend span")[1:2] == ["+2.00"]
    assert unknown.texts("#notes li") == ["the model knows none of these words"]
