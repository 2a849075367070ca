#!/usr/bin/env bash
# DHCP, TFTP and HTTP of the head beside Kea, dnsmasq, tftpd-hpa, atftpd and nginx: the same wire (a pair of
# veth devices between two network namespaces), the same load, one server after the other in one run. Then
# a storm of simulated machines.
#
#   PARTS="dhcp tftp http storm"   what to measure
set -euo pipefail
cd "$(dirname "$0")/.."

# Everything happens in namespaces of its own, which take every process along when they end.
if [ -z "${INSIDE:-}" ]; then
    # The TFTP servers change their user: without root they need more than one.
    user=(--user --map-root-user --map-auto)
    [ "$(id -u)" = 0 ] && user=()
    exec env INSIDE=1 unshare "${user[@]}" --net --mount --pid --fork --mount-proc --kill-child "$0" "$@"
fi

parts=${PARTS:-dhcp tftp http storm}
bin=$PWD/target/x86_64-unknown-linux-musl/release
peers=$PWD/target/peers
load=$bin/bramble-load
work=$(mktemp -d)
trap 'stop; rm -rf "$work"' EXIT
head=10.64.0.1
server=

stop() {
    [ -z "$server" ] && return
    # Asked first: a master that is killed leaves its workers behind.
    kill -TERM "$server" 2>/dev/null || true
    for _ in $(seq 30); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# How servers are started: with `pin=(taskset -c 0)`, each on one core that it has to itself.
pin=()

# Starts a server in the background and keeps its process id.
serve() {
    "${pin[@]}" "$@" >"$work/server.log" 2>&1 &
    server=$!
}

ended=0
mark() { # NAME VALUE LEAST
    local verdict
    verdict=$(awk -v v="$2" -v t="$3" 'BEGIN {print (v >= t) ? "met" : "missed"}')
    [ "$verdict" = met ] || ended=1
    printf 'mark %-44s %8s   at least %s: %s\n' "$1" "$2" "$3" "$verdict"
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", (b > 0) ? a / b : 0}'; }

for device in null urandom; do
    : >>"$peers/dev/$device"
    mount --bind /dev/$device "$peers/dev/$device"
done

# The wire: the servers here, the load in a namespace of its own.
ip link set lo up
ip link add srv type veth peer name cli
unshare --net sleep infinity &
there=$!
sleep 0.2
ip link set cli netns "$there"
ip address add $head/16 dev srv
ip link set srv up
away() { nsenter --target "$there" --net -- "$@"; }
away ip link set lo up
away ip address add 10.64.255.254/16 dev cli
# Each TFTP client has an address of its own, as machines have.
for client in $(seq 200); do away ip address add 10.64.254.$client/16 dev cli; done
away ip link set cli up

# A cluster whose boot set is one layer of 200 MB.
repository=$work/repository
mkdir -p "$repository" "$work/www" "$work/tftp"
cat >"$repository/bramble.toml" <<END
[cluster]
name = "bench"
[network]
interface = "srv"
dhcp = "full"
subnet = "10.64.0.0/16"
pool = "10.64.1.0-10.64.200.255"
# perfdhcp asks as a relay with its own address.
relays = ["10.64.255.254"]
[roles.worker]
engine = "worker"
[nodes.n1]
mac = "52:54:00:00:00:01"
role = "worker"
END
head -c 200000000 /dev/urandom >"$work/www/layer"
digest=$(sha256sum <"$work/www/layer" | cut -d' ' -f1)
mkdir -p "$repository/.bramble/image/files" "$repository/.bramble/image/sets"
# The same file: how its pages lie in the cache decides much.
ln "$work/www/layer" "$repository/.bramble/image/files/$digest"
cp /usr/lib/ipxe/ipxe.efi "$work/tftp/ipxe.efi"

bramble() {
    (cd "$repository" && RUST_LOG=warn exec "${pin[@]}" "$bin/bramble" serve) >"$work/server.log" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        away bash -c "exec 3<>/dev/tcp/$head/7080" 2>/dev/null && return
        sleep 0.1
    done
    cat "$work/server.log" >&2
    exit 1
}

# ── DHCP ────────────────────────────────────────────────────────────────────────────────────────────

kea() {
    cat >"$peers/tmp/kea-bench.json" <<END
{ "Dhcp4": { "interfaces-config": { "interfaces": [ "srv" ], "dhcp-socket-type": "udp" },
  "lease-database": { "type": "memfile", "persist": true, "name": "/var/lib/kea/bench.csv", "lfc-interval": 0 },
  "valid-lifetime": 3600, "loggers": [ { "name": "kea-dhcp4", "severity": "ERROR", "output_options": [ { "output": "stderr" } ] } ],
  "subnet4": [ { "id": 1, "subnet": "10.64.0.0/16", "pools": [ { "pool": "10.64.1.0 - 10.64.200.255" } ] } ] } }
END
    mkdir -p "$peers/var/run/kea" "$peers/run/kea" "$peers/var/lib/kea"
    rm -f "$peers"/run/kea/*.pid "$peers"/var/lib/kea/bench.csv*
    serve chroot "$peers" kea-dhcp4 -c /tmp/kea-bench.json
    sleep 2
}

dnsmasq_dhcp() {
    rm -f "$peers/tmp/dnsmasq-bench.leases"
    serve chroot "$peers" dnsmasq --no-daemon --user=root --conf-file=/dev/null --port=0 --interface=srv --bind-interfaces --no-ping \
        --quiet-dhcp --dhcp-authoritative --dhcp-lease-max=60000 --dhcp-range=10.64.1.0,10.64.200.255,1h \
        --dhcp-leasefile=/tmp/dnsmasq-bench.leases
    sleep 1
}

# Whether four-way exchanges of 20,000 clients at this rate lose under 0.1 %, in one of two trials: a
# shared machine stalls now and then.
holds() { trial "$1" || trial "$1"; }
trial() {
    away taskset -c 1 chroot "$peers" perfdhcp -4 -l 10.64.255.254 -R 20000 -r "$1" -p 5 -W 1 $head >"$work/perfdhcp" 2>&1 || true
    awk -v rate="$1" '/drops:/ {drops += $2} /^sent packets:/ {sent += $3} /^received packets:/ {received += $3}
        END {exit !(sent > rate * 5 && drops <= sent * 0.001)}' "$work/perfdhcp"
}

# The highest rate that holds, to a twentieth.
highest() {
    local low=0 high=100
    while holds "$high"; do
        low=$high
        high=$((high * 2))
        [ "$high" -gt 200000 ] && break
    done
    while [ $((high - low)) -gt $((low / 20 + 5)) ]; do
        local middle=$(((low + high) / 2))
        if holds "$middle"; then low=$middle; else high=$middle; fi
    done
    echo "$low"
}

dhcp() {
    echo "DHCP: four-way exchanges a second, 20,000 clients, under 0.1 % drops; a core for the server, one for perfdhcp"
    # All clients share perfdhcp's one socket, which overflows while a server has its core.
    pin=(taskset -c 0)
    local ours kea dnsmasq
    bramble; ours=$(highest); stop
    printf '  bramble  %8s   (leases synced to disk before each answer)\n' "$ours"
    kea; kea=$(highest); stop
    printf '  Kea      %8s   (memfile, persisted, not synced)\n' "$kea"
    dnsmasq_dhcp; dnsmasq=$(highest); stop
    printf '  dnsmasq  %8s\n' "$dnsmasq"
    mark "DHCP, bramble / Kea" "$(ratio "$ours" "$kea")" 1.5
    mark "DHCP, bramble / dnsmasq" "$(ratio "$ours" "$dnsmasq")" 10
    pin=()
}

# ── TFTP ────────────────────────────────────────────────────────────────────────────────────────────

# Seconds of BLOCK WINDOW CLIENTS ROUNDS, the best of three.
seconds() { for _ in 1 2 3; do away "$load" tftp $head ipxe.efi "$@"; done | sort -n | head -1 | cut -d' ' -f1; }

tftp() {
    local size name
    size=$(stat -c %s "$work/tftp/ipxe.efi")
    echo "TFTP: ipxe.efi ($size bytes), blocks of 1468 bytes, MB/s: lock step; windows of 16; 200 clients at once"
    declare -A step window crowd
    for name in bramble tftpd-hpa atftpd dnsmasq; do
        case $name in
            bramble) bramble ;;
            tftpd-hpa) cp "$work/tftp/ipxe.efi" "$peers/tmp/"; serve chroot "$peers" /usr/sbin/in.tftpd --foreground --user root --address $head:69 --secure /tmp ;;
            atftpd) cp "$work/tftp/ipxe.efi" "$peers/tmp/"; serve chroot "$peers" /usr/sbin/atftpd --daemon --no-fork --user root.root --bind-address $head --maxthread 1000 /tmp ;;
            dnsmasq) cp "$work/tftp/ipxe.efi" "$peers/tmp/"; serve chroot "$peers" dnsmasq --no-daemon --user=root --conf-file=/dev/null --port=0 --interface=srv --bind-interfaces --enable-tftp --tftp-root=/tmp --tftp-max=1000 ;;
        esac
        sleep 1
        local rate='BEGIN {printf "%.1f", size * count / seconds / 1e6}'
        step[$name]=$(awk -v size="$size" -v count=20 -v seconds="$(seconds 1468 1 1 20)" "$rate")
        window[$name]=$(awk -v size="$size" -v count=20 -v seconds="$(seconds 1468 16 1 20)" "$rate")
        crowd[$name]=$(awk -v size="$size" -v count=200 -v seconds="$(seconds 1468 1 200 1)" "$rate")
        printf '  %-10s %8s %8s %8s\n' "$name" "${step[$name]}" "${window[$name]}" "${crowd[$name]}"
        stop
    done
    best() { printf '%s\n' "$@" | sort -n | tail -1; }
    mark "TFTP lock step, bramble / best peer" "$(ratio "${step[bramble]}" "$(best "${step[tftpd-hpa]}" "${step[atftpd]}" "${step[dnsmasq]}")")" 1
    mark "TFTP windows of 16, bramble / best peer" "$(ratio "${window[bramble]}" "$(best "${window[tftpd-hpa]}" "${window[atftpd]}" "${window[dnsmasq]}")")" 2
    mark "TFTP 200 clients, bramble / best peer" "$(ratio "${crowd[bramble]}" "$(best "${crowd[tftpd-hpa]}" "${crowd[atftpd]}" "${crowd[dnsmasq]}")")" 1
}

# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────

nginx() {
    cat >"$work/nginx.conf" <<END
daemon off; user root; worker_processes auto; pid $work/nginx.pid; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  server { listen $head:7080; root $work/www; } }
END
    cp "$work/nginx.conf" "$peers/tmp/nginx.conf"
    mkdir -p "$peers/$work"
    mount --bind "$work" "$peers/$work"
    serve chroot "$peers" nginx -c /tmp/nginx.conf
    sleep 1
}

# MB/s of CLIENTS, the best of three runs of five seconds.
megabytes() { for _ in 1 2 3; do away "$load" http "$1" "$2" 5; done | sort -n | tail -1 | awk '{printf "%.0f", $1 / 1e6}'; }

http() {
    echo "HTTP: a layer of 200 MB, MB/s: one client; 200 clients"
    declare -A one many
    bramble
    one[bramble]=$(megabytes "http://$head:7080/boot/files/$digest" 1)
    many[bramble]=$(megabytes "http://$head:7080/boot/files/$digest" 200)
    stop
    nginx
    one[nginx]=$(megabytes "http://$head:7080/layer" 1)
    many[nginx]=$(megabytes "http://$head:7080/layer" 200)
    stop
    for name in bramble nginx; do printf '  %-8s %8s %8s\n' "$name" "${one[$name]}" "${many[$name]}"; done
    mark "HTTP one client, bramble / nginx" "$(ratio "${one[bramble]}" "${one[nginx]}")" 0.95
    mark "HTTP 200 clients, bramble / nginx" "$(ratio "${many[bramble]}" "${many[nginx]}")" 0.95
}

# ── A boot storm ────────────────────────────────────────────────────────────────────────────────────

storm() {
    echo "Storm: ${MACHINES:-1000} machines powered on within 10 s; DHCP, script, kernel and initrd over HTTP"
    unshare --net "$load" storm "${MACHINES:-1000}" | sed 's/^/  /'
}

for part in $parts; do $part; done
exit "$ended"
