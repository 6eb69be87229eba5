# Finds or installs what the scripts need. Source it; it defines functions only.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# Ends the script with a message that says what to do.
give_up() {
  say "error: $*"
  exit 1
}

# The newest Postgres server binaries: prints their folder, or fails.
postgres_bin() {
  local candidate
  for candidate in "${LEKHIKA_PG_BIN:-}" \
    $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) \
    /opt/homebrew/opt/postgresql*/bin /Applications/Postgres.app/Contents/Versions/latest/bin \
    "$(dirname "$(command -v postgres 2>/dev/null || echo /nowhere/postgres)")"; do
    if [[ -n $candidate && -x $candidate/initdb && -x $candidate/postgres && -x $candidate/pg_ctl ]]; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

# RabbitMQ's own scripts, below the wrappers that insist on a certain user: prints their folder, or fails.
rabbitmq_sbin() {
  local candidate
  for candidate in "${LEKHIKA_RABBITMQ_SBIN:-}" \
    $(printf '%s\n' /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin | sort -rV) \
    /opt/homebrew/opt/rabbitmq/sbin; do
    if [[ -n $candidate && -x $candidate/rabbitmq-server ]]; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

can_install() { [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; }

# What Debian's packages ask before they start a service.
policy=/usr/sbin/policy-rc.d
policy_mark='# Made by a script of Lekhika while it installs something, process '

# Removes a policy that a killed run of ours left behind: with it no package would ever start its service again.
sweep_policy() {
  local pid
  pid=$(sed -n "s/^$policy_mark//p" "$policy" 2>/dev/null) || return 0
  if [[ -n $pid ]] && ! kill -0 "$pid" 2>/dev/null; then rm -f "$policy" || true; fi
}

# Removes the policy that this run made, if it did.
drop_policy() {
  trap - EXIT HUP INT TERM
  if [[ $(sed -n "s/^$policy_mark//p" "$policy" 2>/dev/null) == "$$" ]]; then rm -f "$policy"; fi
}

# apt_install PACKAGE...: without starting any service that a package brings.
apt_install() {
  local status=0
  sweep_policy
  if [[ ! -e $policy ]]; then
    trap drop_policy EXIT
    trap 'drop_policy; exit 129' HUP
    trap 'drop_policy; exit 130' INT
    trap 'drop_policy; exit 143' TERM
    printf '#!/bin/sh\n%s%s\nexit 101\n' "$policy_mark" "$$" >"$policy"
    chmod 755 "$policy"
  fi
  say "installing $*"
  {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$@" ||
      { apt-get -o DPkg::Lock::Timeout=300 update -qq &&
        apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$@"; }
  } >/dev/null || status=$?
  drop_policy
  return "$status"
}

# Postgres server binaries, installed if need be; no cluster is made and none is started.
need_postgres() {
  postgres_bin >/dev/null && return 0
  can_install || give_up "Postgres server binaries (initdb, postgres, pg_ctl) are missing. Install the package" \
    "'postgresql' (version 15 or later), or set LEKHIKA_PG_BIN to their folder, and run this again."
  mkdir -p /etc/postgresql-common
  [[ -e /etc/postgresql-common/createcluster.conf ]] ||
    printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
  apt_install postgresql || give_up "apt-get could not install 'postgresql'."
  postgres_bin >/dev/null || give_up "'postgresql' is installed, but its server binaries cannot be found."
}

# RabbitMQ, installed if need be, not started.
need_rabbitmq() {
  rabbitmq_sbin >/dev/null && return 0
  can_install || give_up "RabbitMQ is missing. Install the package 'rabbitmq-server' (3.10 or later) without starting" \
    "it, or set LEKHIKA_RABBITMQ_SBIN to the folder of rabbitmq-server, and run this again."
  apt_install rabbitmq-server || give_up "apt-get could not install 'rabbitmq-server'."
  rabbitmq_sbin >/dev/null || give_up "'rabbitmq-server' is installed, but its scripts cannot be found."
}

# Rust, and the C compiler that it links with (and that some of its crates are built with).
need_cargo() {
  sweep_policy
  if ! command -v cargo >/dev/null; then
    local home=${CARGO_HOME:-${HOME:-/nowhere}/.cargo}
    [[ -x $home/bin/cargo ]] || give_up "cargo is missing. Install Rust 1.95 or later and run this again."
    PATH="$home/bin:$PATH"
  fi
  if ! command -v cc >/dev/null; then
    can_install || give_up "a C compiler (cc) is missing: Rust links with it. Install gcc or clang and run this again."
    apt_install gcc libc6-dev || give_up "apt-get could not install 'gcc'."
  fi
}

# What comes with Rust, but not with every installation of it.
need_lints() {
  local tool missing=()
  for tool in fmt clippy; do
    cargo "$tool" --version >/dev/null 2>&1 || missing+=("${tool/#fmt/rustfmt}")
  done
  [[ ${#missing[@]} -eq 0 ]] ||
    give_up "${missing[*]} missing. Install with 'rustup component add ${missing[*]}' (or your system's packages) and run this again."
}
