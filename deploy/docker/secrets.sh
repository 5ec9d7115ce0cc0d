#!/usr/bin/env bash
# Makes the passwords that docker-compose.yml mounts as secrets, in
# .ouvira/compose/. What is there stays: the databases know it already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

dir=.ouvira/compose
mkdir -p .ouvira
# The folder is closed to others, its files are not: Docker mounts them with
# their mode into containers whose users own nothing on this host.
(umask 077 && mkdir -p "$dir")

password() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; } # 192 bits, nothing to escape
keep() { # name, text
  [[ -s "$dir/$1" ]] && return
  printf '%s' "$2" >"$dir/$1.new" && chmod 0444 "$dir/$1.new" && mv "$dir/$1.new" "$dir/$1"
}

keep postgres_password "$(password)"
keep pgpass_superuser "*:5432:*:postgres:$(<"$dir/postgres_password")"$'\n'
keep pgpass_control "*:5432:*:ouvira_control:$(password)"$'\n'
keep pgpass_node "*:5432:*:ouvira_node:$(password)"$'\n'
echo "The passwords are in $dir. Next: docker compose up --build --wait"
