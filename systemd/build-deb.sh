#!/usr/bin/env bash
# Builds emotion-streamer_VERSION_ARCHITECTURE.deb: the daemon with all it needs of Python. Each
# library is taken with its hash in deploy/lock/service.txt. The package is for the version of Python
# that is named, which has pip and setuptools; it starts /usr/bin's, wherever the one here lies.
# Usage: build-deb.sh PYTHON [MIRROR of the face detector's file] [FOLDER]; `make deb` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
mirror=${2:-}
folder=${3:-dist}
stage=build/deb/root

minor=$("$python" -c 'import sys; print("python{}.{}".format(*sys.version_info))')
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
architecture=$(dpkg --print-architecture)
# The dates in the package are the commit's and not the clock's.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}
export SOURCE_DATE_EPOCH PIP_DISABLE_PIP_VERSION_CHECK=1
umask 022

# The libraries, kept from the last build while the lock is the same.
packages=build/deb/packages-$minor-$(sha256sum deploy/lock/service.txt | cut -c1-16)
if [[ ! -e $packages/complete ]]; then
  echo "fetching the libraries of deploy/lock/service.txt"
  rm -rf build/deb/packages-*
  "$python" -m pip install -qq --no-deps --require-hashes --only-binary=:all: --no-compile --target "$packages/site" \
    -r deploy/lock/service.txt
  rm -rf "$packages/site/bin" # their commands, with this machine's paths
  "$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$packages/site" \
    -p "/opt/streamer/lib/$minor/site-packages" "$packages/site"
  touch "$packages/complete"
fi

echo "putting the package together"
rm -rf "$stage" build/deb/source
site=$stage/opt/streamer/lib/$minor/site-packages
install -d "$site" "$stage/opt/streamer/bin" "$stage/usr/bin"
cp -a --link "$packages/site/." "$site"
install -d build/deb/source
cp -r pyproject.toml README.md LICENSE streamer build/deb/source
"$python" -m pip install -qq --no-deps --no-build-isolation --no-compile --target build/deb/source/out build/deb/source
rm -rf build/deb/source/out/bin
"$python" -m compileall -q --invalidation-mode unchecked-hash -s build/deb/source/out \
  -p "/opt/streamer/lib/$minor/site-packages" build/deb/source/out
cp -a build/deb/source/out/. "$site"

# A virtual environment of the target's Python, written by hand: it names no path of this machine.
ln -s "/usr/bin/$minor" "$stage/opt/streamer/bin/python3"
ln -s python3 "$stage/opt/streamer/bin/python"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' > "$stage/opt/streamer/pyvenv.cfg"
install -m 755 /dev/stdin "$stage/opt/streamer/bin/streamer" << 'SCRIPT'
#!/opt/streamer/bin/python3
import sys

from streamer.cli import main

sys.exit(main())
SCRIPT
ln -s /opt/streamer/bin/streamer "$stage/usr/bin/streamer"

# The detector's file, accepted with its pinned hash alone.
STREAMER_ASSETS=$stage/opt/streamer/assets "$python" -m streamer assets install ${mirror:+--mirror "$mirror"} yunet

install -D -m 644 -t "$stage/lib/systemd/system" systemd/streamer.service systemd/streamer@.service
install -D -m 644 -t "$stage/usr/lib/sysusers.d" systemd/sysusers.d/streamer.conf
install -D -m 644 -t "$stage/usr/lib/tmpfiles.d" systemd/tmpfiles.d/streamer.conf
install -D -m 640 -t "$stage/etc/streamer" systemd/environment
install -D -m 644 -t "$stage/usr/share/doc/emotion-streamer" \
  systemd/debian/copyright systemd/README.md deploy/streamer.toml

install -d "$stage/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@PYTHON@/$minor/" \
  -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$stage" | cut -f1)/" systemd/debian/control > "$stage/DEBIAN/control"
install -m 644 -t "$stage/DEBIAN" systemd/debian/conffiles
install -m 755 -t "$stage/DEBIAN" systemd/debian/{postinst,prerm,postrm}
mkdir -p "$folder"
deb=$folder/emotion-streamer_${version}_$architecture.deb
dpkg-deb --build --root-owner-group -Zzstd "-z${DEB_LEVEL:-9}" "$stage" "$deb" > /dev/null
echo "$deb ($(du -h "$deb" | cut -f1))"
