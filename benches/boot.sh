#!/usr/bin/env bash
# Power-on to Docker up: (a) bramble, (b) dnsmasq + iPXE + the same Debian root as one initramfs.
# One machine each, the same virtual hardware, one after the other, ROUNDS times (default 3).
# Then three machines of the example from power-on to the first served request.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-3}
bin=$PWD/target/x86_64-unknown-linux-musl/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=$(command -v python3)

median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
ended=0
mark() { # NAME VALUE TARGET
    local verdict
    verdict=$(awk -v v="$2" -v t="$3" 'BEGIN {print v <= t ? "met" : "missed"}')
    [ "$verdict" = met ] || ended=1
    printf 'mark %s %s %s %s\n' "$1" "$2" "$3" "$verdict"
}

# One node of the example, for (a).
one=$work/one
cp -r examples/first-light "$one"
rm -rf "$one/.bramble"
awk 'BEGIN {RS=""; ORS="\n\n"} !/^\[nodes\.w/' examples/first-light/bramble.toml >"$one/bramble.toml"
sed -i 's/replicas: 3/replicas: 1/' "$one/workloads/whoami.yaml"
"$bin/bramble" -C "$one" image build >/dev/null

# The same root as one initramfs, for (b): Debian's own units, an address by DHCP, and a line on
# the console when Docker is up.
digest=$("$bin/bramble" -C "$one" image inspect --json | jq -r '.manifest.layers[] | select(.name == "root").sha256')
kernel=$("$bin/bramble" -C "$one" image inspect --json | jq -r .manifest.kernel.sha256)
files=$one/.bramble/image/files
mkdir -p "$work/www" "$work/tftp"
unsquashfs -quiet -no-progress -no-xattrs -d "$work/root" "$files/$digest" >/dev/null
ln -s usr/lib/systemd/systemd "$work/root/init"
printf '[Match]\nType=ether\nKind=!*\n[Network]\nDHCP=ipv4\n' >"$work/root/etc/systemd/network/dhcp.network"
ln -sf /usr/lib/systemd/system/systemd-networkd.service "$work/root/etc/systemd/system/multi-user.target.wants/"
cat >"$work/root/etc/systemd/system/bench.service" <<'UNIT'
[Unit]
After=docker.service
Requires=docker.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo DOCKER-IS-UP >/dev/ttyS0'
UNIT
ln -s ../bench.service "$work/root/etc/systemd/system/multi-user.target.wants/bench.service"
# Debian's tiny-initramfs recipe leaves docker-proxy out; Docker's default would look for it.
mkdir -p "$work/root/etc/docker"
echo '{"userland-proxy": false}' >"$work/root/etc/docker/daemon.json"
(cd "$work/root" && find . -print0 | LC_ALL=C sort -z | cpio --null --quiet -o -H newc -R 0:0) | zstd -q -T0 -15 >"$work/www/initrd"
cp "$files/$kernel" "$work/www/kernel"
cat >"$work/www/boot.ipxe" <<'SCRIPT'
#!ipxe
kernel http://10.99.0.1:8000/kernel initrd=initrd quiet console=tty0 console=ttyS0,115200n8 net.ifnames=0
initrd http://10.99.0.1:8000/initrd
boot
SCRIPT
accelerator=(-accel "tcg,thread=multi,tb-size=256" -cpu Opteron_G3,-svm)
peer_once() {
    cat >"$work/peer.sh" <<INNER
set -e
ip link set lo up
ip link add lan type bridge stp_state 0 forward_delay 0
ip address add 10.99.0.1/24 dev lan
ip link set lan up
ip tuntap add dev tap0 mode tap
ip link set tap0 master lan up
dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=lan --bind-interfaces \
    --dhcp-range=10.99.0.50,10.99.0.60,1h --dhcp-leasefile=/dev/null --dhcp-option=175,8:1:1 \
    --dhcp-boot=http://10.99.0.1:8000/boot.ipxe --enable-ra --ra-param=lan,0,0 \
    --dhcp-range=::,constructor:lan,ra-only >"$work/dnsmasq.log" 2>&1 &
cd "$work/www" && "$python" -m http.server 8000 >/dev/null 2>&1 &
sleep 1
: >"$work/console"
date +%s%N >"$work/start"
# The arguments of crates/lab/src/machine.rs.
qemu-system-x86_64 ${accelerator[*]@Q} -machine q35,usb=off,vmport=off -nodefaults -display none -smp 1 -m 3072 \
    -serial file:"$work/console" -netdev tap,id=wire,ifname=tap0,script=no,downscript=no \
    -device virtio-net-pci,netdev=wire,mac=52:54:00:00:00:01,bootindex=1 -device virtio-rng-pci &
for _ in \$(seq 6000); do
    grep -q DOCKER-IS-UP "$work/console" && { date +%s%N >"$work/end"; exit 0; }
    sleep 0.1
done
tail -20 "$work/console" >&2
exit 1
INNER
    unshare --user --map-root-user --net --pid --fork --mount-proc --kill-child bash "$work/peer.sh"
    echo $(( ($(cat "$work/end") - $(cat "$work/start")) / 1000000 ))
}

echo "round  bramble: agent  Docker up  ready  | dnsmasq + iPXE + initramfs: Docker up   (seconds)"
: >"$work/a"; : >"$work/b"
for round in $(seq "$rounds"); do
    "$bin/bramble" -C "$one" lab up --check --json --limit 600 >"$work/report.json"
    read -r agent docker ready < <(jq -r '[.milestones.agent, .milestones.engine, .milestones.ready] | map(. / 1000) | @tsv' "$work/report.json")
    peer=$(awk -v ms="$(peer_once)" 'BEGIN {print ms / 1000}')
    printf '%5s  %14s  %9s  %5s  | %s\n' "$round" "$agent" "$docker" "$ready" "$peer"
    echo "$docker" >>"$work/a"; echo "$peer" >>"$work/b"
done
jq -r '"\nphases of bramble, last round:", (.phases[] | "  \(.phase)  \(.median / 1000) s")' "$work/report.json"
a=$(median <"$work/a"); b=$(median <"$work/b")
echo; echo "three nodes:"
"$bin/bramble" -C examples/first-light lab up --check --json --limit 900 >"$work/three.json"
jq -r '(.phases[] | "  \(.phase)  min \(.min / 1000)  median \(.median / 1000)  max \(.max / 1000) s")' "$work/three.json"
set_json=$("$bin/bramble" -C examples/first-light image inspect --json)
echo
mark boot-ratio "$(awk -v a="$a" -v b="$b" 'BEGIN {printf "%.2f", a / b}')" 0.6
mark three-nodes-first-request-seconds "$(jq '.first_answer / 1000' "$work/three.json")" 60
mark kernel-and-initrd-megabytes "$(jq '(.manifest.kernel.size + .manifest.initrd.size) / 1e6' <<<"$set_json")" 30
mark payload-megabytes "$(jq '[.manifest.kernel.size, .manifest.initrd.size, .manifest.layers[].size] | add / 1e6' <<<"$set_json")" 180
mark agent-resident-megabytes "$(jq '.agent_resident / 1e6' "$work/three.json")" 15
mark head-resident-megabytes "$(jq '.head_resident / 1e6' "$work/three.json")" 40
exit "$ended"
