# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=sh
# Sourced by scripts/mailbed, tests/bed/cyrus and tests/bed/courier: what the
# throw-away servers have in common.  The caller has set $share, the directory
# that holds this file and the templates.

export MAILBED_DIR="${MAILBED_DIR:-${TMPDIR:-/tmp}/mailbed-$(id -u)}"
PATH=$PATH:/usr/sbin:/sbin
umask 077

# Loopback, but not 127.0.0.1: Dovecot takes a peer that has the server's own
# address as secured and would offer it LOGIN without TLS.
address=127.0.0.2

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Root never runs a server: call the script again as an ordinary user, from a
# copy below MAILBED_DIR, because that user may be unable to read the checkout.
#   drop_root SCRIPT ARGUMENT...
drop_root() {
  [ "$(id -u)" = 0 ] || return 0
  script=$1
  shift
  user=${MAILBED_USER:-mail}
  group=$(id -gn "$user") || fail "no such user: $user"
  private_share=$MAILBED_DIR/share
  (
    umask 022
    mkdir -p "$private_share"
    for f in "$share"/*.in "$share"/*.sh "$share/outside" "$share/../tools/imapcheck.py" "$script"; do
      [ "$share" = "$private_share" ] || cp "$f" "$private_share/"
    done
  ) || exit 1
  chown -R "$user:$group" "$private_share"
  chmod 755 "$MAILBED_DIR"
  [ "$(stat -c %U "$MAILBED_DIR")" = "$user" ] || chown "$user:$group" "$MAILBED_DIR"
  setpriv --reuid="$user" --regid="$group" --clear-groups test -x "$MAILBED_DIR" ||
    fail "user $user cannot reach $MAILBED_DIR"
  cd /
  exec setpriv --reuid="$user" --regid="$group" --clear-groups -- \
    env HOME="$MAILBED_DIR" USER="$user" MAILBED_SHARE="$private_share" \
    sh "$private_share/${script##*/}" "$@"
}

# The settings are the environment's at `mailbed start`, and kept for all later
# calls: those, and a start without the variable, take what was kept.
read_settings() {
  port=23000 domain=emlfs.test mta=postfix
  if [ -r "$MAILBED_DIR/settings" ]; then
    # shellcheck source=/dev/null
    . "$MAILBED_DIR/settings"
  fi
  if [ "${1:-}" = start ] && ! pid_of "$MAILBED_DIR/run/master.pid" dovecot >/dev/null; then
    [ "${MAILBED_PORT:-}" = auto ] && [ -r "$MAILBED_DIR/settings" ] || port=${MAILBED_PORT:-$port}
    domain=${MAILBED_DOMAIN:-$domain} mta=${MAILBED_MTA:-$mta}
    [ "$port" != auto ] || port=$(free_port_base)
  fi
  host=mail.$domain
  tls=$MAILBED_DIR/tls
}

# A base below the ephemeral ports at which none of our ports is taken.
free_port_base() {
  base=20000
  while [ $base -lt 32000 ]; do
    taken=
    for offset in 143 993 587 465 243 293 343 393; do
      ! grep -q "^ *[0-9]*: [0-9A-F]*:$(printf %04X $((base + offset))) " /proc/net/tcp || taken=yes
    done
    [ "$taken" ] || break
    base=$((base + 1000))
  done
  echo $base
}

# fill TEMPLATE NAME...: the template with every @NAME@ replaced by the value
# of that shell variable, on standard output.
fill() {
  template=$1
  shift
  set_of_edits=
  for name in "$@"; do
    eval "value=\$$name"
    # shellcheck disable=SC2154 # set by eval
    set_of_edits="$set_of_edits s|@$name@|$value|g;"
  done
  sed -e "$set_of_edits" "$template"
}

# pid_of PIDFILE COMMAND: the pid, if that process lives and is that command.
# A zombie that nobody has reaped yet is dead.
pid_of() {
  [ -s "$1" ] || return 1
  pid=$(tr -d ' \n' <"$1")
  case $(cat "/proc/$pid/stat" 2>/dev/null) in
  *' ('*') Z '*) return 1 ;;
  *" ($2) "*) echo "$pid" ;;
  *) return 1 ;;
  esac
}

# wait_until SECONDS COMMAND...: poll, twenty times a second.
wait_until() {
  deadline=$(($(date +%s) + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -le $deadline ] || return 1
    sleep 0.05
  done
}

gone() { ! pid_of "$1" "$2"; }

# stop_pid PIDFILE COMMAND: ask, wait, insist.
stop_pid() {
  pid=$(pid_of "$1" "$2") || return 0
  kill "$pid" 2>/dev/null || return 0
  wait_until 10 gone "$1" "$2" || kill -9 "$pid" 2>/dev/null || :
}

tls_answers() { timeout 3 openssl s_client -connect "$address:$1" </dev/null; }

# The other servers come as Debian packages that conflict with Dovecot's, so
# they are unpacked, never installed.
#   unpack_debs DIRECTORY PACKAGE...
unpack_debs() {
  target=$1
  shift
  [ ! -e "$target/.complete" ] || return 0
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/emlfs-tests
  (
    umask 022
    mkdir -p "$cache" "$target"
    cd "$cache" || exit 1
    missing=
    for package in "$@"; do
      find . -name "${package}_*.deb" | grep -q . || missing="$missing $package"
    done
    # shellcheck disable=SC2086 # a list
    [ -z "$missing" ] || apt-get -qq -o APT::Sandbox::User="$(id -un)" download $missing >&2 || exit 1
    for package in "$@"; do
      dpkg -x "$package"_*.deb "$target" || exit 1
    done
    : >"$target/.complete"
    [ "$(id -u)" != 0 ] || chown -R "${MAILBED_USER:-mail}" "$target"
  ) || fail "cannot fetch and unpack the packages"
}

imapcheck=$share/../tools/imapcheck.py
[ -e "$imapcheck" ] || imapcheck=$share/imapcheck.py # root's copy, see drop_root

# deliver_by_imap USER [FOLDER] FILE...: APPEND with the password that the
# calling script noted.  The caller opens the files: after the change of user,
# root's may be unreadable.
deliver_by_imap() {
  [ $# -ge 2 ] || fail "deliver USER [FOLDER] FILE..."
  name=$1 folder=INBOX
  shift
  if [ $# -gt 1 ] && [ ! -f "$1" ]; then
    folder=$1
    shift
    sh "$0" client "$name" create "$folder" 2>/dev/null || :
  fi
  for file in "$@"; do
    sh "$0" client "$name" append-stdin "$folder" <"$file"
  done
}
