"""A page to try recordings on, in a browser; needs gradio."""

import contextlib
import csv
import html
import io
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.inference.engines import open_detector
from speechbrain_bilevel.inference.verdicts import (
    FIELDS,
    LongVerdict,
    draw_verdict,
)
from speechbrain_bilevel.utils.errors import InputError

#: Recordings that one request may hold, and the size of each.
MANY, LARGEST = 500, "2gb"

_HEADS = ["recording", "verdict", "score", "heard, s", "what to know"]
_WORDS = {"bonafide": "bona fide", "spoof": "spoof", None: "no verdict"}
_LIMITS = """
A hint, not a proof. Never base a decision about a person on it alone.

- It tells speech that a machine synthesized or converted from recordings of
  people, as far as it resembles what the detector was trained on. It may be
  wrong on other voices, languages, microphones, codecs, noise and attacks; how
  often, nobody knows who has not measured it on such recordings.
- It says nothing about who speaks, whether what is said is true, or whether a
  recording was cut.
- One score speaks for a recording that is all genuine or all synthetic. If
  only parts may be synthetic, look at the suspicious spans.
"""
_LOCAL = "Recordings are read by a program on this machine, and not sent away."
_REMOTE = (
    "Recordings are sent to the machine that serves this page, and deleted "
    "there within an hour."
)
_CSS = """
.verdict { border-left: 0.4rem solid; padding: 0.2rem 1rem; }
.verdict b { font-size: 1.6rem; }
.verdict.spoof { border-color: #c2410c; }
.verdict.bonafide { border-color: #15803d; }
.verdict.none { border-color: #6b7280; }
"""


def require_gradio():
    """Return gradio, set up to send nothing anywhere by itself.

    Raise an ``InputError`` that says how to install it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            "the page needs gradio; install it by pip install '.[page]' in "
            "the clone"
        ) from error
    return gradio


class Page:
    """What the page does with recordings.

    Arguments
    ---------
    detector : engines.Detector
    """

    def __init__(self, detector):
        self.detector, self.saved = detector, None

    def score(self, paths, progress):
        """Return the verdicts on files, each heard as a whole."""
        if len(paths) > MANY:
            raise InputError(
                f"{len(paths)} files at once; expected at most {MANY}. For "
                "more, use the command speechbrain-bilevel classify"
            )
        found = []
        for number, path in enumerate(paths):
            progress((number, len(paths)), unit="recordings")
            try:
                verdict = self.detector.segments(path, progress=False)
            except InputError as error:
                # Without the folder of the upload, which tells nothing.
                text = str(error).replace(path, os.path.basename(path))
                verdict = LongVerdict(path, error=text)
            found.append(verdict)
        return found

    def in_words(self, verdict):
        """Return the verdict on one recording as HTML."""
        name = os.path.basename(verdict.path)
        kind = verdict.label or "none"
        lines = [f"<b>{_WORDS[verdict.label]}</b>", html.escape(name)]
        if verdict.error is None:
            lines.append(
                f"score {verdict.score:+.2f}: {html.escape(verdict.meaning)}"
            )
            lines.append(f"{verdict.heard:.1f} s were heard")
        spans = [
            f"{span.start:.1f} to {span.end:.1f} s ({span.score:+.2f})"
            for span in verdict.suspicious[:20]
        ]
        if spans:
            lines.append("suspicious: " + ", ".join(spans))
        told = [verdict.error, *verdict.notes]
        lines += [html.escape(text) for text in told if text]
        return f'<div class="verdict {kind}">{"<br>".join(lines)}</div>'

    def drawing(self, verdict):
        """Return the recording and its score over time as an image, or None."""
        if verdict.error is not None:
            return None
        from PIL import Image

        try:
            return Image.open(io.BytesIO(draw_verdict(verdict)))
        except InputError:
            # A page that was left open for longer than recordings are kept.
            return None

    def table(self, verdicts):
        """Return the rows of the table."""
        return [
            [
                os.path.basename(verdict.path),
                _WORDS[verdict.label],
                "" if verdict.score is None else f"{verdict.score:+.2f}",
                "" if verdict.score is None else f"{verdict.heard:.1f}",
                "; ".join(filter(None, [verdict.error, *verdict.notes])),
            ]
            for verdict in verdicts
        ]

    def save(self, verdicts):
        """Write the verdicts as CSV, as ``classify`` does; return its path.

        Gradio copies it, so the one before is removed.
        """
        if self.saved:
            shutil.rmtree(self.saved, ignore_errors=True)
        self.saved = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
        path = Path(self.saved, "verdicts.csv")
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            for verdict in verdicts:
                name = os.path.basename(verdict.path)
                writer.writerow(verdict.row | {"path": name})
        return str(path)


def build(detector, name, local=True):
    """Return the page, a ``gradio.Blocks``.

    Arguments
    ---------
    detector : engines.Detector
    name : str
        What the detector is called.
    local : bool
        Whether the page is served on its user's own machine.
    """
    gradio = require_gradio()
    page = Page(detector)
    seconds = detector.num_samples / SAMPLE_RATE

    def details(verdict):
        drawn = page.drawing(verdict)
        image = gradio.update(value=drawn, visible=drawn is not None)
        return page.in_words(verdict), image

    def answer(paths, progress):
        try:
            verdicts = page.score(paths, progress)
        except InputError as error:
            raise gradio.Error(str(error)) from error
        if not verdicts:
            hidden = gradio.update(visible=False)
            return [], "", *(4 * [hidden])
        several = len(verdicts) > 1
        return (
            verdicts,
            *details(verdicts[0]),
            gradio.update(value=page.table(verdicts), visible=several),
            gradio.update(value=page.save(verdicts), visible=True),
            gradio.update(visible=several),
        )

    def dropped(paths, progress=gradio.Progress()):  # noqa: B008
        return answer(paths or [], progress)

    def recorded(path, progress=gradio.Progress()):  # noqa: B008
        return answer([path] if path else [], progress)

    def selected(verdicts, event: gradio.SelectData):
        return details(verdicts[event.index[0]])

    with gradio.Blocks(
        analytics_enabled=False,
        title=f"{name}: bona fide or spoof?",
        # Looked for every 5 minutes, for what is 50 minutes old.
        delete_cache=(300, 3000),
    ) as blocks:
        gradio.Markdown(
            f"# Bona fide or spoof?\n\nThe detector {name} hears windows of "
            f"{seconds:.1f} s of a recording. {_LOCAL if local else _REMOTE}"
        )
        with gradio.Row():
            files = gradio.File(
                label="Drop recordings here, of any usual format",
                file_count="multiple",
                height=180,
            )
            microphone = gradio.Audio(
                label="Or record",
                sources=["microphone"],
                type="filepath",
                format="wav",
            )
        words = gradio.HTML(elem_id="verdict")
        image = gradio.Image(
            show_label=False,
            alt_text="The waveform, and the score over time",
            type="pil",
            format="png",
            interactive=False,
            visible=False,
            buttons=["download", "fullscreen"],
        )
        hint = gradio.Markdown("Select a row to see it above.", visible=False)
        table = gradio.Dataframe(
            headers=_HEADS,
            elem_id="table",
            column_widths=["200px", "110px", "90px", "90px", "400px"],
            interactive=False,
            visible=False,
            wrap=True,
        )
        download = gradio.DownloadButton("Download as CSV", visible=False)
        gradio.Markdown(f"## What this cannot tell\n{_LIMITS}")
        state = gradio.State([])
        outputs = [state, words, image, table, download, hint]
        # One after another: a detector hears one recording at a time.
        queue = {"concurrency_id": "detector", "concurrency_limit": 1}
        files.change(dropped, files, outputs, **queue)
        microphone.change(recorded, microphone, outputs, **queue)
        table.select(selected, state, [words, image], **queue)
    return blocks


def look():
    """Return the arguments of ``launch`` that say how the page looks."""
    gradio = require_gradio()
    # Fonts of the machine: others would be fetched from elsewhere.
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return {"theme": gradio.themes.Default(**fonts), "css": _CSS}


@contextlib.contextmanager
def serving(source, port=None, browser=False, **opening):
    """Serve the page on this machine; yield its address.

    Recordings are kept in a temporary folder until the end.

    Arguments
    ---------
    source : str or Path
        See ``open_detector``.
    port : int, optional
        By default, the first free one from 7860 on.
    browser : bool
        Whether to open the page in a browser.
    **opening
        See ``open_detector``.

    Raises
    ------
    InputError
        If gradio is not installed, the source cannot be used, or no port is
        free.
    """
    from speechbrain_bilevel.evaluation.plots import require_matplotlib

    require_matplotlib()
    require_gradio()
    detector = open_detector(source, **opening)
    folder = tempfile.mkdtemp(prefix="speechbrain_bilevel_page_")
    os.environ["GRADIO_TEMP_DIR"] = folder
    blocks = build(detector, Path(source).name)
    try:
        yield _launch(blocks, port, browser)
    finally:
        blocks.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)


def _launch(blocks, port, browser):
    """Start the server; return its address."""
    try:
        _, address, _ = blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST,
            ssr_mode=False,
            footer_links=[],
            **look(),
        )
    except OSError as error:
        raise InputError(
            f"port {port or '7860 to 7959'}: not free ({error}); give another "
            "by --port"
        ) from error
    return address


def launch_space(folder, name):
    """Serve a detector's page in a Space of the hub; see ``space``."""
    detector = open_detector(folder, "onnxruntime")
    build(detector, name, local=False).launch(
        max_file_size=LARGEST, ssr_mode=False, footer_links=[], **look()
    )


def wait():
    """Wait for Ctrl-C, a signal to end, or that the terminal is closed."""
    with contextlib.suppress(KeyboardInterrupt):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        threading.Event().wait()
