"""The page in a real browser: dropped, recorded, read, and downloaded."""

import base64
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_onnx import export_onnx

from speechbrain_bilevel.inference.engines import open_detector

sync_api = pytest.importorskip("playwright.sync_api")

COMMAND = Path(sys.executable).with_name("speechbrain-bilevel")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser")

# A file that is dropped on an element.
DROP = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  return dropped;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A calibrated detector with network.onnx, and files to drop."""
    place = tmp_path_factory.mktemp("page")
    export_onnx(place / "detector", "MelCNN", {"weight": 9.0, "bias": 1.0})
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((0.7, 2.0)):
        wav = 0.1 * rng.standard_normal(round(seconds * 16000))
        soundfile.write(place / f"{number}.flac", wav, 16000)
    soundfile.write(place / "silence.wav", np.zeros(16000), 16000)
    (place / "text <b>.mp3").write_text("no audio")
    return place


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_recordings_are_removed_at_the_end(folder, tmp_path, number):
    words = "page", "--source", folder / "detector", "--no-browser"
    process = subprocess.Popen(
        [COMMAND, *words, "--engine", "onnxruntime"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, TMPDIR=str(tmp_path)),
    )
    process.stdout.readline()
    (kept,) = tmp_path.glob("speechbrain_bilevel_page_*")
    (kept / "call.wav").touch()
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(60) == 0
    assert not kept.exists()


@pytest.fixture(scope="module")
def address(folder):
    """Where the page is, served by the command until Ctrl-C."""
    words = "page", "--source", folder / "detector", "--no-browser"
    process = subprocess.Popen(
        [COMMAND, *words, "--engine", "onnxruntime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line.endswith("(Ctrl-C ends it)\n"), process.communicate()
    yield line.split()[0]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def browser(folder):
    wav = folder / "0.flac"
    heard = folder.parent / "microphone.wav"
    soundfile.write(heard, np.tile(soundfile.read(wav)[0], 4), 16000)
    options = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
    ]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390])
def page(request, browser, address):
    """The page in a window of this width, which asks nothing of others."""
    context = browser.new_context(
        viewport={"width": request.param, "height": 900},
        permissions=["microphone"],
    )
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.wait_for_selector("text=What this cannot tell")
    yield page
    elsewhere = [
        url for url in asked if not url.startswith((address, "data:", "blob:"))
    ]
    assert not elsewhere and not errors
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= request.param
    context.close()


def drop(page, *paths):
    for path in paths:
        content = base64.b64encode(path.read_bytes()).decode()
        dropped = page.evaluate_handle(DROP, [path.name, content])
        zone = page.locator("[aria-dropeffect=copy]").first
        zone.dispatch_event("drop", {"dataTransfer": dropped})
    page.wait_for_selector(".verdict", timeout=60_000)


def test_a_file_is_dropped_and_the_verdict_read(page, folder):
    drop(page, folder / "0.flac")
    expected = open_detector(folder / "detector").segments(folder / "0.flac")
    text = page.inner_text(".verdict")
    assert {"bonafide": "bona fide", "spoof": "spoof"}[expected.label] in text
    assert f"score {expected.score:+.2f}: this sound is" in text
    assert "0.7 s were heard" in text
    image = page.locator("img[alt^='The waveform']")
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 1000
    assert page.locator("#table").count() == 0


def test_several_files_are_a_table_to_download(page, folder):
    names = ["0.flac", "1.flac", "silence.wav", "text <b>.mp3"]
    page.set_input_files("input[type=file]", [folder / n for n in names])
    page.wait_for_selector("text=Select a row", timeout=60_000)
    page.wait_for_selector("#table [role=gridcell]:has-text('nothing to hear')")
    words = " ".join(page.locator("#table [role=gridcell]").all_inner_texts())
    assert "silence.wav: nothing to hear: no sound above -80 dB" in words
    assert "cannot be read as audio" in words and str(folder) not in words
    assert "tmp" not in words and page.locator(".verdict b b").count() == 0
    page.locator("#table [role=gridcell]:has-text('silence.wav')").first.click()
    page.wait_for_function(
        "document.querySelector('.verdict').innerText.includes('no verdict')"
    )
    with page.expect_download() as waiting:
        page.click("text=Download as CSV")
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    detector = open_detector(folder / "detector")
    for row, name in zip(rows, names[:2], strict=False):
        expected = detector.segments(folder / name)
        assert row["path"] == name and row["label"] == expected.label
        assert float(row["score"]) == pytest.approx(expected.score, abs=1e-2)
    assert [bool(row["error"]) for row in rows] == [False, False, True, True]


def test_a_recording_by_the_microphone(page):
    page.click(".record-button")
    time.sleep(1.5)
    page.click(".stop-button")
    page.wait_for_selector(".verdict", timeout=60_000)
    assert "this sound is" in page.inner_text(".verdict")


def test_a_port_that_is_taken_is_told(address, folder):
    port = address.rstrip("/").split(":")[-1]
    words = "page", "--source", folder / "detector", "--no-browser"
    done = subprocess.run(
        [COMMAND, *words, "--engine", "onnxruntime", "--port", port],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port}: not free")
    assert len(done.stderr.splitlines()) == 1
