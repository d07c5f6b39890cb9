#!/usr/bin/env bash
# Installs a built tree into an empty folder, tries what is there, and uninstalls it again.
#
#   install.sh BUILD-DIRECTORY
set -euo pipefail
build=$(realpath -- "$1")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make -C "$build" --no-print-directory install DESTDIR="$root" >/dev/null
bin=$root/usr/local/bin
man=$root/usr/local/share/man
for program in tensorport tensorport-mount; do
    "$bin/$program" --version
    "$bin/$program" --help >/dev/null
done
for page in man8/tensorport-mount.8 man1/tensorport.1 man5/tensorport-manifest.5; do
    test -s "$man/$page"
    man --warnings --encoding=UTF-8 --local-file "$man/$page" 2>&1 >/dev/null | tee "$root/warnings"
    test ! -s "$root/warnings"
done
"$bin/tensorport" synth --quiet "$root/model"
"$bin/tensorport" inspect "$root/model" >/dev/null
make -C "$build" --no-print-directory uninstall DESTDIR="$root" >/dev/null
left=$(find "$root/usr" -type f)
[ -z "$left" ] || { printf 'uninstall left:\n%s\n' "$left"; exit 1; }
