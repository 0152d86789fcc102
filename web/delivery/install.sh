# Everything is in functions, and the last line calls them: half a download does nothing.

PREFIX=/opt/fleetward-agent
STATE=/var/lib/fleetward-agent
UNIT=/etc/systemd/system/fleetward-agent.service
MARK=.fleetward-agent
TOKEN=${FLEETWARD_ENROLLMENT_TOKEN:-}
PYTHON=
ACTION=install
SERVICE=yes
AGAIN=no
DRY_RUN=no
PURGE=no
CHANGED=no

usage() {
  cat <<END
Makes this machine a device of the fleet at $SERVER.

  sh install.sh --token TOKEN     or in one line, with the server's key pinned: $SERVER/enroll has it to copy

  --token TOKEN     an enrollment token; or in FLEETWARD_ENROLLMENT_TOKEN
  --dry-run         say what would be done, and do nothing
  --again           enroll anew a machine that is enrolled already
  --no-service      install and enroll, without a systemd unit
  --prefix DIR      where the agent goes (default $PREFIX)
  --state-dir DIR   where its key and settings are kept (default $STATE)
  --python PATH     which Python to use (3.11 or newer)
  --uninstall       stop and remove the agent; its key and settings stay
  --purge           with --uninstall: those too
END
}

say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $*"; exit 1; }
misused() { say "install.sh: $*"; say "install.sh: --help tells the options"; exit 2; }

value() { [ "$2" -gt 1 ] || misused "$1 needs a value"; }

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --token) value "$1" $#; TOKEN=$2; shift ;;
      --prefix) value "$1" $#; PREFIX=${2%/}; shift ;;
      --state-dir) value "$1" $#; STATE=${2%/}; shift ;;
      --python) value "$1" $#; PYTHON=$2; shift ;;
      --dry-run) DRY_RUN=yes ;;
      --again) AGAIN=yes ;;
      --no-service) SERVICE=no ;;
      --uninstall) ACTION=uninstall ;;
      --purge) PURGE=yes ;;
      -h | --help) usage; exit 0 ;;
      *) misused "$1 is no option" ;;
    esac
    shift
  done
  case $PREFIX in /?*) ;; *) misused "--prefix must be an absolute path below /" ;; esac
  case $STATE in /?*) ;; *) misused "--state-dir must be an absolute path below /" ;; esac
  [ "$PURGE" = no ] || [ "$ACTION" = uninstall ] || misused "--purge goes with --uninstall"
}

# --- what there is ----------------------------------------------------------------------------------------------------------------

need_root() {
  [ "$(id -u)" = 0 ] || [ "$SERVICE" = no ] || die "this needs root: put sudo before sh, or give --no-service and directories of your own"
}

has_systemd() { [ "$SERVICE" = yes ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; }

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }

find_python() {
  if [ -n "$PYTHON" ]; then
    suits "$PYTHON" || die "$PYTHON is no Python 3.11 or newer"
    return
  fi
  # The server's own version first: its wheels fit that one for sure.
  for found in "python$SERVER_PYTHON" python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$found" >/dev/null 2>&1 && suits "$found"; then PYTHON=$(command -v "$found"); return; fi
  done
  say "install.sh: the agent needs Python 3.11 or newer, and there is none here. One of these brings it:"
  say "  apt-get install python3        Debian 12, Raspberry Pi OS 12, Ubuntu 24.04, and newer"
  say "  apt-get install python3.11     Ubuntu 22.04"
  say "  dnf install python3.11         RHEL 9 and its kin"
  die "then run this again; or give another one by --python PATH"
}

member() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" "$STATE/identity.json" | head -n 1; }

enrolled() { [ -f "$STATE/identity.json" ]; }

# What comes for other kinds of machines makes no other build of this one's.
choose_build() {
  for each in $BUILDS; do
    case $each in "$(uname -m)"=*) BUILD=${each#*=} ;; esac
  done
}

installed() { [ -f "$PREFIX/$MARK" ] && [ "$(cat "$PREFIX/$MARK")" = "$BUILD $PYTHON" ] && [ -x "$PREFIX/bin/fleetward-agent" ]; }

runs() { has_systemd && [ -f "$UNIT" ] && systemctl is-active --quiet fleetward-agent.service; }

# --- what will be done ------------------------------------------------------------------------------------------------------------

plan() {
  say "Fleetward agent $VERSION, from $SERVER"
  [ -z "$CA_FINGERPRINT" ] || say "CA SHA-256 $CA_FINGERPRINT"
  say "On this machine ($(uname -n)) this will:"
  if installed; then say "  - leave the agent in $PREFIX as it is: it is this version already"
  else say "  - install the agent into $PREFIX, for $PYTHON, from the server's own wheels; no other software is touched"; fi
  if enrolled && [ "$AGAIN" = no ]; then say "  - leave it enrolled as $(member device) (--again enrolls it anew)"
  else say "  - enroll it, and keep its key and settings in $STATE"; fi
  if installed && enrolled && [ "$AGAIN" = no ] && runs; then say "  - leave fleetward-agent.service running, if $UNIT is as this version has it"
  elif has_systemd; then say "  - write $UNIT, enable it and start it"
  else say "  - start nothing by itself: $([ "$SERVICE" = no ] && echo "--no-service" || echo "systemd does not run here")"; fi
  say "To undo: the same command with --uninstall in place of --token"
}

plan_removal() {
  say "Fleetward agent: on this machine ($(uname -n)) this will:"
  if [ "$SERVICE" = yes ] && [ -f "$UNIT" ]; then say "  - stop and remove the unit $UNIT"; fi
  if [ -e "$PREFIX" ]; then say "  - remove $PREFIX"; else say "  - find no agent in $PREFIX"; fi
  if ! [ -e "$STATE" ]; then say "  - find no key and no settings in $STATE"
  elif [ "$PURGE" = yes ]; then say "  - remove $STATE with the machine's key: it can then only enroll as a new device"
  else say "  - keep its key and settings in $STATE (--purge removes them)"; fi
  say "Files that configs have placed stay."
}

# --- installing -------------------------------------------------------------------------------------------------------------------

fetch() {
  "$PYTHON" - "$SERVER/install/wheels/$1" "$2" "$3" "$TEMP/ca.crt" <<'END'
import hashlib, ssl, sys, urllib.request
url, target, expected, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
handlers = [urllib.request.ProxyHandler({})] + ([urllib.request.HTTPSHandler(context=context)] if context else [])
try:
    content = urllib.request.build_opener(*handlers).open(url, timeout=60).read()
except OSError as error:
    sys.exit(f"install.sh: {url} can't be fetched: {error}")
if hashlib.sha256(content).hexdigest() != expected:
    sys.exit(f"install.sh: {url} is not what this script was made with: run it again")
with open(target, "wb") as file:
    file.write(content)
END
}

# Before anything is written: whether there is a wheel of everything for this Python on this machine, by the rules of the pip that will
# install them.
check_wheels() {
  if installed || [ -z "$PIP" ]; then return; fi
  fetch "$PIP" "$TEMP/$PIP" "$PIP_SHA256"
  # shellcheck disable=SC2086 # names of wheels, which have no spaces
  "$PYTHON" - "$TEMP/$PIP" "$WHEEL_PLATFORMS" "$NEEDED" $WHEELS <<'END' || exit 1
import platform, sys
pip, offered, needed, *wheels = sys.argv[1:]
sys.path.insert(0, pip)
try:
    from pip._vendor.packaging.tags import sys_tags
    from pip._vendor.packaging.utils import parse_wheel_filename
except ImportError:
    sys.exit()  # a pip that is made otherwise: it will say itself what does not fit
here, fits, versions = set(sys_tags()), set(), {}
for wheel in wheels:
    try:
        name, version, _, tags = parse_wheel_filename(wheel)
    except ValueError:
        continue  # pip takes it for no wheel either
    versions.setdefault(name, version)
    if tags & here:
        fits.add(name)
missing = [name for name in sorted(needed.split()) if name not in fits]
if not missing:
    sys.exit()
python = "%d.%d" % sys.version_info[:2]
machines = [tag.platform for tag in here]
machine = min((each.removeprefix("linux_") for each in machines if each.startswith("linux_")), default=platform.machine())
built = ["manylinux_2_39", "manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux2014", "musllinux_1_2", "musllinux_1_1"]
given = " ".join(f"--platform {each}_{machine}" for each in built if f"{each}_{machine}" in machines)
print(f"""install.sh: the server has no wheels for this machine of: {", ".join(missing)}
  this machine: CPython {python} on Linux {machine} with {" ".join(platform.libc_ver()) or "musl"}
  the server has them for: {offered}
Nothing was done. On the server, with the pip that Fleetward is installed with and its directory of wheels for DIRECTORY, this brings
them; then run this again. What is published for no such machine can be built on one (docs/enrollment.md, "Other platforms").
  pip download --only-binary=:all: --no-deps --python-version {python} {given} -d DIRECTORY {" ".join(f"{name}=={versions[name]}" for name in missing)}
Or use a Python that fits: --python PATH""", file=sys.stderr)
sys.exit(1)
END
}

install_agent() {
  if installed; then return; fi
  if [ -e "$PREFIX" ] && [ ! -f "$PREFIX/$MARK" ] && [ -n "$(ls -A "$PREFIX")" ]; then
    die "$PREFIX is there and is not ours: move it away, or choose another --prefix"
  fi
  # A running agent goes on with the version that it has loaded; each version has a directory of its own.
  home=$PREFIX/$(printf %s "$BUILD" | cut -c 1-16)
  rm -rf "$home"
  mkdir -p "$PREFIX"
  printf 'unfinished\n' >"$PREFIX/$MARK"
  if [ -n "$PIP" ]; then
    "$PYTHON" -m venv --without-pip "$home" </dev/null || die "$PYTHON can make no environment: install what it lacks (apt-get install python3-venv), then run this again"
    pip="$TEMP/$PIP/pip"
  else
    "$PYTHON" -m venv "$home" </dev/null || die "the server has no pip to give: install python3-venv here first"
    pip=$home/bin/pip
  fi
  certificate=
  case $SERVER in https:*) certificate="--cert $TEMP/ca.crt" ;; esac
  # shellcheck disable=SC2086 # two words, or none; mktemp makes no spaces
  if ! "$home/bin/python" "$pip" --isolated --disable-pip-version-check --no-cache-dir --quiet install --no-index $certificate \
    --find-links "$SERVER/install/wheels/" "fleetward-agent==$VERSION" </dev/null >"$TEMP/pip.log" 2>&1; then
    sed 's/^/  /' "$TEMP/pip.log" >&2
    die "the agent could not be installed: above is what pip says. The server's wheels are for: $WHEEL_PLATFORMS"
  fi
  mkdir -p "$PREFIX/bin"
  ln -sfn "$home/bin/fleetward-agent" "$PREFIX/bin/fleetward-agent"
  printf '%s %s\n' "$BUILD" "$PYTHON" >"$PREFIX/$MARK"
  CHANGED=yes
  say "installed: $PREFIX/bin/fleetward-agent"
}

enroll() {
  if enrolled && [ "$AGAIN" = no ]; then return; fi
  set -- --server "$SERVER" --state-dir "$STATE"
  [ -z "$CA_FINGERPRINT" ] || set -- "$@" --ca-fingerprint "$CA_FINGERPRINT"
  # In the environment, where no process list shows it.
  device=$(FLEETWARD_ENROLLMENT_TOKEN=$TOKEN "$PREFIX/bin/fleetward-agent" enroll "$@" </dev/null) || exit 1
  CHANGED=yes
  say "enrolled: $device"
}

start_service() {
  if ! has_systemd; then
    say "next: $PREFIX/bin/fleetward-agent run --state-dir $STATE"
    return
  fi
  before=$(cat "$UNIT" 2>/dev/null || true)
  "$PREFIX/bin/fleetward-agent" install --state-dir "$STATE" </dev/null >/dev/null
  [ "$before" = "$(cat "$UNIT")" ] || CHANGED=yes
  systemctl daemon-reload
  systemctl enable --quiet fleetward-agent.service
  if [ "$CHANGED" = yes ]; then
    systemctl restart fleetward-agent.service
    say "running: fleetward-agent.service"
  else
    systemctl start fleetward-agent.service
    say "nothing was changed; running: fleetward-agent.service"
  fi
  look
}

# It runs, but may it reach its broker, for example? Nothing of that is a reason to stop it: it goes on trying.
look() {
  doctor="$PREFIX/bin/fleetward-agent doctor --state-dir $STATE"
  trouble=$("$PREFIX/bin/fleetward-agent" doctor --state-dir "$STATE" </dev/null 2>/dev/null | sed -n 's/^FAIL/  FAIL/p')
  if [ -z "$trouble" ]; then say "nothing wrong is found by: $doctor"; return; fi
  say "$trouble"
  say "it goes on trying; look again by: $doctor"
}

remove_old_versions() {
  current=$(dirname "$(dirname "$(readlink "$PREFIX/bin/fleetward-agent")")")
  for each in "$PREFIX"/*/; do
    each=${each%/}
    case $each in "$current" | "$PREFIX/bin") ;; *) rm -rf "$each" ;; esac
  done
}

check_enrollment() {
  if enrolled && [ "$AGAIN" = no ]; then
    case $(member server) in
      "$SERVER" | "") ;;
      *) { [ -n "$CA_LINE" ] && grep -qF "$CA_LINE" "$STATE/ca.crt" 2>/dev/null; } ||
           die "this machine is enrolled with $(member server) as $(member device): remove it first (--uninstall --purge), or give --again" ;;
    esac
  elif [ -z "$TOKEN" ]; then
    misused "--token is needed to enroll: make one with \`fleetward token create\`, or on the server's page /enroll"
  fi
}

# --- removing ---------------------------------------------------------------------------------------------------------------------

uninstall() {
  if has_systemd && [ -f "$UNIT" ]; then
    systemctl disable --now --quiet fleetward-agent.service || true
  fi
  if [ "$SERVICE" = yes ] && [ -f "$UNIT" ]; then
    rm -f "$UNIT"
    if has_systemd; then systemctl daemon-reload; fi
  fi
  device=
  if enrolled; then device=$(member device); fi
  if [ -f "$PREFIX/$MARK" ]; then rm -rf "$PREFIX"; elif [ -e "$PREFIX" ]; then die "$PREFIX is not ours, and stays"; fi
  if [ "$PURGE" = yes ] && { [ -f "$STATE/device.key" ] || [ -f "$STATE/identity.json" ]; }; then rm -rf "$STATE"; fi
  say "removed"
  [ -z "$device" ] || say "On the server it is still known: fleetward delete host $device"
}

main() {
  read_options "$@"
  [ "$(uname -s)" = Linux ] || die "the agent runs on Linux; this is $(uname -s)"
  if [ "$ACTION" = uninstall ]; then
    plan_removal
    [ "$DRY_RUN" = no ] || exit 0
    need_root
    uninstall
    return
  fi
  find_python
  choose_build
  check_enrollment
  umask 022
  TEMP=$(mktemp -d)
  trap 'rm -rf "$TEMP"' EXIT
  printf '%s' "$CA_PEM" >"$TEMP/ca.crt"
  check_wheels
  plan
  [ "$DRY_RUN" = no ] || exit 0
  need_root
  install_agent
  enroll
  start_service
  remove_old_versions
}

main "$@"
