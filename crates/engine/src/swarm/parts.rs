//! What Docker Swarm needs in the image of a node.

use crate::parts::Parts;

/// Of Docker's packages and our own files.
pub(crate) const PARTS: Parts = Parts {
    // Docker has AppArmor confine containers where there is its parser (moby's `apparmor.HostSupports`).
    packages: &["docker.io", "docker-cli", "iptables", "apparmor"],
    // containerd's own command line, and what dockerd is told not to use.
    left_out: &[
        "/usr/bin/ctr",
        "/usr/bin/containerd-shim",
        "/usr/bin/containerd-shim-runc-v1",
        "/usr/sbin/docker-proxy",
    ],
    files: &[
        ("etc/systemd/system/docker.service", include_str!("../../../../images/swarm/docker.service")),
        ("etc/systemd/system/containerd.service", include_str!("../../../../images/swarm/containerd.service")),
        ("etc/docker/daemon.json", include_str!("../../../../images/swarm/daemon.json")),
        ("etc/containerd/config.toml", include_str!("../../../../images/swarm/containerd.toml")),
        ("etc/modules-load.d/swarm.conf", include_str!("../../../../images/swarm/modules.conf")),
    ],
    enabled: &[("multi-user.target.wants", "docker.service")],
    // It would compile a profile for every program that Debian has one for, and no node has: a hundred at each boot.
    masked: &["docker.socket", "apparmor.service"],
    data: &[("docker", "/var/lib/docker"), ("containerd", "/var/lib/containerd")],
};
