"""Inputs that commands have to refuse, and targets that they must not touch."""

import itertools
import json
import os
import struct

import numpy as np
import soundfile

from speechbrain_bilevel.inference.config import CONFIG, WEIGHTS

_LINES = "".join(
    f"t{n} A07 {'spoof' if n % 2 else 'bonafide'} {n / 7}\n" for n in range(20)
)
_NOTES = b"notes of mine\n"
#: Texts that are no score files.
SCORES = {
    "empty": b"",
    "blank lines": b"\n \n\t\n",
    "random bytes": bytes(range(256)) * 40,
    "UTF-16": _LINES.encode("utf-16"),
    "a NUL": _LINES.encode() + b"t\0 A07 spoof 1\n",
    "a score missing": _LINES.encode() + b"t99 A07 spoof\n",
    "a column more": _LINES.encode() + b"t99 A07 spoof 1 2 3\n",
    "a word for a score": _LINES.encode() + b"t99 A07 spoof high\n",
    "NaN": _LINES.encode() + b"t99 A07 spoof nan\n",
    "infinity": _LINES.encode() + b"t99 A07 spoof inf\n",
    "1e999": _LINES.encode() + b"t99 A07 spoof 1e999\n",
    "an unknown key": _LINES.encode() + b"t99 A07 perhaps 1\n",
    "a trial twice": _LINES.encode() + b"t1 A07 spoof 1\n",
    "a line of 3 MB": b"x" * 3_000_000,
    "words": b"these are no scores\n" * 9,
    "JSON": b'{"scores": [1, 2]}\n',
    "a page": b"<html><body>404 Not Found</body></html>\n",
    "names of 100,000 characters": b"n" * 100_000 + b" A07 spoof x\n",
}
#: Texts that are no protocols of a corpus.
PROTOCOLS = {
    "empty": b"",
    "random bytes": bytes(range(256)) * 40,
    "UTF-16": "path,label\na.flac,spoof\n".encode("utf-16"),
    "a header alone": b"path,label\n",
    "no path": b"file_size,label\n1,spoof\n",
    "labels 0 and 1": b"path,label\na.flac,0\nb.flac,1\n",
    "unknown labels": b"path,label\na.flac,maybe\nb.flac,perhaps\n",
    "no such audio": b"path,label\na.flac,spoof\nb.flac,bonafide\n",
    "a row too short": b"path,label\na.flac\n",
    "a quote too few": b'path,label\n"a.flac,spoof\n',
    "the same trial twice": b"path,label\na.flac,spoof\na.flac,bonafide\n",
    "columns twice": b"path,path,label\na.flac,b.flac,spoof\n",
    "a page": b"<html><body>404 Not Found</body></html>\n",
}


def _wav(samples, rate=16000, **options):
    return lambda path: soundfile.write(path, samples, rate, **options)


def _riff(rate=16000, channels=1, size=32000):
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * 2, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", size)
    )


#: Files that hold nothing to hear, by name.
AUDIO = {
    "empty.wav": b"",
    "empty.flac": b"",
    "text.wav": b"this is a text\n" * 100,
    "text.mp3": b"this is a text\n" * 100,
    "random.flac": np.random.default_rng(0).bytes(9999),
    "random.m4a": np.random.default_rng(1).bytes(9999),
    "random.opus": np.random.default_rng(2).bytes(9999),
    "magic.flac": b"fLaC",
    "magic.ogg": b"OggS" + bytes(100),
    "head.wav": _riff(),
    "no_channels.wav": _riff(channels=0) + bytes(32000),
    "no_rate.wav": _riff(rate=0) + bytes(32000),
    "silence.wav": _wav(np.zeros(16000)),
    "nan.wav": _wav(np.full(16000, np.nan), subtype="FLOAT"),
    "infinite.wav": _wav(np.full(16000, np.inf), subtype="DOUBLE"),
    "huge.wav": _wav(np.full(16000, 1e30), subtype="FLOAT"),
    "no_samples.flac": _wav(np.zeros(0)),
}


def _config(**changes):
    def change(folder, detector):
        config = json.loads((detector / CONFIG).read_text())
        _copy(detector, folder)
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return change


def _sizes(**changes):
    def change(folder, detector):
        config = json.loads((detector / CONFIG).read_text())
        config["sizes"] |= changes
        _copy(detector, folder)
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def _file(name, content):
    def change(folder, detector):
        _copy(detector, folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return change


def _weights(change_bytes):
    def change(folder, detector):
        _copy(detector, folder)
        content = bytearray((folder / WEIGHTS).read_bytes())
        (folder / WEIGHTS).write_bytes(change_bytes(content))

    return change


def _copy(detector, folder):
    folder.mkdir()
    for path in detector.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())


def _nan(content):
    content[-4:] = struct.pack("<f", np.nan)
    return content


#: Pretrained folders that cannot be loaded.
DETECTORS = {
    "no config": _file(CONFIG, None),
    "empty config": _file(CONFIG, b""),
    "config of text": _file(CONFIG, b"network: MelCNN\n"),
    "config a list": _file(CONFIG, b"[1, 2]"),
    "config too deep": _file(CONFIG, b"[" * 100_000),
    "config too long": _file(CONFIG, b'{"network": "' + b"x" * 200_000 + b'"}'),
    "config in UTF-16": _file(CONFIG, '{"network": "V2"}'.encode("utf-16")),
    "an unknown network": _config(network="Transformer9000"),
    "another network": _config(network="AASIST"),
    "a path for a network": _config(network="os.system"),
    "an unknown key": _config(code="import os"),
    "an unknown score": _config(score="loud"),
    "calibration of words": _config(calibration={"weight": "a", "bias": "b"}),
    "calibration of NaN": _config(calibration={"weight": float("nan")}),
    "sizes of words": _config(sizes="large"),
    "an unknown size": _sizes(depth=3),
    "a negative size": _sizes(n_mels=-1),
    "a size of zero": _sizes(n_mels=0),
    "a size too large": _sizes(n_mels=10**9),
    "a size of half": _sizes(n_mels=16.5),
    "other channels": _sizes(channels=[64, 64]),
    "too many channels": _sizes(channels=[2] * 100),
    "no weights": _file(WEIGHTS, None),
    "empty weights": _file(WEIGHTS, b""),
    "weights of text": _file(WEIGHTS, b"weights\n" * 100),
    "a header too long": _file(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"),
    "a broken header": _file(WEIGHTS, struct.pack("<Q", 9) + b"{" * 9),
    "weights cut": _weights(lambda content: content[:-100]),
    "weights of NaN": _weights(_nan),
    "a pickle for weights": _file(WEIGHTS, b"\x80\x04N."),
}

#: Options that are out of range, unknown or idle, by command.
OPTIONS = {
    "classify": [
        *("--batch-size 0", "--batch-size -1", "--batch-size 1e3"),
        *("--batch-size x", "--window 4", "--step 1", "--plot plots"),
        *("--segments --window 0", "--segments --window -1"),
        *("--segments --window nan", "--segments --step 0"),
        *("--channels 0", "--channels left", "--channels 9"),
        *("--device gpu", "--device cuda:300", "--device cuda"),
        *("--precision fp8", "--format yaml", "--loud"),
    ],
    "score": [
        *("--batch-size 0", "--num-workers -1", "--partition nosuch"),
        *("--layout wide", "--bonafide 2", "--columns nonsense"),
        *("--data-folder nowhere", "--full-length --trim-silence"),
        *("--device tpu", "--device cuda:1"),
    ],
    "evaluate": [
        *("--resamples -1", "--resamples 1000000000", "--resamples x"),
        *("--threshold nan", "--threshold x", "--seed -1"),
        *("--resample words", "--by codec", "--partition dev"),
        *("--asv-protocol x", "--asv-scores nowhere", "--protocol nowhere"),
        *("--columns utt", "--columns score", "--columns nonsense"),
        "--bonafide both",
    ],
    "prepare": ["--partition nosuch", "--protocol nowhere", "--bonafide x"],
    "fuse": [
        *("--weights 1", "--weights 0 0", "--weights nan 1", "--weights x y"),
        *("--weights 1 2 3", "--learn nowhere nowhere", ""),
        "--weights 1 1 --dev-protocol nowhere",
    ],
}
#: Overrides of train.py that cannot work.
TRAINING = {
    "batch_size": (0, -1, "x", 1.5, 100_000, "null", "[1]"),
    "upper_batch_size": (0, -1, "x", 100_000),
    "num_samples": (-1, 0, "x", 1),
    "train_samples": (-1, "x"),
    "num_workers": (-1, "x"),
    "number_of_epochs": (0, -1, "x", 1.5),
    "training_steps": (-1, "x"),
    "seed": (-1, "x", 2**64, 1.5),
    "num_folds": (0, 1, 1000, "x"),
    "max_grad_norm": (".nan", "x", -1),
    "class_balanced": (3, "perhaps"),
    "skip_prep": ("perhaps",),
    "score": ("loudness", 3),
    "network": (5, "{n_mels: -1}", "{colour: 3}", "null"),
    "upper": ("[nosuch]", "[network]", 3),
    "hypergradient": ("5", "'text'"),
    "device": ("gpu", "cuda:300", "cuda:0"),
    "precision": ("fp8",),
    "data_folder": ("nowhere", "''", "/dev/null"),
    "nosuchkey": (1,),
    "epoch_ends": ("never",),
}
YAMLS = {
    "empty": "",
    "broken": "network: [1, 2\n",
    "a list": "- 1\n- 2\n",
    "tabs": "\tnetwork: 1\n",
    "an unknown class": "output_folder: out\nnetwork: !new:no.Such {}\n",
    "an unknown argument": "output_folder: out\n"
    "network: !new:torch.nn.Linear {colour: red}\n",
    "includes itself": "--- !include:bad.yaml\n",
    "includes what is not there": "--- !include:nowhere.yaml\n",
    "no output_folder": "network: 3\n",
    "a reference to nothing": "output_folder: !ref <nothing>\n",
    "a key twice": "output_folder: out\noutput_folder: out2\n",
    "not UTF-8": "output_folder: caf\udce9\n",
}


def bad_inputs(paths, shell, training):
    """Yield command, what is bad, a function of the folder that makes it (or
    None), and the call to try there."""
    corpus, source = paths["corpus"], ("--source", paths["detector"])
    dev, clip = paths["dev"], paths["clip"]

    # --- score files, protocols, audio, detectors
    readers = {
        "evaluate": ("evaluate", "bad"),
        "calibrate": ("calibrate", "bad", "--learn", dev, "--output", "c.txt"),
        "fuse": ("fuse", dev, "bad", "--weights", 1, 1, "--output", "f.txt"),
    }
    for (command, words), (what, make) in itertools.product(
        readers.items(), {**_texts(SCORES), **_specials()}.items()
    ):
        yield command, f"scores: {what}", make, shell(*words)
    readers = {
        "prepare": ("prepare", corpus, "m.csv", "--protocol", "bad"),
        "score": ("score", "bad", "s.txt", *source),
    }
    for (command, words), (what, make) in itertools.product(
        readers.items(), {**_texts(PROTOCOLS), **_specials()}.items()
    ):
        yield command, f"protocol: {what}", make, shell(*words)
    for name, content in AUDIO.items():
        words = "classify", name, *source
        yield "classify", name, _audio(name, content), shell(*words)
        words = "prepare", "list.csv", "m.csv"
        yield "prepare", name, _audio(name, content), shell(*words)
    for what, make in _specials().items():
        yield "classify", what, make, shell("classify", "bad", *source)
    for what, change in DETECTORS.items():
        yield (
            "classify",
            f"detector: {what}",
            lambda folder, change=change: change(
                folder / "bad", paths["detector"]
            ),
            shell("classify", clip, "--source", "./bad"),
        )
    for what, make in {**_texts(SCORES), **_specials()}.items():
        words = "import", "aasist", "bad", "out"
        yield "import", what, make, shell(*words)

    # --- options
    words = {
        "classify": ("classify", clip, *source),
        "score": ("score", corpus, "s.txt", *source),
        "evaluate": ("evaluate", dev),
        "prepare": ("prepare", corpus, "m.csv"),
        "fuse": ("fuse", dev, dev, "--output", "f.txt"),
    }
    for command, options in OPTIONS.items():
        for option in options:
            yield command, option, None, shell(*words[command], *option.split())
    for arguments in ([], ["nosuch"], ["score"], ["--nosuch"]):
        yield "speechbrain-bilevel", str(arguments), None, shell(*arguments)
    for key, values in TRAINING.items():
        for value in values:
            flags = f"--{key}", value
            yield "train", f"--{key} {value}", None, training(corpus, *flags)
    for what, text in YAMLS.items():
        yield (
            "train",
            f"YAML: {what}",
            lambda folder, text=text: (folder / "bad.yaml").write_text(
                text, errors="surrogateescape"
            ),
            training(corpus, yaml="bad.yaml"),
        )

    # --- targets
    for name in ("hyperparams.yaml", "config.json", "log.txt", "train_log.txt"):
        yield (
            "train into",
            f"a folder with {name} of mine",
            lambda folder, name=name: _mine(folder, f"out/{name}"),
            training(corpus),
        )
    writers = {
        "prepare": ("prepare", corpus, "{}", "--partition", "dev"),
        "calibrate": ("calibrate", dev, "--learn", dev, "--output", "{}"),
        "fuse": ("fuse", dev, dev, "--weights", 1, 1, "--output", "{}"),
        "score": ("score", corpus, "{}", *source, "--partition", "dev"),
        "evaluate": ("evaluate", dev, "--resamples", 0, "--output", "{}"),
        "export": ("export", paths["experiment"] / "out", "{}"),
        "classify": (
            *("classify", clip, *source, "--segments", "--plot", "{}"),
        ),
    }
    folders = {
        "evaluate": ("metrics.json", "metrics.txt", "report.html", "det.png"),
        "export": ("config.json", "README.md", "notes.txt"),
        "classify": (f"{clip.name}.png",),
    }
    for command, words in writers.items():
        targets = _targets(folders.get(command), clip)
        for what, (target, make) in targets.items():
            call = [str(word).format(target) for word in words]
            yield command, f"target: {what}", make, shell(*call)


def _texts(contents):
    return {
        what: lambda folder, content=content: (folder / "bad").write_bytes(
            content
        )
        for what, content in contents.items()
    }


def _specials():
    """What is there, or not, instead of a file."""
    return {
        "missing": None,
        "a pipe": lambda folder: os.mkfifo(folder / "bad"),
        "a device": lambda folder: (folder / "bad").symlink_to("/dev/zero"),
        "an empty folder": lambda folder: (folder / "bad").mkdir(),
        "a link to itself": lambda folder: (folder / "bad").symlink_to("bad"),
        "a link to nothing": lambda folder: (folder / "bad").symlink_to("no"),
    }


def _audio(name, content):
    def make(folder):
        if callable(content):
            content(folder / name)
        else:
            (folder / name).write_bytes(content)
        (folder / "list.csv").write_text(f"path,label\n{name},spoof\n")

    return make


def _mine(folder, name, content=_NOTES):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def _targets(names, clip):
    """Names for outputs, and functions that put something there before.

    ``names`` are of files in an output that is a folder.
    """

    def at(name, content=_NOTES):
        return lambda folder: _mine(folder, name, content)

    found = {
        "beneath a file": ("file/x", at("file")),
        "far beneath a file": ("file/x/y/z", at("file")),
        "a name too long": ("x" * 300, None),
        "a link to itself": ("l", lambda f: (f / "l").symlink_to("l")),
        "a pipe": ("p", lambda folder: os.mkfifo(folder / "p")),
        "a device": ("/dev/full", None),
    }
    found["a file of mine"] = "notes.txt", at("notes.txt")
    for name in names or ():
        found[f"a folder with {name} of mine"] = "mine", at(f"mine/{name}")
    if not names:
        found["a recording"] = "a.flac", at("a.flac", clip.read_bytes())
        found["empty, of mine"] = "notes.txt", at("notes.txt", b"")
        found["a folder"] = "d", lambda folder: (folder / "d").mkdir()
        found["no name"] = "", None
    return found
