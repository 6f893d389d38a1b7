#!/bin/sh
# Makes the secrets of the scaled profile in ./secrets, at random; what is there already stays as it is.
# Run it where compose.yaml is:  sh deploy/compose/secrets.sh
set -eu
umask 077
mkdir -p secrets

# Compose mounts a file as it is, and a server is no user of this machine: so all may read it, in a folder that is closed.
keep() {
    [ -e "secrets/$1" ] || { cat > "secrets/$1.new" && chmod 444 "secrets/$1.new" && mv "secrets/$1.new" "secrets/$1"; }
}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

random | keep postgres_password
random | keep simonides_password
[ -e secrets/cache_url ] || {
    password=$(random)
    printf 'redis://:%s@valkey:6379/0' "$password" | keep cache_url
    printf 'user default on #%s ~* &* +@all\n' "$(printf %s "$password" | sha256sum | cut -d' ' -f1)" | keep valkey_acl
}
printf 'postgresql://simonides:%s@postgres/simonides?sslmode=disable' "$(cat secrets/simonides_password)" | keep store_url
echo "secrets/ holds: $(ls secrets | tr '\n' ' ')"
