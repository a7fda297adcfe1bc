"""Where a folder lies: how much room is left there, and on what kind of file system."""

from __future__ import annotations

import shutil
from pathlib import Path

SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "afs", "9p", "ceph", "fuse.sshfs", "glusterfs")


def existing(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that may still be written below a folder, which need not be there yet."""
    return shutil.disk_usage(existing(path)).free


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds a folder; "" if unknown. mounts: the text of /proc/mounts."""
    place = existing(path).resolve()
    kinds = [line.split()[1:3] for line in mounts.splitlines() if len(line.split()) > 2]
    found = [(len(where), kind) for where, kind in kinds if place.is_relative_to(where.replace("\\040", " "))]
    return max(found, key=lambda one: one[0])[1] if found else ""


def is_shared(kind: str) -> bool:
    """Whether a type of file system is one that several machines share, where locks may not hold."""
    return kind.startswith(SHARED)
