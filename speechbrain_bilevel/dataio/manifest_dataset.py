"""SpeechBrain's dataset on manifests of any length.

``DynamicItemDataset.from_csv`` makes a dict of each row: some 700 bytes a clip,
and once more in each worker that reads them, because counting references
writes to them. ``ManifestDataset`` takes some 16 bytes a clip, which forked
workers share.
"""

from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_bilevel.dataio.manifest_rows import ManifestRows


class ManifestDataset(DynamicItemDataset):
    """SpeechBrain's dataset on a manifest whose rows stay in the file.

    Its ``data`` are ``ManifestRows``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,duration,wav\\na,1.5,$data_root/a.flac\\n")
    >>> dataset = ManifestDataset.from_csv(
    ...     path, {"data_root": "/LA"}, output_keys=["id", "wav", "duration"]
    ... )
    >>> dataset[0]
    {'id': 'a', 'wav': '/LA/a.flac', 'duration': 1.5}
    """

    @classmethod
    def from_csv(
        cls, csv_path, replacements=None, dynamic_items=None, output_keys=None
    ):
        """As SpeechBrain's.

        Arguments
        ---------
        csv_path : str or Path
        replacements : dict, optional
            What to put in the place of each ``$name`` in the manifest.
        dynamic_items : list, optional
        output_keys : list or dict, optional

        Returns
        -------
        ManifestDataset

        Raises
        ------
        InputError
            See ``ManifestRows``.
        """
        rows = ManifestRows(csv_path, replacements)
        first = rows.cells("ID")[0]
        # SpeechBrain lists the IDs it is given, and asks a row for its columns.
        dataset = cls({first: rows[first]}, dynamic_items, output_keys)
        dataset.data, dataset.data_ids = rows, rows.cells("ID")
        return dataset
