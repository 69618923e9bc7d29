#!/bin/sh
# Install the fedlearn agent from this folder. It needs no network, and leaves the system's own Python packages as they are.
#   sh install.sh [--key SHA256] [DIR]     DIR: where to install (default: /opt/fedlearn)
# --key: of the release key, as `fedlearn bundle` prints it. The first installation keeps the key in DIR, and later ones
# take no bundle that another key has signed.
#   PYTHON=python3.X sh install.sh    with this Python
# Run it as root from any folder: nothing of the current folder runs, and nothing of the caller's Python settings.
set -eu
unset CDPATH
target=@TARGET@ machine=@MACHINE@ version=@PYTHON@ advice=@ADVICE@
coordinator=@COORDINATOR@ enrollment=@ENROLLMENT@ settings=@SETTINGS@

trusted=
case ${1:-} in
    --key) trusted=${2:-none}; shift; [ $# -eq 0 ] || shift ;;
esac

fail() { echo "install: $1" >&2; exit 1; }
# No program is called before `cd /`: with a PATH that has "." it would be the current folder's.
case $0 in */*) here=$(cd -- "${0%/*}" && pwd -P) ;; *) here=$(pwd -P) ;; esac
absolute() { case $1 in /*) echo "$1" ;; *) echo "$(pwd -P)/$1" ;; esac }
folder=$(absolute "${1:-/opt/fedlearn}")
python=${PYTHON:-python3}
# A name without a slash is looked for in PATH, from / on.
case $python in */*) python=$(absolute "$python") ;; esac
cd /

python=$(command -v "$python") || fail "there is no ${PYTHON:-python3} here; this bundle is for Python $version: PYTHON=python$version sh install.sh"
# The system's own programs first.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
# -I, here and below: neither the current folder nor PYTHONPATH nor a user's own packages.
found=$("$python" -I -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
[ "$found" = "$version $machine" ] ||
    fail "this bundle is for Python $version on $machine ($target); $python here is Python ${found% *} on ${found#* }: make another (fedlearn bundle --target … --python ${found% *}) or name another Python (PYTHON=python$version sh install.sh)"
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || fail "the bundle is damaged: copy it here again"

# Nothing of the bundle runs before its list of checksums is known to be of who may make bundles.
[ -f "$here/SHA256SUMS.sig" ] && [ -f "$here/release.pem" ] || fail "this bundle is not signed, and nothing of it was installed: make it with fedlearn bundle"
openssl pkeyutl -help 2>&1 | grep -q -e -rawin || fail "the signature is checked with openssl 3, which is missing here: sudo apt-get install openssl"
key=$(sha256sum <"$here/release.pem")
key=${key%% *}
kept=$folder/release.pem
if [ -n "$trusted" ]; then
    [ "$key" = "$trusted" ] || fail "this bundle is signed with the key $key, not with $trusted, and nothing of it was installed"
elif [ -f "$kept" ]; then
    cmp -s "$kept" "$here/release.pem" || fail "this bundle is signed with the key $key, not with the one of the installation in $folder, and nothing of it was installed; if fedlearn bundle printed that key: sh install.sh --key $key"
fi
openssl pkeyutl -verify -pubin -inkey "$here/release.pem" -rawin -in "$here/SHA256SUMS" -sigfile "$here/SHA256SUMS.sig" >/dev/null 2>&1 ||
    fail "the signature of this bundle is wrong, and nothing of it was installed: copy it here again"
# Files beside the listed ones would be found by their names: requirements, settings, a token.
listed=$(cd "$here" && { sed 's/^[^ ]*  //' SHA256SUMS; echo SHA256SUMS; echo SHA256SUMS.sig; echo release.pem; } | LC_ALL=C sort)
present=$(cd "$here" && find . ! -type d | sed 's,^\./,,' | LC_ALL=C sort)
[ "$listed" = "$present" ] || fail "this bundle has files that its list does not name, and nothing of it was installed: unpack it anew in an empty folder"

# Packages of the system stay visible, so that the board's own torch is found; nothing is installed over it.
"$python" -I -m venv --without-pip --system-site-packages "$folder" ||
    fail "cannot make $folder; as root: sudo sh install.sh, or name a folder of your own: sh install.sh ~/fedlearn"
mine=$folder/bin/python
# The wheel that the checked list names: another one may lie beside it.
pip=$(sed -n 's,^[0-9a-f]*  \(wheels/pip-[^/]*\.whl\)$,\1,p' "$here/SHA256SUMS")
# By hand, as -I does not read PYTHONPATH.
run_pip='import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module("pip", run_name="__main__", alter_sys=True)'
offline() {
    set -- --no-index --find-links "$here/wheels" --no-deps --require-hashes --requirement "$here/$1"
    "$mine" -I -c "$run_pip" "$here/$pip" --isolated --disable-pip-version-check --no-cache-dir install \
        --quiet --no-warn-script-location --root-user-action ignore "$@" || fail "pip failed, see above"
}
offline requirements.txt
"$mine" -I -c 'import fedlearn.clients.agent.agent' || fail "what was installed does not run, see above"
# From now on the key of this installation.
cp "$here/release.pem" "$kept"
chmod 644 "$kept"

# numpy() too: a torch of numpy 1 imports beside numpy 2, and fails here.
works='import torch; torch.zeros(1).numpy(); print("torch", torch.__version__, "from", torch.__path__[0])'
if "$mine" -I -W ignore -c "$works" 2>/dev/null; then :
elif "$mine" -I -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))'; then
    echo "install: the torch that is here does not work:" >&2
    "$mine" -I -c "$works" 2>&1 | tail -n 1 >&2 || true
elif [ -e "$here/requirements-torch.txt" ]; then
    offline requirements-torch.txt
    "$mine" -I -c "$works" || fail "the torch of this bundle does not run here, see above"
else
    echo "install: there is no torch here, and the agent needs it for its first task: $advice; into this place with: $mine -I -m pip install …" >&2
fi

[ -z "$settings" ] || settings=$here/$settings
"$mine" -I -m fedlearn doctor --state /var/lib/fedlearn ${coordinator:+--coordinator "$coordinator"} ${settings:+--settings "$settings"} ||
    echo "install: the installation is complete; what is not well yet, the doctor says above" >&2

if [ -e "$here/token" ]; then token="--token-file $here/token"; else token="--token -"; fi
[ -n "$trusted" ] || echo "install: signed with the key $key; compare it with what fedlearn bundle printed"
echo "installed: $folder/bin/fedlearn. Next:"
echo "  sudo $folder/bin/fedlearn enroll --coordinator ${enrollment:-HOST:PORT} $token --state /var/lib/fedlearn"
echo "  sudo $folder/bin/fedlearn agent install --coordinator ${coordinator:-HOST:PORT}${settings:+ --settings $settings}"
