#!/bin/sh
# A private Postgres server on a Unix socket, for the tests and the demo.
#
#   tests/cluster.sh start DIR [postgres -c options]   start the server; create it if it does not exist
#   tests/cluster.sh stop DIR                          stop the server
#   tests/cluster.sh run DIR COMMAND...                run a command with PGHOST, PGUSER and
#                                                      PGDATABASE set to the server's
#
# DIR holds the data (DIR/data), the socket and the log (DIR/data/server.log). Postgres refuses to run
# as root, so a server that root starts runs as the user postgres, which Debian's package creates.
set -eu

action=$1
dir=$2
shift 2
# With these variables, errors have a backtrace as DETAIL, and output would not equal the expected output.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
bindir=$("${PG_CONFIG:-pg_config}" --bindir)

as_owner() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

case $action in
start)
    if [ -L "$dir" ]; then
        echo "$dir is a symbolic link" >&2
        exit 1
    fi
    # Every user who can open the socket is a superuser of this server, so only its owner and root can.
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ]; then chown -h postgres "$dir"; fi
    chmod 700 "$dir"
    if [ ! -e "$dir/data/PG_VERSION" ]; then
        as_owner "$bindir/initdb" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 \
            --locale=C.UTF-8 ${INITDB_OPTIONS:-} >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log"; exit 1; }
    fi
    if ! as_owner "$bindir/pg_ctl" -D "$dir/data" status >/dev/null 2>&1; then
        options="-c listen_addresses='' -c unix_socket_directories='$dir' $*"
        (cd "$dir" && as_owner "$bindir/pg_ctl" -D "$dir/data" -w -l "$dir/data/server.log" \
            -o "$options" start >/dev/null) || { tail -n 20 "$dir/data/server.log"; exit 1; }
    fi
    ;;
stop)
    if as_owner "$bindir/pg_ctl" -D "$dir/data" status >/dev/null 2>&1; then
        (cd "$dir" && as_owner "$bindir/pg_ctl" -D "$dir/data" -m fast -w stop >/dev/null)
    fi
    ;;
run)
    PGHOST=$dir PGUSER=postgres PGDATABASE=${PGDATABASE:-postgres} PATH=$bindir:$PATH
    export PGHOST PGUSER PGDATABASE PATH
    exec "$@"
    ;;
*)
    echo "unknown action: $action" >&2
    exit 2
    ;;
esac
