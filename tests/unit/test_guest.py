"""What the tests' own kernel is made of, from packages of either Debian."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING

import pytest

from tests.guest import gather

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = b"begin of an image" * 9


def unpacked_packages(tree: Path, usr: str, ending: str) -> None:
    """Write the files of a kernel with a camera's driver, which needs another, and busybox."""
    drivers = tree / usr / "lib" / "modules" / "6.1" / "kernel" / "drivers"
    for folder in (drivers, tree / usr / "bin", tree / "boot"):
        folder.mkdir(parents=True)
    for name, needed in (("cam-era", b"video-dev"), ("video-dev", b"")):
        content = b"\0license=GPL\0depends=%b\0name\0" % needed
        packed = lzma.compress(content) if ending == ".ko.xz" else content
        drivers.joinpath(name + ending).write_bytes(packed)
    drivers.parents[1].joinpath("modules.builtin").write_text("kernel/drivers/virtio-pci.ko\n")
    packed = lzma.compress(b"kernel") if ending == ".ko" else b"otherwise packed"
    tree.joinpath("boot", "vmlinuz-6.1").write_bytes(IMAGE + packed)
    (tree / usr / "bin" / "busybox").write_bytes(b"tools")


@pytest.mark.parametrize(
    ("usr", "ending", "kernel"),
    [(".", ".ko", b"kernel"), ("usr", ".ko.xz", IMAGE + b"otherwise packed")],
)
def test_a_guest_is_made_of_either_debian(
    tmp_path: Path, usr: str, ending: str, kernel: bytes
) -> None:
    """Modules are unpacked and in order, what is in the kernel itself is not missed."""
    tree, made = tmp_path / "tree", tmp_path / "made"
    made.mkdir()
    unpacked_packages(tree, usr, ending)
    gather(tree, made, ("virtio_pci", "cam_era"))
    found = {path.name: path.read_bytes() for path in made.iterdir()}
    assert sorted(found) == ["00-video_dev.ko", "01-cam_era.ko", "busybox", "vmlinux"]
    assert b"\0depends=video-dev\0" in found["01-cam_era.ko"]
    assert found["vmlinux"] == kernel


def test_a_driver_that_a_kernel_lacks_is_a_skip(tmp_path: Path) -> None:
    """And is named: a guest without it would hang or fail for no visible reason."""
    made = tmp_path / "made"
    made.mkdir()
    unpacked_packages(tmp_path / "tree", ".", ".ko")
    with pytest.raises(pytest.skip.Exception, match="no driver scanner"):
        gather(tmp_path / "tree", made, ("cam_era", "scanner"))
