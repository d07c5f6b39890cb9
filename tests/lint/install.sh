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
for program in tensorport tensorport-mount tpinfer; do
    "$bin/$program" --version
    "$bin/$program" --help >/dev/null
done
pages=0
for page in "$(dirname -- "$0")"/../../man/*.[0-9]; do
    page=$man/man${page##*.}/${page##*/}
    test -s "$page"
    man --warnings --encoding=UTF-8 --local-file "$page" 2>&1 >/dev/null | tee "$root/warnings"
    test ! -s "$root/warnings"
    pages=$((pages + 1))
done
test "$pages" -ge 9
completions=$(find "$root/usr" -path '*/bash-completion/completions/tensorport')
bash -ec ". '$completions'; complete -p tensorport tensorport-mount"
cmp "$completions" "${completions%/*}/tensorport-mount"
test -s "$root/usr/local/share/zsh/site-functions/_tensorport"
"$bin/tensorport" synth --quiet "$root/model"
"$bin/tensorport" inspect "$root/model" >/dev/null
# The mount is found beside it, whatever PATH says.
PATH=/usr/bin:/bin "$bin/tensorport" run "$root/model" -- sh -c 'test -s "$TENSORPORT_MNT/manifest.json"'
make -C "$build" --no-print-directory uninstall DESTDIR="$root" >/dev/null
left=$(find "$root/usr" ! -type d)
[ -z "$left" ] || { printf 'uninstall left:\n%s\n' "$left"; exit 1; }
