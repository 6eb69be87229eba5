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

# apt_install PACKAGE...: without starting any service that a package brings.
apt_install() {
  local policy=/usr/sbin/policy-rc.d ours="" status=0
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    ours=yes
  fi
  say "installing $*"
  {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$@" ||
      { apt-get -o DPkg::Lock::Timeout=300 update -qq &&
        apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$@"; }
  } >/dev/null || status=$?
  [[ -z $ours ]] || rm -f "$policy"
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

need_cargo() {
  command -v cargo >/dev/null && return 0
  [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" && return 0
  give_up "cargo is missing. Install Rust 1.95 or later and run this again."
}
