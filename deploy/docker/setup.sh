#!/usr/bin/env bash
# After `docker compose up --build --wait`: makes the first operator and adds the
# tenant servers a and b. Run it again as you like; what is there stays.
#
# The operator's password is in .ouvira/compose/operator_password.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

dir=.ouvira/compose
email=${1:-operator@ouvira.example}
api=${OUVIRA_URL:-http://localhost:8080}/v1
[[ -s $dir/postgres_password ]] || { echo "Run deploy/docker/secrets.sh and docker compose up first." >&2; exit 1; }

headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
echo 'Content-Type: application/json' >"$headers"

# call METHOD PATH: the body comes on stdin and the token from a file, so that no
# secret is in an argument; prints the status on the first line, then the body.
call() {
  curl --silent --show-error --request "$1" --data @- --header "@$headers" --write-out '\n%{http_code}' "$api$2" |
    { mapfile -t lines; printf '%s\n' "${lines[-1]}" "${lines[@]:0:${#lines[@]}-1}"; }
}
status() { head -n 1 <<<"$1"; }
fail() { printf '%s failed:\n%s\n' "$1" "$2" >&2; exit 1; }

if [[ ! -s $dir/operator_password ]]; then
  (umask 077 && head -c 18 /dev/urandom | base64 | tr '+/' '-_' >"$dir/operator_password.new")
  docker compose run --rm -T ouvira operator create --email "$email" --password-stdin <"$dir/operator_password.new"
  mv "$dir/operator_password.new" "$dir/operator_password"
fi

answer=$(call POST /auth/login <<<"{\"email\":\"$email\",\"password\":\"$(<"$dir/operator_password")\"}")
[[ $(status "$answer") == 200 ]] || fail "The operator's login" "$answer"
sed -nE 's/.*"access_token": *"([^"]+)".*/Authorization: Bearer \1/p' <<<"$answer" >>"$headers"

for name in a b; do
  answer=$(call POST /servers <<<"{\"name\":\"$name\",\"url\":\"postgres://postgres:$(<"$dir/postgres_password")@pg-$name:5432/postgres?sslmode=disable\",\"capacity\":{\"databases\":500,\"connections\":160}}")
  case $(status "$answer") in
    201) echo "Server $name is added." ;;
    409) echo "Server $name is known." ;;
    *) fail "Adding the server $name" "$answer" ;;
  esac
done
echo "Operator $email, password in $dir/operator_password. Sign up a tenant: POST $api/signups."
