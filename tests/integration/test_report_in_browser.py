"""The HTML report: nothing from outside, and how a real browser lays it out."""

import base64
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from made_up_scores import cm_scores

from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.plots import draw
from speechbrain_bilevel.evaluation.report import render
from speechbrain_bilevel.evaluation.score_files import ASVScores

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SYSTEMS = [
    "<script>alert(1)</script>",
    "a/rather/long/path/to/an_experiment_with_many_settings/seed_1/scores.txt",
    "negated" + 60 * "x",
]
ATTACKS = ["A<b>", "A\"&amp;'", "Long" + 60 * "g"]

# An inner frame is as wide as asked; a window is never that narrow.
FRAME = """<!DOCTYPE html>
<iframe srcdoc="{page}" style="border: 0; width: {width}px; height: 9000px">
</iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const box = element => {{
    const {{left, right, top, bottom}} = element.getBoundingClientRect();
    return [left, right, top, bottom];
  }};
  const all = selector => [...page.querySelectorAll(selector)];
  // Within an image nothing can be measured, so each is also drawn here.
  const texts = image => {{
    const bytes = Uint8Array.from(
      atob(image.src.split("base64,")[1]), letter => letter.charCodeAt(0)
    );
    const figure = document.createElement("div");
    figure.innerHTML = new TextDecoder().decode(bytes);
    document.body.append(figure);
    return [figure.querySelector("svg"), ...figure.querySelectorAll("text")];
  }};
  const found = {{
    client: page.documentElement.clientWidth,
    scroll: page.documentElement.scrollWidth,
    boxes: all("main *:not(.scroll *)").map(box),
    drawings: all("figure img").map(image => ({{
      box: box(image),
      loaded: image.complete && image.naturalWidth > 0,
      texts: texts(image).map(box),
    }})),
    scripts: all("script, b, [onload], [onerror]").length,
    names: all(".pooled thead span:not(.key)").map(name => name.textContent),
    values: all("tbody th > span").map(name => name.textContent),
  }};
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
}});
</script>
"""


@pytest.fixture(scope="module")
def page():
    """A report of three systems with everything that a report can have."""
    rng = np.random.default_rng(0)
    n = 40
    scores = cm_scores(
        rng.normal(3, size=n),
        path="<i>scores</i>.txt",
        **{attack: rng.normal(size=n) for attack in ATTACKS},
    )
    codecs = ["<em>none</em>", "m4a_" + 60 * "x", *["opus"] * 8]
    scores["codec"] = np.resize(codecs, len(scores))
    systems = [
        scores,
        scores.assign(score=1 / (1 + np.exp(-scores.score))),
        scores.assign(score=-scores.score),
    ]
    asv = ASVScores(
        target=rng.normal(4, size=200),
        nontarget=rng.normal(0, size=200),
        spoof=rng.normal(3, size=200),
        path="<u>asv</u>.txt",
    )
    report = evaluate(
        systems, asv, "utterances", 20, names=SYSTEMS, by=["codec"]
    )
    return render(report, draw(report))


@pytest.fixture(scope="module", params=[1280, 390])
def layout(request, page, tmp_path_factory):
    """What the browser makes of the page in a window of that width."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is found")
    folder = tmp_path_factory.mktemp("browser")
    frame = folder / "frame.html"
    text = FRAME.format(page=html.escape(page), width=request.param)
    frame.write_text(text, encoding="utf-8")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run "
    flags += "disable-background-networking disable-component-update "
    flags += f"disable-sync hide-scrollbars user-data-dir={folder} dump-dom"
    result = subprocess.run(
        [browser, *(f"--{flag}" for flag in flags.split()), frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("FOUND(.*)END", result.stdout, re.S)
    assert found, result.stderr
    return request.param, json.loads(html.unescape(found[1]))


def test_nothing_is_wider_than_the_window(layout):
    width, found = layout
    assert found["client"] == found["scroll"] == width
    for left, right, _, _ in found["boxes"]:
        assert left >= -0.5 and right <= width + 0.5


def test_figures_are_seen_whole(layout):
    width, found = layout
    assert len(found["drawings"]) == 4
    for drawing in found["drawings"]:
        left, right, top, bottom = drawing["box"]
        assert right - left > 0.85 * min(width, 500) and bottom - top > 150
        assert drawing["loaded"] and len(drawing["texts"]) > 5
        (left, right, top, bottom), *texts = drawing["texts"]
        for text in texts:
            assert left - 1 <= text[0] and text[1] <= right + 1
            assert top - 1 <= text[2] and text[3] <= bottom + 1


def test_two_columns_on_a_laptop_and_one_on_a_phone(layout):
    width, found = layout
    lefts = {round(drawing["box"][0]) for drawing in found["drawings"]}
    assert len(lefts) == (2 if width == 1280 else 1)


def test_names_are_text_in_the_browser(layout):
    _, found = layout
    assert found["scripts"] == 0
    assert found["names"] == SYSTEMS
    assert {*ATTACKS, "<em>none</em>"} <= set(found["values"])


def split_images(page):
    """The page without its figures, and these as SVG."""
    images = r"data:image/svg\+xml;base64,([\w+/=]+)"
    figures = [base64.b64decode(each) for each in re.findall(images, page)]
    return re.sub(images, "data:", page), [each.decode() for each in figures]


def test_the_file_refers_to_nothing_outside(page):
    text, figures = split_images(page)
    assert len(figures) == 4
    assert not re.findall(r"(?i)https?:|//|@import|javascript:", text)
    references = re.findall(r'(?i)\b(?:src|href|srcset|action)="([^"]*)', text)
    assert set(references) <= {"data:", "data:,"} and "url(" not in text
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+)", text)}
    assert not tags & {"script", "iframe", "object", "embed", "base"}
    assert "default-src 'none'" in text


def test_names_from_users_are_escaped(page):
    text, figures = split_images(page)
    for name in ("<script", "<b>", "<i>", "<u>", "<em>"):
        assert name not in "".join([text, *figures])
    # In the tables and in the figures.
    for part in (text, figures[0], figures[1]):
        assert "&lt;script&gt;alert(1)&lt;/" in part
