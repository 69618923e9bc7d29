#!/bin/sh
# Install the fedlearn agent from this folder. It needs no network, and leaves the system's own Python packages as they are.
#   sh install.sh [DIR]     DIR: where to install (default: /opt/fedlearn)
#   PYTHON=python3.X sh install.sh    with this Python
# Run it as root from any folder: nothing of the current folder runs, and nothing of the caller's Python settings.
set -eu
unset CDPATH
target=@TARGET@ machine=@MACHINE@ version=@PYTHON@ advice=@ADVICE@
coordinator=@COORDINATOR@ enrollment=@ENROLLMENT@ settings=@SETTINGS@

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
echo "installed: $folder/bin/fedlearn. Next:"
echo "  sudo $folder/bin/fedlearn enroll --coordinator ${enrollment:-HOST:PORT} $token --state /var/lib/fedlearn"
echo "  sudo $folder/bin/fedlearn agent install --coordinator ${coordinator:-HOST:PORT}${settings:+ --settings $settings}"
