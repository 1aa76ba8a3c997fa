#!/usr/bin/env bash
# Installs everything the project needs on a Debian 12 or 13 machine and makes
# .venv. Idempotent: a second run finds everything in place and takes seconds.
#
# usage: tools/setup.sh [--force]
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${STAMP_VENV:-$ROOT/.venv}
LOG=${STAMP_SETUP_LOG:-/var/log/srv6-stamp-setup.log}
SOURCES=/etc/apt/sources.list.d/srv6-stamp-trixie.sources
PINNING=/etc/apt/apt.conf.d/99srv6-stamp-default-release

BASE_PACKAGES=(
    python3-dev python3-venv python3-bpfcc gcc libc6-dev pkg-config
    iproute2 ethtool procps openssh-server openssh-client ca-certificates
    tcpdump # brings libpcap, with which Scapy compiles BPF filters
)
# The C libraries that the pinned Python bindings are compiled against.
STACK_PACKAGES=(sysrepo libsysrepo-dev libyang-dev libyang3-tools libnetconf2-dev)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

run() {
    # Package managers are talkative: their output goes to the log, and its
    # tail is shown when they fail.
    printf '\n# %s\n' "$*" >>"$LOG"
    "$@" >>"$LOG" 2>&1 || {
        tail -n 25 "$LOG" >&2
        die "'$1 ${2-}' failed; the whole output is in $LOG"
    }
}

installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed |
        grep -qx "$#"
}

require_debian() {
    [ "$(id -u)" = 0 ] || die "run me as root (network namespaces and apt need it)"
    [ -r /etc/os-release ] || die "/etc/os-release is missing: is this Debian?"
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "${ID:-}" = debian ] || die "Debian 12 or newer is needed, this is ${PRETTY_NAME:-unknown}"
    [ "${VERSION_ID:-99}" -ge 12 ] || die "Debian 12 or newer is needed, this is $PRETTY_NAME"
    CODENAME=${VERSION_CODENAME:?}
}

debian_mirror() {
    # The repository this machine already uses for its own release.
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v codename="$1" '$2 == codename { print $1; exit }'
}

add_trixie() {
    # sysrepo and libyang 3 are in trixie and trixie-backports. On Debian 12
    # the machine's own release stays the default; what these packages depend
    # on (libc6 above all) comes from trixie.
    local mirror suites
    case "$CODENAME" in
        bookworm) suites="trixie trixie-backports" ;;
        trixie) suites="trixie-backports" ;;
        *) return 0 ;;
    esac
    mirror=$(debian_mirror "$CODENAME")
    if [ -z "$mirror" ]; then
        run apt-get update
        mirror=$(debian_mirror "$CODENAME")
    fi
    [ -n "$mirror" ] || die "apt knows no repository for $CODENAME; check /etc/apt/sources.list"
    if [ -z "$(debian_mirror trixie-backports)" ]; then
        say "adding $suites from the repository this machine uses"
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
            "$mirror" "$suites" /usr/share/keyrings/debian-archive-keyring.gpg >"$SOURCES"
    fi
    if [ "$CODENAME" = bookworm ] && [ ! -e "$PINNING" ]; then
        printf 'APT::Default-Release "/^bookworm(|-security|-updates)$/";\n' >"$PINNING"
    fi
}

keep_sshd_stopped() {
    # Only the lab starts sshd, inside its own namespaces: installing the
    # package must not open port 22 on the machine.
    if [ -d /run/systemd/system ]; then
        run systemctl disable --now ssh.service ssh.socket
    fi
}

kernel_headers() {
    # bcc compiles against them. A kernel that Debian did not package takes those
    # of Debian's own kernel.
    local own wanted
    own=linux-headers-$(uname -r)
    wanted=linux-headers-$(dpkg --print-architecture)
    if [ -d "/lib/modules/$(uname -r)/build/include/linux" ] || installed "$wanted"; then
        return
    fi
    if apt-cache show "$own" >>"$LOG" 2>&1; then wanted=$own; fi
    printf '%s\n' "$wanted"
}

install_packages() {
    if installed "${BASE_PACKAGES[@]}" "${STACK_PACKAGES[@]}" && [ -z "$(kernel_headers)" ]; then
        say "Debian packages: already installed"
        return
    fi
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    add_trixie
    say "Debian packages: updating the lists"
    run apt-get update
    local had_sshd=yes
    installed openssh-server || had_sshd=no
    local base=("${BASE_PACKAGES[@]}" $(kernel_headers))
    say "Debian packages: ${base[*]}"
    run apt-get install -y --no-install-recommends "${base[@]}"
    [ "$had_sshd" = yes ] || keep_sshd_stopped
    say "Debian packages: ${STACK_PACKAGES[*]}"
    case "$CODENAME" in
        bookworm | trixie)
            run apt-get install -y --no-install-recommends -t trixie-backports "${STACK_PACKAGES[@]}" ;;
        *) run apt-get install -y --no-install-recommends "${STACK_PACKAGES[@]}" ;;
    esac
}

make_venv() {
    local stamp wanted
    stamp=$VENV/.srv6-stamp-installed
    wanted=$(cat "$ROOT/pyproject.toml" "$ROOT/tools/constraints.txt" "${BASH_SOURCE[0]}" | sha256sum)
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted$ROOT" ]; then
        say "$VENV: already up to date"
        return
    fi
    say "$VENV: making the virtual environment"
    [ -x "$VENV/bin/python" ] || run /usr/bin/python3 -m venv --system-site-packages "$VENV"
    local pip=("$VENV/bin/python" -m pip install --quiet -c "$ROOT/tools/constraints.txt")
    run "${pip[@]}" setuptools wheel cffi
    # sysrepo's build imports libyang: the order matters, and neither build may
    # pick other versions in an isolated environment.
    say "$VENV: compiling the libyang and sysrepo bindings"
    run "${pip[@]}" --no-build-isolation --no-binary libyang libyang
    run "${pip[@]}" --no-build-isolation --no-binary sysrepo sysrepo
    say "$VENV: installing the project and its tools"
    run "${pip[@]}" --no-build-isolation -e "$ROOT[dev]"
    "$VENV/bin/python" -c 'import bcc, libyang, sysrepo' ||
        die "the bindings do not import; see $LOG"
    printf '%s' "$wanted$ROOT" >"$stamp"
}

main() {
    case "${1-}" in
        "") ;;
        --force) rm -f "$VENV/.srv6-stamp-installed" ;;
        *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
    esac
    require_debian
    : >"$LOG"
    install_packages
    make_venv
    say "done"
}

main "$@"
