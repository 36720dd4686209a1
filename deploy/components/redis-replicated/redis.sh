#!/bin/sh
# Starts a server and its Sentinel, and keeps a server with an empty disk from becoming the primary that
# the others copy.
#
#     redis.sh sentinel     run the Sentinel
#     redis.sh server       run the server, when it is known which one is the primary
#     redis.sh primary      print the primary's name
#     redis.sh ready        fail unless the server is the primary or has all that the primary has
#     redis.sh hand-over    make another server the primary before this one stops
set -eu
umask 077

DATA=${DATA:-/data} CONFIG=${CONFIG:-/etc/valkey} USERS=${USERS:-/etc/valkey-users} RUN=${RUN:-/run/valkey}
NUMBER=${POD_NAME##*-}
PODS="${POD_NAME%-*}-0 ${POD_NAME%-*}-1 ${POD_NAME%-*}-2"

# Seconds that a hand-over may take. Stopping the server takes up to ten more.
HAND_OVER=20

main() {
    case $1 in
        sentinel) run_sentinel ;;
        server) run_server ;;
        primary) find_primary ;;
        ready) is_ready ;;
        hand-over) hand_over ;;
        *) say "there is no command $1" && exit 2 ;;
    esac
}

say() {
    echo "redis.sh: $*" >&2
}

# Send a command to HOST PORT. A host on a dead machine does not reply.
ask() {
    host=$1 port=$2
    shift 2
    password=$(cat "$USERS/sentinel-password")
    # Versions of valkey-cli differ in the variable that they read.
    VALKEYCLI_AUTH=$password REDISCLI_AUTH=$password timeout 2 \
        valkey-cli --user sentinel --no-auth-warning -e -h "$host" -p "$port" "$@"
}

# Print a field of the reply to SENTINEL MASTER, in which each name is a line before its value.
field() {
    printf '%s\n' "$reply" | sed -n "/^$1\$/{n;p;q;}"
}

# Print what each Sentinel knows: the epoch of the last failover, the primary, and how many other servers
# and Sentinels it has ever met.
ask_sentinels() {
    for pod in $PODS; do
        if reply=$(ask "$pod" 26379 sentinel master voting 2>/dev/null); then
            echo "$(field config-epoch) $(field ip) $(($(field num-slaves) + $(field num-other-sentinels)))"
        fi
    done
}

# Print the primary of the latest epoch in `known`, if a majority knows it.
agreed() {
    # shellcheck disable=SC2046 # count, epoch and name
    set -- $(echo "$known" | cut -d ' ' -f 1,2 | sort | uniq -c | sort -k 2,2nr | head -n 1)
    [ "$1" -lt 2 ] || echo "$3"
}

find_primary() {
    known=$(ask_sentinels)
    agreed
}

# Server and Sentinel are started with the settings of this version, whatever the disk says. The Sentinel's
# file keeps what it has learned.
run_sentinel() {
    file=$DATA/sentinel.conf
    learned='(monitor|current-epoch|config-epoch|leader-epoch|known-replica|known-sentinel)'
    # Without a file it need not know the primary: other Sentinels tell it of each later epoch.
    learned=$(grep -E "^sentinel $learned " "$file" 2>/dev/null) ||
        learned="sentinel monitor voting ${POD_NAME%-*}-0 6379 2"
    password=$(cat "$USERS/sentinel-password")
    {
        cat "$CONFIG/sentinel.conf"
        # A Sentinel that has lost its disk is the same one. As a fourth it would raise the majority.
        echo "sentinel myid $(printf %040x $((NUMBER + 1)))"
        echo "sentinel announce-ip $POD_NAME"
        # Apart, so that Sentinels do not all start an election at once.
        echo "sentinel down-after-milliseconds voting $((6500 + 500 * NUMBER))"
        printf 'sentinel %s\n' "auth-user voting sentinel" "auth-pass voting $password" \
            "sentinel-user sentinel" "sentinel-pass $password"
        echo "$learned"
    } >"$file.new"
    sync "$file.new"
    mv "$file.new" "$file"
    exec valkey-server "$file" --sentinel
}

run_server() {
    cat "$USERS/users.acl" "$USERS/replication.acl" >"$RUN/users.acl"
    printf 'masteruser replica\nmasterauth %s\n' "$(cat "$USERS/replica-password")" >"$RUN/replica.conf"
    said=
    while :; do
        known=$(ask_sentinels)
        primary=$(agreed)
        if [ -z "$primary" ]; then
            state="waiting for two Sentinels that know the same primary"
        elif [ "$primary" != "$POD_NAME" ]; then
            start --replicaof "$primary" 6379
        elif [ -e "$DATA/appendonlydir/appendonly.aof.manifest" ]; then
            start
        elif [ "$(echo "$known" | grep -c ' 0$')" = 3 ]; then
            say "first start: no Sentinel has met another server"
            start
        else
            # As long as a Sentinel is missing, this may also be the first start.
            state="the disk is empty: waiting until Sentinels choose another primary"
        fi
        [ "$state" = "$said" ] || say "$state"
        said=$state
        sleep 1
    done
}

start() {
    exec valkey-server "$CONFIG/replicated.conf" --replica-announce-ip "$POD_NAME" "$@"
}

# Succeed if the last INFO has this line.
has() {
    printf '%s\n' "$info" | tr -d '\r' | grep -qx "$1"
}

is_ready() {
    info=$(ask 127.0.0.1 6379 info replication persistence)
    # After a full synchronisation, writes are on disk only once the log has been rewritten.
    has role:master || {
        has master_link_status:up && has master_sync_in_progress:0 && has loading:0 &&
            has aof_rewrite_in_progress:0 && has aof_rewrite_scheduled:0
    }
}

# Coordinated: the primary takes no writes until the next one has all of them. A failover without that word
# may lose acknowledged votes while this server runs.
hand_over() {
    waited=0
    while [ "$waited" -lt "$HAND_OVER" ]; do
        info=$(ask 127.0.0.1 6379 info replication) || exit 0
        if has role:master; then
            # Refused while one is in progress, and until the Sentinel has seen a replica that follows.
            ask "$POD_NAME" 26379 sentinel failover voting coordinated || :
        else
            # The Sentinel of this pod may have to tell the others.
            primary=$(find_primary)
            [ -z "$primary" ] || [ "$primary" = "$POD_NAME" ] || exit 0
        fi
        sleep 1
        waited=$((waited + 1))
    done
    say "no other server has become the primary"
}

main "$@"
