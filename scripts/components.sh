#!/bin/sh
# Installs the real components that some tests use, where apt and root are here; names the missing ones.
set -u
missing() {
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || echo pgbouncer
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || echo faketime
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
}
wanted=$(missing)
if [ -n "$wanted" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    # No service starts and no cluster is created: the tests start their own, on ports of their own.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -qq && for package in $wanted; do
        apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "$package" \
            >/dev/null 2>&1 || true
    done
fi
for package in $(missing); do
    echo "components: Debian's $package is not here; the tests that need it are left out"
done
