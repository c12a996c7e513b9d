#!/usr/bin/env bash
# Installs the service on any distribution with systemd and Python 3.11 or newer; run it again to
# upgrade. Every library comes with its hash (deploy/lock/service.txt). On Debian a package does the
# same: `make deb`.
set -euo pipefail
prefix=/opt/streamer
units=/etc/systemd/system
config=/etc/streamer

usage() {
  cat << 'HELP'
Usage: systemd/install.sh [OPTION…]
  --python PYTHON     interpreter of the service (default: python3)
  --extras LIST       more of pyproject.toml's extras, newest versions, e.g. tensorrt or mediapipe
  --mirror DIR|URL    where the face detector's file lies, in a closed network
  --wheels DIR        take the libraries from this folder and not from the package index
  --uninstall         stop it and take it away; configuration, secrets and records stay
  --purge             with --uninstall: configuration and secrets, too
HELP
}

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

say() { echo "install.sh: $1"; }

booted() { [[ -d /run/systemd/system ]]; }

python=python3 extras='' mirror='' wheels='' uninstall='' purge=''
while (($#)); do
  case $1 in
    --python | --extras | --mirror | --wheels)
      (($# > 1)) || fail "$1 needs a value; see --help"
      declare "${1#--}=$2"
      shift 2
      ;;
    --uninstall | --purge)
      declare "${1#--}=yes"
      shift
      ;;
    -h | --help)
      usage
      exit
      ;;
    *) fail "unknown option $1; see --help" ;;
  esac
done
[[ -z $purge || -n $uninstall ]] || fail "--purge goes with --uninstall"
((EUID == 0)) || fail "needs root: sudo $0"
command -v systemctl > /dev/null || fail "there is no systemd here; see deploy/ for containers"
! dpkg-query -W -f='${Status}' emotion-streamer 2> /dev/null | grep -q 'ok installed' ||
  fail "the Debian package emotion-streamer is installed; upgrade that, or remove it first"

if [[ -n $uninstall ]]; then
  if [[ -e $units/streamer.service ]]; then
    if booted; then systemctl stop streamer.service 'streamer@*.service'; fi
    systemctl disable --quiet streamer.service
  fi
  rm -f $units/streamer.service $units/streamer@.service /usr/local/bin/streamer
  rm -f $units/*.wants/streamer@*.service /etc/sysusers.d/streamer.conf /etc/tmpfiles.d/streamer.conf
  rm -rf $prefix
  if [[ -n $purge ]]; then rm -rf $config /var/cache/streamer; fi
  if booted; then systemctl daemon-reload; fi
  say "removed; what is left is in $config and /var/lib/streamer"
  exit
fi

cd "$(dirname "$0")/.."
umask 022
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
  fail "$python is older than 3.11 or has no venv (Debian: python3-venv); name another with --python"
# Another version of Python wants an environment of its own.
if [[ -d $prefix && $("$python" -V) != "$($prefix/bin/python -V 2> /dev/null)" ]]; then
  rm -rf $prefix
fi
[[ -x $prefix/bin/python ]] || "$python" -m venv $prefix
pip=("$prefix/bin/python" -m pip --quiet --disable-pip-version-check --no-input install)
if [[ -n $wheels ]]; then pip+=(--no-index --find-links "$(realpath "$wheels")"); fi
locked=("${pip[@]}" --no-deps --require-hashes --only-binary=:all:)

say "installing the libraries into $prefix"
"${locked[@]}" -r deploy/lock/build.txt -r deploy/lock/service.txt
# Built from a copy: a build leaves things in its folder, and this one may be somebody else's.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -r pyproject.toml README.md LICENSE streamer "$source"
"${pip[@]}" --no-deps --no-build-isolation --force-reinstall "$source"
if [[ -n $extras ]]; then "${pip[@]}" "emotion-streamer[$extras] @ file://$source" --no-build-isolation; fi
STREAMER_ASSETS=$prefix/assets $prefix/bin/streamer assets install ${mirror:+--mirror "$mirror"} yunet
ln -sf $prefix/bin/streamer /usr/local/bin/streamer

install -m 644 systemd/streamer.service systemd/streamer@.service $units
install -D -m 644 -t /etc/sysusers.d systemd/sysusers.d/streamer.conf
install -D -m 644 -t /etc/tmpfiles.d systemd/tmpfiles.d/streamer.conf
install -D -m 644 deploy/streamer.toml $prefix/share/streamer.toml
systemd-sysusers streamer.conf
systemd-tmpfiles --create streamer.conf
[[ -e $config/environment ]] || install -m 640 systemd/environment $config
systemctl enable --quiet streamer.service

if booted; then
  systemctl daemon-reload
  systemctl try-restart streamer.service 'streamer@*.service'
fi
if booted && systemctl --quiet is-active streamer.service; then
  say "done; streamer.service runs the new version"
elif [[ -e $config/streamer.toml ]]; then
  say "done; start it: systemctl start streamer"
else
  say "done; name the cameras in $config/streamer.toml, then: systemctl start streamer" \
    "(every key: $prefix/share/streamer.toml)"
fi
