"""Backups of a whole store in a store of blobs: consistent, incremental, and encrypted where a passphrase is given.

A backup is a manifest, `backups/<id>.json`, that names the parts it is made of. A part, `parts/<id>-<kind>`, holds some
lines of the log with the versions they speak of, some vectors, the erases of a stretch of the log, what is noted beside
it (followers, last recalls), or the keys to the memory. As a version never changes, the next backup names the same
parts, and adds new ones for what the log has gained. So every manifest is whole in itself, and none needs another.

An erase reaches the backups when the next one is made: parts that hold what was erased since are written anew
without it, in all manifests that name them, and the old ones removed, before the new backup counts. A restore of an
older backup leaves out what any later backup in the same place knows to be erased.

`look` at a place or `enter` it; then `create`, `verify`, `restore` or `prune`.
"""

from .checking import Verified, verify
from .keys import restore_keys
from .making import Made, create, planned
from .manifest import KEYS, Backup, Part
from .place import Ask, Place, enter, look
from .pruning import Pruned, prune, spared
from .restoring import Restored, restore

__all__ = [
    "KEYS",
    "Ask",
    "Backup",
    "Made",
    "Part",
    "Place",
    "Pruned",
    "Restored",
    "Verified",
    "create",
    "enter",
    "look",
    "planned",
    "prune",
    "restore",
    "restore_keys",
    "spared",
    "verify",
]
