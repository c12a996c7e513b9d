"""A Linux of its own for a test that needs a kernel with drivers: Debian's, booted by QEMU.

It has no disk image: its root is this machine's file tree, read-only, so that it runs the very
interpreter and checkout that the test runs. Only the test's folder can be written to. Ports of its
loopback are reached on this machine's loopback, and it reaches nothing.

Where the processor virtualises it boots in a few seconds; elsewhere QEMU interprets every
instruction, about ten times as slow, which is still quick enough for a daemon on small pictures.
"""

from __future__ import annotations

import lzma
import os
import platform
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["Guest", "GuestDaemon", "debian_kernel", "gather", "guest_missing", "processor_runs_it"]

KERNEL = "linux-image-amd64"
"""Debian's kernel for any machine; the smaller one for clouds has no drivers of cameras."""
TOOLS = "busybox-static"
NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "virtio_net")
"""Drivers of the guest's own: its bus, its files and its network."""
BOOT_S = 180.0
"""A boot takes 5 s when interpreted; the rest is for a machine busy with other tests."""
_ROOT = Path(__file__).resolve().parents[1]
_DONE = "guest-did-it"
"""Ends what a command printed."""
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mkdir -p /dev/shm
for module in {modules}; do
  given=$(for option in {options}; do
    case $option in ${{module#*-}}.*) echo ${{option#*.}};; esac
  done)
  insmod /lib/$module.ko $given || echo "$module did not load"
done
share=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $share,ro,cache=loose tree /root
mount -t 9p -o $share folder /root{folder}
mount -t tmpfs none /dev/shm
mount -t proc none /root/proc
mount -t sysfs none /root/sys
mount --rbind /dev /root/dev
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
echo 1 > /root/proc/sys/net/ipv4/conf/eth0/route_localnet  # forwarded to 127.0.0.1
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
stty raw -echo
echo {done} 0
exec chroot /root /bin/sh -c 'while read -r line; do eval "$line"; done'
"""


def guest_missing() -> str:
    """Say what lacks for a guest here, in words fit for a skip; empty when nothing does."""
    if platform.machine() != "x86_64":
        return "the guest's kernel is for x86_64"
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("apt-get", "apt")):
        if shutil.which(tool) is None:
            return f"no {tool}: apt install {package}"
    return ""


def debian_kernel(*drivers: str) -> Path:
    """Return a folder with a kernel, the modules that these drivers need, in order, and busybox.

    Kept in the cache, 70 MB. Installing the package would
    make this machine boot it, so it is only taken apart. Skips the test where it cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = (*NEEDED, *drivers)
    kernel = cache / "emotion-streamer" / "kernels" / "-".join(("debian", *wanted))
    if kernel.is_dir():
        return kernel
    kernel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kernel.parent, prefix=".making-") as name:
        folder = Path(name)
        for package in (_newest(KERNEL), TOOLS):
            _unpack(package, folder)
        made = folder / "made"
        made.mkdir()
        gather(folder, made, wanted)
        made.rename(kernel)
    return kernel


def gather(tree: Path, made: Path, drivers: Iterable[str]) -> None:
    """Copy what a guest needs out of packages that were taken apart.

    Debian 13 has in usr/lib and usr/bin what Debian 12 has in lib and bin, and packs its modules.
    Skips the test where a driver is neither a module nor in the kernel itself.

    Args:
        tree: the packages' files.
        made: takes the kernel, its modules in the order of their loading, and busybox.
        drivers: what is wanted, by the names of modules.
    """
    shelves = [tree / "lib" / "modules", tree / "usr" / "lib" / "modules"]
    files = [path for shelf in shelves for path in shelf.rglob("*.ko*")]
    modules = {_name(path): path for path in files if path.name.endswith((".ko", ".ko.xz"))}
    lists = [path for shelf in shelves for path in shelf.glob("*/modules.builtin")]
    inside = {_name(Path(line)) for path in lists for line in path.read_text().splitlines()}
    order: dict[str, bytes] = {}
    for driver in drivers:
        _with_needed(driver, modules, inside, order)
    for number, (module, content) in enumerate(order.items()):
        (made / f"{number:02d}-{module}.ko").write_bytes(content)
    (image,) = tree.glob("boot/vmlinuz-*")
    (made / "vmlinux").write_bytes(_unpacked(image.read_bytes()))
    (busybox,) = (*tree.glob("bin/busybox"), *tree.glob("usr/bin/busybox"))
    shutil.copy(busybox, made)


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _newest(package: str) -> str:
    """Return the package that a package without content stands for."""
    done = subprocess.run(
        ["apt-cache", "depends", "--important", package],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Depends: (linux-image-\S+)", done.stdout)
    if found is None:
        pytest.skip(f"apt knows no {package}: apt-get update, on Debian")
    return found[1]


def _unpack(package: str, folder: Path) -> None:
    done = subprocess.run(
        ["apt-get", "download", "--quiet", package],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no {package} from Debian: {(done.stderr.splitlines() or ['no word'])[-1]}")
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", archive, folder], check=True)
    archive.unlink()


def _unpacked(image: bytes) -> bytes:
    """Return the kernel that an image would unpack: interpreted, that takes half of the boot.

    An image that is not packed with xz, as Debian 13's, is left to unpack itself.
    """
    begin = image.find(b"\xfd7zXZ\0")  # the mark of xz, see tukaani.org/xz/xz-file-format.txt
    return image if begin < 0 else lzma.LZMADecompressor().decompress(image[begin:])


def _with_needed(
    module: str, modules: dict[str, Path], inside: set[str], order: dict[str, bytes]
) -> None:
    """Append a module after those that it says it needs; what is in the kernel itself has none."""
    if module in order or module in inside:
        return
    if module not in modules:
        pytest.skip(f"Debian's kernel has no driver {module}, neither as a module nor in itself")
    path = modules[module]
    content = path.read_bytes() if path.suffix == ".ko" else lzma.decompress(path.read_bytes())
    needed = re.search(rb"\0depends=([^\0]+)\0", content)
    for name in needed[1].decode().replace("-", "_").split(",") if needed else ():
        _with_needed(name, modules, inside, order)
    order[module] = content


def _archive(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return the first file system of a kernel: name, mode and content of each (cpio, "newc")."""
    packed = bytearray()
    for number, (name, mode, content) in enumerate((*files, ("TRAILER!!!", 0, b"")), 1):
        named = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(named), 0)
        packed += b"070701" + b"".join(b"%08x" % value for value in fields) + named
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def _first_files(kernel: Path, folder: Path, options: str) -> bytes:
    modules = sorted(kernel.glob("*.ko"))
    names = " ".join(path.stem for path in modules)
    init = _INIT.format(modules=names, options=options, folder=folder, done=_DONE)
    folders = [(name, 0o040755, b"") for name in ("bin", "dev", "lib", "root")]
    binaries = [("bin/busybox", 0o100755, (kernel / "busybox").read_bytes())]
    drivers = [(f"lib/{path.name}", 0o100644, path.read_bytes()) for path in modules]
    return _archive([*folders, *binaries, *drivers, ("init", 0o100755, init.encode())])


def processor_runs_it() -> bool:
    """Tell whether a guest runs on the processor itself and is not interpreted.

    Some clouds have a /dev/kvm that runs prepared kernels alone: Intel's and AMD's runs any.
    """
    able = any(Path("/sys/module", name).is_dir() for name in ("kvm_intel", "kvm_amd"))
    return able and os.access("/dev/kvm", os.R_OK | os.W_OK)


def _accelerator() -> tuple[str, ...]:
    """Return how to run it: the first that can be had, with all that it offers."""
    processor = ("-accel", "kvm") if processor_runs_it() else ()
    return (*processor, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max")


@dataclass
class Guest:
    """A booted guest.

    Args:
        kernel: what ``debian_kernel`` returned.
        folder: the test's own, which the guest sees at the same place and writes to.
        ports: of its loopback, to be reached under the same numbers here.
        options: of its drivers, such as ``vivid.n_devs=2``, with spaces between.
    """

    kernel: Path
    folder: Path
    ports: tuple[int, ...] = ()
    options: str = ""
    _qemu: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        first = self.folder / "first-files"
        first.write_bytes(_first_files(self.kernel, self.folder, self.options))
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{n}-127.0.0.1:{n}" for n in self.ports)
        shares: list[str] = []
        for tag, path, rights in (("tree", "/", ",readonly=on"), ("folder", self.folder, "")):
            local = f"local,id={tag},path={path},security_model=none,multidevs=remap{rights}"
            shares += ["-fsdev", local, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        self._qemu = subprocess.Popen(
            [
                *("qemu-system-x86_64", *_accelerator(), "-smp", "2", "-m", "1024"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-kernel", self.kernel / "vmlinux", "-initrd", first),
                *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
                *("-serial", f"file:{self.console}", "-serial", "stdio"),
                *("-netdev", f"user,id=net,restrict=on{forwards}"),
                *("-device", "virtio-net-pci,netdev=net,romfile="),
                *shares,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        names = {"HOME": "/dev/shm", "TMPDIR": "/dev/shm", "LC_ALL": "C.UTF-8", "PATH": path}  # noqa: S108 - the guest's own
        exports = " ".join(f"{name}={value}" for name, value in names.items())
        try:
            self._answer("booting", BOOT_S)  # its port drops what is sent before
            self.ask(f"export {exports} PYTHONDONTWRITEBYTECODE=1")
            self.ask(f"cd {shlex.quote(str(_ROOT))}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        qemu = self._running()
        qemu.kill()  # it has nothing to save
        qemu.communicate()

    @property
    def console(self) -> Path:
        """What its kernel said."""
        return self.folder / "console.log"

    def run(self, command: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """Run a line of shell as root inside; return its exit code and what it printed."""
        qemu = self._running()
        assert qemu.stdin is not None
        # What it asks of its input must not eat the next command.
        qemu.stdin.write(f"{{ {command}; }} < /dev/null; echo {_DONE} $?\n".encode())
        return self._answer(command, timeout_s)

    def ask(self, command: str, timeout_s: float = 60.0) -> str:
        """Run a line of shell that must succeed, and return what it printed."""
        code, said = self.run(command, timeout_s)
        assert code == 0, f"{command!r}: {said}"
        return said

    def _answer(self, command: str, timeout_s: float) -> tuple[int, str]:
        qemu = self._running()
        assert qemu.stdout is not None
        said = b""
        end_s = time.monotonic() + timeout_s
        while (ended := re.search(rb"%b (\d+)\r?\n" % _DONE.encode(), said)) is None:
            left_s = end_s - time.monotonic()
            ready = left_s > 0 and select.select([qemu.stdout], [], [], left_s)[0]
            more = qemu.stdout.read(1 << 16) if ready else b""
            told = said.decode(errors="replace") + self._last_words()
            assert more, f"{command!r} did not end in {timeout_s:g} s: {told}"
            said += more
        return int(ended[1]), said[: ended.start()].decode(errors="replace").replace("\r\n", "\n")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._qemu is not None
        return self._qemu

    def _last_words(self) -> str:
        return self.console.read_text(errors="replace")[-2000:] if self.console.exists() else ""


@dataclass
class GuestDaemon(DaemonProcess):
    """The daemon in a guest, asked and subscribed to from here.

    Args:
        guest: with this daemon's ports.
    """

    guest: Guest | None = None
    _pid: int = 0

    def __enter__(self) -> Self:
        python = shlex.quote(str(Path(sys.executable)))
        self.log.touch()
        config, log = (shlex.quote(str(path)) for path in (self.configure(), self.log))
        started = f"{python} -m streamer run --config {config} > {log} 2>&1 & echo $!"
        self._pid = int(self.inside().ask(started))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inside().run(f"kill -KILL {self._pid}; wait {self._pid}")

    @property
    def pid(self) -> int:
        """Its process, as the guest numbers it."""
        return self._pid

    def stop(self, timeout_s: float = 30.0) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and how long it took, seconds."""
        start_s = time.monotonic()
        code, _ = self.inside().run(f"kill -TERM {self._pid}; wait {self._pid}", timeout_s)
        return code, time.monotonic() - start_s

    def inside(self) -> Guest:
        """Return the guest."""
        assert self.guest is not None
        return self.guest
