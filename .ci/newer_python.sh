#!/usr/bin/env bash
# newer_python.sh VERSION FOLDER: unpacks Debian's Python VERSION (such as 3.14), with the C library
# that it was built for, into FOLDER and prints the path of its interpreter. Needs patchelf. It uses
# the machine's own mirror, tries the suites that may have that version, and leaves the machine's
# packages alone.
set -euo pipefail
name=python$1
folder=$(realpath -m "$2")
found() { [ -x "$folder/usr/bin/$name" ] && "$folder/usr/bin/$name" -c 'import ssl, venv' 2>/dev/null; }
if found; then
    echo "$folder/usr/bin/$name"
    exit
fi

mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    sed -n 1p || true)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

download() { # download SUITE: the packages and all that they depend on, from an empty machine's view
    local options=(-qq -o "Dir::Etc=$work/etc" -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache"
        -o "Dir::State::status=$work/state/status" -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false -o APT::Install-Recommends=false)
    rm -rf "${work:?}"/*
    mkdir -p "$work"/etc/{apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d} \
        "$work"/state/lists/partial "$work"/cache/archives/partial
    : > "$work/state/status"
    echo "deb [signed-by=$keys] ${mirror:-http://deb.debian.org/debian} $1 main" > "$work/etc/sources.list"
    apt-get "${options[@]}" update &&
        apt-get "${options[@]}" install -y --download-only "$name" "$name-venv"
}

unpack() {
    rm -rf "$folder"
    mkdir -p "$folder"
    local package loader libraries
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$folder"
    done
    loader=$(find "$folder" -name 'ld-linux*.so.*' | head -1)
    libraries=$(dirname "$(find "$folder" -name 'libc.so.6' | head -1)")
    # A forced rpath, because extension modules must find the same libraries.
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$folder/usr/bin/$name"
    # Debian's venv looks for pip at a fixed path.
    grep -rlZ --include='*.py' /usr/share/python-wheels "$folder/usr/lib" |
        xargs -0r sed -i "s#/usr/share/python-wheels#$folder/usr/share/python-wheels#"
}

for suite in forky sid; do
    if download "$suite" > /dev/null 2>&1 && unpack > /dev/null 2>&1 && found; then
        echo "$folder/usr/bin/$name"
        exit
    fi
done
echo "$name: neither of Debian's suites has it, or it doesn't run here" >&2
exit 1
