"""A shard set with other label columns, its tars linked."""

from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.tables import write_manifest


def relabel(shards: ShardSet, folder, *, source=None, **columns) -> ShardSet:
    """A copy of the set in `folder` with more (or other) label columns: lists of N texts each."""
    folder.mkdir()
    for path in shards.root.iterdir():
        if path.name not in ("samples.csv", "manifest.json"):
            (folder / path.name).symlink_to(path)
    table = shards.table()
    for i, row in enumerate(table):
        row.update({name: values[i] for name, values in columns.items()})
        row.update({"source": source[i]} if source else {})
    lines = [",".join(table[0])] + [",".join(row.values()) for row in table]
    (folder / "samples.csv").write_text("\n".join(lines) + "\n")
    more = [name for name in columns if name not in shards.label_names]
    write_manifest(folder, {**shards.manifest, "labels": shards.label_names + more})
    return ShardSet(folder)
