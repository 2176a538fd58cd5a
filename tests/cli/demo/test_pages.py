"""The pages of the demo: what they hold is text, and their policies allow their own style and script alone."""

import base64
import hashlib
import re

from hf_tanhmax.cli.demo.pages import form_page, sentence_page

VALUES = {
    "model": "m<b>",
    "head": "Head",
    "of_images": False,
    "classes": ["</option><script>"],
    "mask": None,
    "causal": False,
    "by_position": False,
    "longest": 5000,
    "largest": 1000,
}


def hash_of(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_policies_name_what_the_pages_hold():
    for page in (form_page(**VALUES), sentence_page("a sentence")):
        assert page.policy.startswith("default-src 'none'; ")
        for tag, rule in (("style", "style-src"), ("script", "script-src")):
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page.html, re.DOTALL):
                assert f"{rule} {hash_of(text)};" in page.policy
        assert not re.search(r"https?:|//\w+\.", page.html)
    assert "frame-ancestors 'none'" in form_page(**VALUES).policy
    assert "frame-ancestors 'self'; sandbox" in sentence_page("a").policy


def test_names_are_text():
    page = form_page(**VALUES).html
    assert "m&lt;b&gt;" in page
    assert page.count("<script>") == 1
    assert '<p class="sentence" role="alert">No &lt;i&gt;.</p>' in sentence_page("no <i>.").html


def test_what_is_asked_for():
    assert 'type="file"' not in form_page(**VALUES).html
    assert 'type="file"' in form_page(**{**VALUES, "of_images": True}).html
    assert "A text with one [MASK]" in form_page(**{**VALUES, "classes": [], "mask": "[MASK]"}).html
    assert "The beginning of a text" in form_page(**{**VALUES, "classes": [], "causal": True}).html
    assert 'name="position"' in form_page(**{**VALUES, "classes": [], "by_position": True}).html
