"""Front ends that a training fetched, as a pretrained folder describes them."""

from pathlib import Path

import yaml

from speechbrain_bilevel.utils.errors import InputError

_FETCHED = "!new:speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2"


_UNTRAINED = "!new:speechbrain_bilevel.lobes.ssl.UntrainedWav2Vec2"


def without_source(network, folder):
    """The entry ``network`` of a training's YAML with sizes in place of a
    source: its weights are in the folder's own network.ckpt, so a detector
    fetches nothing, and may fetch nothing.

    Arguments
    ---------
    network : yaml.Node
    folder : Path
        Of the YAML: ``save_path`` may have been moved together with it.

    Returns
    -------
    yaml.Node
        The same where no front end was fetched.

    Raises
    ------
    InputError
        If what the training fetched is gone, or no wav2vec 2.0.
    """
    if not isinstance(network, yaml.MappingNode):
        return network
    pairs = [
        (key, _by_sizes(value, folder) if value.tag == _FETCHED else value)
        for key, value in network.value
    ]
    return yaml.MappingNode(network.tag, pairs, flow_style=False)


def _by_sizes(front_end, folder):
    entries = {}
    if isinstance(front_end, yaml.MappingNode):
        entries = {key.value: value.value for key, value in front_end.value}
    for key in ("source", "save_path"):
        if not isinstance(entries.get(key), str):
            raise InputError(
                f"front_end: no {key}; expected the name of what was fetched, "
                "and the folder where it is kept"
            )
    sizes = _sizes(entries["source"], Path(entries["save_path"]), folder)
    # A detector learns no more.
    text = yaml.safe_dump({"freeze": True, **sizes}, sort_keys=False)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return yaml.MappingNode(_UNTRAINED, node.value, flow_style=False)


def _sizes(source, save_path, folder):
    # Slow to import, and only there where it is needed.
    from transformers import AutoConfig, AutoFeatureExtractor

    from speechbrain_bilevel.lobes.ssl import sizes_of

    # Relative to where the training was started, which may be elsewhere.
    for place in (save_path, folder / save_path.name):
        where = {"cache_dir": str(place), "local_files_only": True}
        try:
            config = AutoConfig.from_pretrained(source, **where)
            reader = AutoFeatureExtractor.from_pretrained(source, **where)
        except (OSError, ValueError) as error:
            reason = error
            continue
        return {"do_normalize": reader.do_normalize, **sizes_of(config)}
    first = (str(reason).splitlines() or [""])[0]
    raise InputError(
        f"front_end: {source} is not in {save_path}, where the training kept "
        f"it ({first}); expected its config.json and preprocessor_config.json"
    )
