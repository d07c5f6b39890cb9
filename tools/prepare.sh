# Shell functions that ./quickstart and ./check share: packages, build, Python environment.
# Everything is made below $build; running it again costs seconds.

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# install_packages PACKAGE...: those of Debian's packages that are missing.
install_packages() {
    command -v dpkg-query >/dev/null || {
        echo "not a Debian system: taking for granted that these are installed: $*"
        return 0
    }
    local missing=() package
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "these packages are missing, and there is no sudo: ${missing[*]}"
        as_root=(sudo)
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$build/apt.log" 2>&1 ||
        { tail -n 20 "$build/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

build_packages=(gcc make autoconf automake pkg-config libc6-dev libfuse3-dev fuse3 libcjson-dev
                libedit-dev liblz4-dev libpcre2-dev libssl-dev libsystemd-dev libxxhash-dev python3
                python3-venv)

# make_python: $top/build/venv, which both share, with the packages of tests/requirements.txt; sets $python.
make_python() {
    local stamp=$top/build/venv/requirements.installed
    python=$top/build/venv/bin/python
    if ! cmp -s "$top/tests/requirements.txt" "$stamp"; then
        say "making a Python environment in $top/build/venv"
        rm -rf "$top/build/venv"
        python3 -m venv "$top/build/venv"
        "$python" -m pip install --quiet --disable-pip-version-check \
            -r "$top/tests/requirements.txt" >"$build/pip.log" 2>&1 ||
            { tail -n 20 "$build/pip.log" >&2; die "pip could not install tests/requirements.txt"; }
        cp "$top/tests/requirements.txt" "$stamp"
    fi
}

# make_configure: the configure script, when it is older than what it is made from.
make_configure() {
    local file
    for file in configure.ac Makefile.am m4/*.m4 */local.mk */*/local.mk; do
        if [ ! -e configure ] || [ "$file" -nt configure ]; then
            say "autoreconf"
            autoreconf --install --force >"$build/autoreconf.log" 2>&1 ||
                { tail -n 20 "$build/autoreconf.log" >&2; die "autoreconf failed"; }
            touch configure
            return
        fi
    done
}

# build_in DIRECTORY [CONFIGURE-ARGUMENT...]: configures once and builds; fails with a message.
build_in() {
    local directory=$1
    shift
    mkdir -p "$directory"
    local wanted="$*"
    if [ ! -e "$directory/config.status" ] || [ configure -nt "$directory/config.status" ] ||
        [ "$(cat "$directory/configured-with" 2>/dev/null)" != "$wanted" ]; then
        (cd "$directory" && "$top/configure" --quiet "$@" >configure.log 2>&1) ||
            { tail -n 20 "$directory/configure.log" >&2; echo "configure failed in $directory" >&2; return 1; }
        printf '%s\n' "$wanted" >"$directory/configured-with"
    fi
    make -C "$directory" -j"$(nproc)" --no-print-directory >"$directory/make.log" 2>&1 ||
        { tail -n 40 "$directory/make.log" >&2; echo "make failed in $directory" >&2; return 1; }
}
