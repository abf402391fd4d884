#!/bin/sh
# Install the book on a machine without a network, from a folder that scripts/gather.py made:
#   sh offline.sh TARGET [WORD...]
# TARGET is a new folder for the book. With words, `make WORD...` runs there afterwards, for example
# `book`, or `reproduce EXPERIMENT=digits_wgan`. PYTHON names the interpreter (default python3).
set -eu

fail() {
    echo "offline: $1" >&2
    exit 1
}

[ $# -ge 1 ] || fail "say where the book shall go: sh offline.sh TARGET [WORD...]"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=$1
shift
python=${PYTHON:-python3}
[ -f "$here/SHA256SUMS" ] || fail "$here holds no SHA256SUMS; it must be a folder made by gather.py"
[ ! -e "$target" ] || fail "$target exists already; name a new folder"
command -v git >/dev/null || fail "git is needed"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "no $python"
wanted=$(cat "$here/python-version")
[ "$version" = "$wanted" ] || fail "the packages are for Python $wanted; $python is $version"

"$python" - "$here" <<'CHECK' || fail "files are damaged or missing; copy the folder again"
import hashlib
import pathlib
import sys

here = pathlib.Path(sys.argv[1])
bad = []
for line in (here / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
    wanted, name = line.split("  ", 1)
    try:
        with (here / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        found = "none"
    if found != wanted:
        bad.append(name)
if bad:
    sys.exit("damaged or missing: " + ", ".join(bad))
CHECK

git clone -q "$here/book.bundle" "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
"$python" -m venv "$target/.venv"
pip() {
    "$target/.venv/bin/python" -m pip --disable-pip-version-check install -q --no-index "$@"
}
pip --find-links "$here/wheels" --require-hashes -r "$target/requirements.txt"
(cd "$target" && pip --no-deps --no-build-isolation -e .)
[ ! -d "$here/data" ] || ln -s "$here/data" "$target/data"
touch "$target/.venv/.stamp" # tells make that the environment is complete
echo "installed in $target"
[ $# -eq 0 ] || make -C "$target" "$@"
