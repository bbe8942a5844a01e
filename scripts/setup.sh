# Sourced by dev, test and upstream: makes Bun and the dependencies present. Needs Node with npm, or Bun itself.
# Sets ROOT and BUN. Plain POSIX sh.

BUN_VERSION=1.4.5
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
cd "$ROOT" || exit 1

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

find_bun() {
  BUN=$(command -v bun 2>/dev/null) && return 0
  BUN=$ROOT/.tools/node_modules/.bin/bun
  [ -x "$BUN" ]
}

if ! find_bun; then
  command -v npm >/dev/null 2>&1 || fail "Neither bun nor npm is here; install Node with npm, or Bun $BUN_VERSION."
  say "installing Bun $BUN_VERSION into .tools"
  npm install --no-save --no-audit --no-fund --prefix "$ROOT/.tools" "bun@$BUN_VERSION" >&2 || fail "npm could not install bun@$BUN_VERSION."
  find_bun || fail "npm installed bun@$BUN_VERSION, but it is not there."
fi
PATH=$(dirname -- "$BUN"):$PATH
export PATH

"$BUN" install --frozen-lockfile >&2 || fail "The dependencies could not be installed."

# need <program> <Debian package>: notes a package whose program is missing.
MISSING=''
need() {
  for place in $(printf '%s' "$PATH" | tr ':' ' ') /usr/sbin /usr/local/sbin /sbin; do
    [ -x "$place/$1" ] && return 0
  done
  MISSING="$MISSING $2"
}

# Installs what `need` noted: as root on Debian, else says what to install. No service of the machine is started.
install_missing() {
  [ -n "$MISSING" ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    fail "Please install:$MISSING"
  fi
  say "installing:$MISSING"
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
  fi
  # shellcheck disable=SC2086
  { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $MISSING; } >&2 || fail "apt-get could not install:$MISSING"
}
