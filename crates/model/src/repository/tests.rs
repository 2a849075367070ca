use std::path::Path;

use super::*;

const GOOD: &str = r#"[cluster]
name = "first-light"

[network]
interface = "eth0"
dhcp = "full"
subnet = "10.77.0.0/24"
pool = "10.77.0.100-10.77.0.199"

[image]
packages = ["nfs-common"]

[roles.manager]
engine = "manager"

[roles.worker]
engine = "worker"

[nodes.m1]
mac = "52:54:00:00:00:01"
role = "manager"
address = "10.77.0.11"

[nodes.w1]
mac = ["52:54:00:00:00:02", "52:54:00:00:00:03"]
role = "worker"

[workloads.whoami]
path = "workloads/whoami.yaml"
"#;

fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let workloads = folder.path().join("workloads");
    std::fs::create_dir(&workloads).expect("a folder");
    std::fs::write(workloads.join("whoami.yaml"), "services:\n  whoami:\n    image: whoami:1\n").expect("a file");
    let host = "services:\n  probe:\n    image: a\n    networks: [outside]\nnetworks:\n  outside: { external: true, name: host }\n";
    std::fs::write(workloads.join("host.yaml"), host).expect("a file");
    let swarm = "services:\n  gossip:\n    image: a\n    ports: ['80:80', '7946:80']\n";
    std::fs::write(workloads.join("swarm.yaml"), swarm).expect("a file");
    std::fs::write(workloads.join("empty.yaml"), "services: {}\n").expect("a file");
    std::fs::write(workloads.join("torn.yaml"), "services: [\n").expect("a file");
    folder
}

fn load(text: &str) -> Result<Cluster, Problems> {
    let folder = repository();
    Cluster::parse(folder.path(), Path::new(FILE), text)?.well()
}

#[test]
fn of_a_long_line_is_shown_what_is_around_its_place() {
    let list = |name: &str| format!("[{}\"{name}\"{}]", "\"curl\", ".repeat(5000), ", \"bash\"".repeat(5000));
    let shown = [
        check("[\"nfs-common\"]", &list("Größe?")),
        check("\"52:54:00:00:00:01\"", &format!("\"{}\"", "5".repeat(100_000))),
        check("[image]", &format!("# {}\n[imag", "größer ".repeat(1000))),
        check("packages =", &format!("{} =", "k".repeat(100_000))),
    ];
    for line in shown.iter().flat_map(|shown| shown.lines()) {
        assert!(line.chars().count() < 140, "{line}");
    }
    insta::assert_snapshot!(shown.join("\n"));
}

/// What `bramble check` prints for the good repository with `from` replaced by `to`.
fn check(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good repository has no {from:?}");
    match load(&GOOD.replacen(from, to, 1)) {
        Ok(cluster) if cluster.warnings.0.is_empty() => panic!("{to:?} was accepted"),
        Ok(cluster) => cluster.warnings.render(false),
        Err(problems) => problems.render(false),
    }
}

macro_rules! golden {
    ($($name:ident: $from:expr => $to:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(check($from, $to));
        }
    )*};
}

golden! {
    a_data_partition_by_another_name_than_its_guid: "address = \"10.77.0.11\"" => "data = \"bramble-data\"";
    one_data_partition_for_two_nodes: "role = \"manager\"\naddress = \"10.77.0.11\"\n\n[nodes.w1]" =>
        "role = \"manager\"\ndata = \"0fc63daf-8483-4772-8e79-3d69d8477de4\"\n\n[nodes.w1]\ndata = \"0FC63DAF-8483-4772-8E79-3D69D8477DE4\"";
    unknown_key_near_miss: "packages" => "packges";
    unknown_key_far_off: "packages =" => "colour =";
    unknown_section: "[image]" => "[imag]";
    unknown_key_in_a_node: "role = \"worker\"" => "role = \"worker\"\nadress = \"10.77.0.12\"";
    syntax_error: "[image]" => "[image";
    wrong_type: "[\"nfs-common\"]" => "\"nfs-common\"";
    wrong_type_of_mac: "\"52:54:00:00:00:01\"" => "5254";
    missing_key: "role = \"worker\"\n" => "";
    missing_section: "[network]\ninterface = \"eth0\"\ndhcp = \"full\"\nsubnet = \"10.77.0.0/24\"\npool = \"10.77.0.100-10.77.0.199\"\n" => "";
    duplicate_mac: "52:54:00:00:00:02" => "52:54:00:00:00:01";
    duplicate_mac_in_one_node: "52:54:00:00:00:03" => "52-54-00-00-00-02";
    duplicate_node: "[nodes.w1]" => "[nodes.m1]";
    duplicate_address: "role = \"worker\"" => "role = \"worker\"\naddress = \"10.77.0.11\"";
    malformed_mac: "52:54:00:00:00:01" => "52:54:00:00:01";
    group_mac: "52:54:00:00:00:01" => "01:54:00:00:00:01";
    no_mac: "[\"52:54:00:00:00:02\", \"52:54:00:00:00:03\"]" => "[]";
    unknown_role: "role = \"worker\"" => "role = \"wroker\"";
    role_without_engine_part: "[roles.worker]\nengine = \"worker\"" => "[roles.worker]";
    engine_and_engines_of_a_role: "engine = \"worker\"" => "engine = \"worker\"\nengines = { swarm = \"worker\" }";
    unknown_engine_of_a_role: "engine = \"worker\"" => "engines = { swram = \"worker\" }";
    unknown_part_of_several: "engine = \"worker\"" => "engines = { swarm = \"follower\" }";
    unknown_engine_part: "engine = \"worker\"" => "engine = \"follower\"";
    docker_of_a_role_without_the_swarm: "engine = \"worker\"" => "engine = \"none\"\nuserns_remap = true\nno_new_privileges = false";
    service_on_the_hosts_network_where_all_remap: "path = \"workloads/whoami.yaml\"" => "path = \"workloads/host.yaml\"\n[engine]\nuserns_remap = true";
    service_on_the_hosts_network_where_some_remap: "engine = \"worker\"\n\n[nodes.m1]" => "engine = \"worker\"\nuserns_remap = true\n\n[workloads.host]\npath = \"workloads/host.yaml\"\n\n[nodes.m1]";
    service_on_the_hosts_network_behind_the_firewall: "whoami.yaml" => "host.yaml";
    workload_that_publishes_a_port_of_the_swarm: "whoami.yaml" => "swarm.yaml";
    port_of_the_swarm_that_the_firewall_opens: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\", \"7946/udp\"]\n\n[roles.manager]";
    unknown_key_of_the_firewall: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\"]\nform = [\"nodes\"]\n\n[roles.manager]";
    malformed_port_of_the_firewall: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\", \"81\"]\n\n[roles.manager]";
    malformed_source_of_the_firewall: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\"]\nfrom = [\"nodse\"]\n\n[roles.manager]";
    network_of_the_firewall_with_bits_behind_its_prefix: "[roles.manager]" => "[firewall]\nssh = [\"10.77.0.1/24\"]\n\n[roles.manager]";
    unknown_role_of_the_firewall: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\"]\nroles = [\"wroker\"]\n\n[roles.manager]";
    unknown_node_of_the_firewall: "[roles.manager]" => "[firewall.open.web]\nports = [\"80/tcp\"]\nnodes = [\"w2\"]\n\n[roles.manager]";
    firewall_that_opens_nothing_to_nobody: "[roles.manager]" => "[firewall.open.web]\nports = []\nfrom = []\n\n[roles.manager]";
    unknown_engine: "[image]" => "[engine]\nkind = \"swam\"\n\n[image]";
    absent_workload_file: "whoami.yaml" => "whoami.yml";
    workload_outside_the_repository: "workloads/whoami.yaml" => "../whoami.yaml";
    workload_without_services: "whoami.yaml" => "empty.yaml";
    workload_that_is_not_yaml: "whoami.yaml" => "torn.yaml";
    workloads_without_a_manager: "engine = \"manager\"" => "engine = \"worker\"";
    even_number_of_managers: "engine = \"worker\"" => "engine = \"manager\"";
    no_nodes: &GOOD[GOOD.find("[nodes.m1]").expect("m1")..] => "";
    pool_outside_the_subnet: "10.77.0.199" => "10.77.1.199";
    pool_backwards: "10.77.0.100-10.77.0.199" => "10.77.0.199-10.77.0.100";
    pool_malformed: "10.77.0.100-10.77.0.199" => "10.77.0.100/28";
    full_dhcp_without_a_pool: "pool = \"10.77.0.100-10.77.0.199\"\n" => "";
    proxy_dhcp_with_a_pool: "\"full\"" => "\"proxy\"";
    the_routers_dhcp_with_a_pool: "\"full\"" => "\"router\"";
    proxy_dhcp_with_a_subnet: "\"full\"\nsubnet = \"10.77.0.0/24\"\npool = \"10.77.0.100-10.77.0.199\"\n" => "\"proxy\"\nsubnet = \"10.77.0.0/24\"\n";
    unknown_dhcp_mode: "\"full\"" => "\"ful\"";
    subnet_malformed: "10.77.0.0/24" => "10.77.0.0";
    subnet_with_host_bits: "10.77.0.0/24" => "10.77.0.7/24";
    address_outside_the_subnet: "10.77.0.11" => "10.78.0.11";
    address_of_the_subnet_itself: "10.77.0.11" => "10.77.0.255";
    pool_smaller_than_the_nodes: "10.77.0.100-10.77.0.199" => "10.77.0.100-10.77.0.100";
    relay_malformed: "interface =" => "relays = [\"10.77.0.1\", \"attic\"]\ninterface =";
    relay_that_is_everyone: "interface =" => "relays = [\"255.255.255.255\"]\ninterface =";
    address_malformed: "10.77.0.11" => "10.77.0.256";
    address_of_the_router: "interface =" => "router = \"10.77.0.11\"\ninterface =";
    interface_too_long: "\"eth0\"" => "\"enp0s31f6-uplink\"";
    same_port_twice: "interface =" => "http_port = 7443\ninterface =";
    cluster_name_not_a_host_name: "\"first-light\"" => "\"First Light\"";
    node_name_not_a_host_name: "[nodes.w1]" => "[nodes.W_1]";
    domain_malformed: "name = \"first-light\"" => "name = \"first-light\"\ndomain = \"home..arpa\"";
    private_ssh_key: "name = \"first-light\"" => "name = \"first-light\"\nssh_keys = [\"-----BEGIN OPENSSH PRIVATE KEY-----\"]";
    package_name_malformed: "nfs-common" => "NFS common";
    unknown_suite: "[image]" => "[image]\nsuite = \"trixy\"";
    absent_overlay: "[image]" => "[image]\noverlay = \"overlay/\"";
    too_little_memory: "role = \"worker\"" => "role = \"worker\"\nlab = { memory = 256 }";
    check_of_an_unknown_workload: "[image]" => "[lab]\ncheck = { workload = \"whoam\", port = 80 }\n\n[image]";
    lease_too_short: "interface =" => "lease_seconds = 5\ninterface =";
    source_whose_host_is_an_option: "[image]" => "[source]\ngit = '-oProxyCommand=touch@host:path'\n\n[image]";
    source_whose_host_behind_a_name_is_an_option: "[image]" => "[source]\ngit = 'git@-oProxyCommand=x:path'\n\n[image]";
    source_over_ssh_whose_host_is_none: "[image]" => "[source]\ngit = 'git@[::1:path'\n\n[image]";
    source_over_ssh_without_a_path: "[image]" => "[source]\ngit = 'ssh://git@git.home.arpa'\n\n[image]";
    source_whose_port_is_none: "[image]" => "[source]\ngit = 'ssh://git@git.home.arpa:70000/ann/home.git'\n\n[image]";
    source_over_https_whose_port_is_none: "[image]" => "[source]\ngit = 'https://git.home.arpa:0x50/home.git'\n\n[image]";
    source_of_a_kind_that_is_not_followed: "[image]" => "[source]\ngit = 'git://git.home.arpa/home.git'\n\n[image]";
    source_with_a_token_in_its_address: "[image]" => "[source]\ngit = 'https://s3cret@git.home.arpa/home.git'\n\n[image]";
    source_with_a_token_over_ssh: "[image]" => "[source]\ngit = 'git@git.home.arpa:home.git'\ntoken_file = '/etc/token'\n\n[image]";
    source_with_a_token_in_the_clear: "[image]" => "[source]\ngit = 'http://git.home.arpa/home.git'\ntoken_file = '/etc/token'\n\n[image]";
    source_whose_branch_is_head: "[image]" => "[source]\ngit = '/srv/home.git'\nbranch = 'HEAD'\n\n[image]";
    source_whose_branch_git_refuses: "[image]" => "[source]\ngit = '/srv/home.git'\nbranch = 'ann/x.lock'\n\n[image]";
    source_whose_path_leads_out: "[image]" => "[source]\ngit = '/srv/home.git'\npath = 'clusters/../..'\n\n[image]";
    source_whose_path_is_gits_own: "[image]" => "[source]\ngit = '/srv/home.git'\npath = '.git/x'\n\n[image]";
    source_whose_signer_is_a_fingerprint: "[image]" => "[source]\ngit = '/srv/home.git'\nsigners = ['0123456789ABCDEF0123456789ABCDEF01234567']\n\n[image]";
    copy_of_the_audit_log_in_no_file: "[image]" => "[audit]\nfile = 'audit.log'\n\n[image]";
    copy_of_the_audit_log_by_tcp: "[image]" => "[audit]\nsyslog = 'tcp://log.home.arpa:514'\n\n[image]";
    copy_of_the_audit_log_to_a_port_that_is_none: "[image]" => "[audit]\nsyslog = 'udp://log.home.arpa:x'\n\n[image]";
    source_that_is_looked_at_too_often: "[image]" => "[source]\ngit = '/srv/home.git'\nevery = '1s'\n\n[image]";
}

#[test]
fn a_service_on_the_hosts_network_is_no_matter_where_something_is_opened_for_its_nodes() {
    for (section, is_told) in [
        ("[firewall]\nenabled = false\n", false),
        ("[firewall.open.a]\nports = [\"9100/tcp\"]\n", false),
        ("[firewall.open.a]\nports = [\"9100/tcp\"]\nroles = [\"worker\"]\n", false),
        ("[firewall.open.a]\nports = [\"9100/tcp\"]\nroles = [\"idle\"]\n", true),
    ] {
        let idle = "[roles.idle]\nengine = \"none\"\n";
        let text = GOOD.replace("whoami.yaml", "host.yaml").replace("[image]", &format!("{section}{idle}[image]"));
        let told = load(&text).expect("valid").warnings.to_string();
        assert_eq!(told.contains("the firewall lets in nothing for it"), is_told, "{section}: {told}");
    }
}

#[test]
fn several_problems_are_told_at_once_in_the_order_of_the_file() {
    let text =
        GOOD.replace("nfs-common", "NFS").replace("10.77.0.11", "10.99.0.1").replace("\"worker\"\n\n[w", "\"x\"\n\n[w");
    insta::assert_snapshot!(load(&text).expect_err("three problems").render(false));
}

#[test]
fn a_missing_repository_says_how_to_make_one() {
    let problems = Cluster::check(Path::new("no-such-folder")).expect_err("nothing there");
    insta::assert_snapshot!(problems.render(false));
}

#[test]
fn a_role_may_say_its_part_in_each_engine() {
    let text = GOOD.replace("engine = \"manager\"", "engines = { swarm = \"manager\" }");
    let text = text.replace("engine = \"worker\"", "engines = { swarm = \"none\" }");
    let cluster = load(&text).expect("valid");
    let part = |name: &str| cluster.nodes[&name.parse::<Name>().expect("a name")].part(EngineKind::Swarm);
    assert_eq!((part("m1"), part("w1")), (EnginePart::Manager, EnginePart::None));
    assert_eq!(cluster.engines().into_iter().collect::<Vec<_>>(), [EngineKind::Swarm]);
}

#[test]
fn the_good_repository_has_no_problems_and_its_defaults() {
    let cluster = load(GOOD).expect("valid");
    assert!(cluster.warnings.0.is_empty(), "{}", cluster.warnings);
    assert_eq!(cluster.domain, "home.arpa");
    assert_eq!(cluster.image.suite, "trixie");
    assert_eq!(cluster.network.http_port, 7080);
    assert_eq!(cluster.managers(EngineKind::Swarm).map(Name::as_str).collect::<Vec<_>>(), ["m1"]);
    let second_card = "52:54:00:00:00:03".parse().expect("a MAC");
    assert_eq!(cluster.node_of(second_card).map(|(name, _)| name.as_str()), Some("w1"));
}

#[test]
fn a_subnets_relays_are_those_that_it_names_or_its_router() {
    let subnets = "[network.subnets.attic]\nsubnet = \"10.78.0.0/24\"\npool = \"10.78.0.100-10.78.0.199\"\n\
                   router = \"10.78.0.1\"\n\n[network.subnets.barn]\nsubnet = \"10.79.0.0/24\"\n\
                   pool = \"10.79.0.100-10.79.0.199\"\nrouter = \"10.79.0.1\"\nrelays = [\"10.99.0.1\"]\n\n[image]";
    let relays = |text: String| -> Vec<Vec<String>> {
        let network = load(&text).expect("valid").network;
        let Dhcp::Full(subnets) = network.dhcp else {
            return vec![network.relays.iter().map(ToString::to_string).collect()];
        };
        subnets.iter().map(|subnet| subnet.relays.iter().map(ToString::to_string).collect()).collect()
    };
    let text = GOOD.replace("[image]", subnets).replace("interface =", "router = \"10.77.0.254\"\ninterface =");
    assert_eq!(relays(text), [vec![], vec!["10.78.0.1"], vec!["10.99.0.1"]], "the wire's own router relays nothing");
    let proxy = "\"proxy\"\nrelays = [\"10.88.0.1\"]\n";
    let text = GOOD.replace("\"full\"\nsubnet = \"10.77.0.0/24\"\npool = \"10.77.0.100-10.77.0.199\"\n", proxy);
    assert_eq!(relays(text.replace("address = \"10.77.0.11\"\n", "")), [["10.88.0.1"]]);
}

/// Behind a relay: w1 is known by its card's place there, m1 keeps an identity or waits.
fn behind_a_relay() -> String {
    let subnet = "[network.subnets.attic]\nsubnet = \"10.78.0.0/24\"\npool = \"10.78.0.100-10.78.0.199\"\n\
                  router = \"10.78.0.1\"\n\n[image]";
    let text = GOOD.replace("[image]", subnet).replace("10.77.0.11", "10.78.0.11");
    text.replace("[nodes.w1]", "[nodes.w1]\naddress = \"10.78.0.12\"")
}

#[test]
fn a_node_on_the_wire_behind_a_relay_is_told() {
    let cluster = load(&behind_a_relay()).expect("it is a warning and no error");
    insta::assert_snapshot!(cluster.warnings.render(false));
    for (from, to) in [
        ("[cluster]", "[cluster]\nadmission = \"approve\""),
        ("engine = \"worker\"", "engine = \"worker\"\nidentity = \"kept\""),
        ("[nodes.w1]", "[nodes.w1]\ndata = \"9f1c2a33-5d42-4a6e-8f3b-0a1b2c3d4e5f\""),
        ("router = \"10.78.0.1\"", "relays = []"),
    ] {
        let text = behind_a_relay().replace(from, to);
        let told = load(&text).expect("valid").warnings.to_string();
        assert!(!told.contains("behind the DHCP relay"), "{to}: {told}");
    }
}

#[test]
fn who_has_no_way_to_keep_an_identity_is_said_and_what_it_means() {
    let notes = |text: &str| load(text).expect("valid").identity_notes().join("\n");
    insta::assert_snapshot!(notes(&behind_a_relay()));
    let tpm = GOOD.replace("[nodes.m1]", "[nodes.m1]\nlab = { tpm = true }");
    assert!(notes(GOOD).contains("m1: in the lab") && !notes(&tpm).contains("in the lab"), "{}", notes(&tpm));
    let all = GOOD.replace("[nodes.m1]", "[nodes.m1]\ndata = \"9f1c2a33-5d42-4a6e-8f3b-0a1b2c3d4e5e\"");
    let all = all.replace("[nodes.w1]", "[nodes.w1]\ndata = \"9f1c2a33-5d42-4a6e-8f3b-0a1b2c3d4e5f\"");
    assert_eq!(notes(&all), "", "each has a disk of its own");
}

#[test]
fn the_schema_describes_every_section() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).expect("JSON"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text: String) {
        let _ = load(&text);
    }

    #[test]
    fn no_edit_of_a_good_file_makes_the_reader_panic(at in 0..GOOD.len(), length in 0..40_usize, new: String) {
        let end = (at + length).min(GOOD.len());
        if let Err(problems) = load(&format!("{}{new}{}", &GOOD[..at], &GOOD[end..])) {
            proptest::prop_assert!(problems.has_errors());
            let _ = problems.render(false);
        }
    }
}

/// A snapshot keeps of a file's mode only whether it can be run.
#[test]
fn modes_of_the_overlay_that_a_node_does_not_have_are_said() {
    use std::os::unix::fs::PermissionsExt;
    let folder = repository();
    let overlay = folder.path().join("overlay");
    std::fs::create_dir(&overlay).expect("a folder");
    let modes = [("plain", 0o644), ("group", 0o664), ("run", 0o755), ("run-group", 0o775)];
    let odd = [("secret", 0o600), ("setuid", 0o4755), ("private-run", 0o700), ("all", 0o666)];
    for (name, mode) in modes.into_iter().chain(odd) {
        let path = overlay.join(name);
        std::fs::write(&path, name).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    }
    let text = GOOD.replace("[image]", "[image]\noverlay = \"overlay/\"");
    let check = || Cluster::parse(folder.path(), Path::new(FILE), &text).expect("it is a note and no error").warnings;
    insta::assert_snapshot!(check().render(false));
    for number in 0..30 {
        let path = overlay.join(format!("many-{number}"));
        std::fs::write(&path, "").expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    assert!(check().to_string().contains("and 24 more"), "{}", check());
    for (name, _) in odd {
        std::fs::remove_file(overlay.join(name)).expect("removed");
    }
    (0..30).for_each(|number| std::fs::remove_file(overlay.join(format!("many-{number}"))).expect("removed"));
    assert!(check().0.is_empty(), "{}", check());
}

#[test]
fn a_word_that_no_template_knows() {
    let profile =
        "[boot.x]\nkernel = \"http://h/k\"\ncmdline = \"a={{ nod }} {% for i in range(2) %}{{ i }}{% endfor %}\"\n\n";
    insta::assert_snapshot!(check("[workloads.whoami]", &format!("{profile}[workloads.whoami]")));
}

#[test]
fn a_template_that_cannot_be_read() {
    let profile = "[boot.x]\nkernel = \"http://h/k\"\ncmdline = \"a={{ node\"\n\n";
    insta::assert_snapshot!(check("[workloads.whoami]", &format!("{profile}[workloads.whoami]")));
}

/// A commit's author writes what an operator's terminal shows.
#[test]
fn nothing_that_is_shown_moves_the_cursor() {
    for text in ["[nodes.\"\\u001b[31mred\"]\nmac = 3\n", "[cluster]\nname = \"\u{1b}[2J\"\n", "\u{9b}31m = 1\n"] {
        let problems = Cluster::parse(Path::new("/nowhere"), Path::new("bramble.toml"), text).expect_err("wrong");
        let told = format!("{}{}", problems.render(false), problems);
        assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    }
}

#[test]
fn a_source_that_can_be_followed_is_taken_as_it_is_written() {
    for git in ["https://git.home.arpa:8443/ann/home.git", "git@git.home.arpa:home.git", "git.home.arpa:home.git"] {
        let source = format!("[source]\ngit = '{git}'\nbranch = 'ann/x'\npath = 'clusters/home/'\n\n[image]");
        let source = load(&GOOD.replacen("[image]", &source, 1)).expect("good").source.expect("a source");
        assert_eq!(
            (source.git.as_str(), source.branch.as_str(), source.path.as_str()),
            (git, "ann/x", "clusters/home")
        );
    }
}

#[test]
fn the_audit_log_is_copied_to_a_file_a_server_and_a_socket() {
    let copies =
        |lines: &str| load(&GOOD.replacen("[image]", &format!("[audit]\n{lines}\n[image]"), 1)).expect("good").audit;
    assert_eq!(copies("file = '/var/log/bramble-audit.log'").file, Some("/var/log/bramble-audit.log".into()));
    let udp = |host: &str, port| Some(Syslog::Udp { host: host.into(), port });
    for (written, expected) in [
        ("udp://log.home.arpa", udp("log.home.arpa", 514)),
        ("udp://10.77.0.9:1514", udp("10.77.0.9", 1514)),
        ("udp://[fd00::9]:514", udp("fd00::9", 514)),
        ("/dev/log", Some(Syslog::Socket("/dev/log".into()))),
    ] {
        assert_eq!(copies(&format!("syslog = '{written}'")).syslog, expected, "{written}");
    }
    assert_eq!(copies(""), AuditCopies::default());
}

const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

#[test]
fn backups_without_recipients_do_not_check_and_the_line_to_add_is_said() {
    let with = |lines: &str| format!("{GOOD}\n[backup]\nfolder = \"/b\"\n{lines}");
    let good = load(&with(&format!("recipients = [\"{RECIPIENT}\"]\n"))).expect("it checks");
    let recipients = good.backup.expect("declared").recipients;
    assert_eq!(recipients.iter().map(Recipient::to_string).collect::<Vec<_>>(), [RECIPIENT]);
    let wrong = |lines: &str| {
        let Problems(problems) = load(&with(lines)).expect_err("it does not check");
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        let (key, help) = (problem.key.clone(), problem.help.clone().unwrap_or_default());
        assert!(problem.line > 0 && problem.file == FILE, "{problem:?}");
        (key, problem.message.clone(), help)
    };
    let (key, _, help) = wrong("");
    assert_eq!(key, "backup.recipients");
    assert!(help.contains("recipients = [\"age1…\"]") && help.contains("bramble backup keygen"), "{help}");
    assert!(help.contains("age-keygen"), "{help}");
    let (key, message, _) = wrong(&format!("recipients = [\"{RECIPIENT}\", \"{}q\"]\n", &RECIPIENT[..61]));
    assert_eq!(key, "backup.recipients.1");
    assert!(message.contains("a letter"), "{message}");
    let private = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    let (_, message, help) = wrong(&format!("recipients = [\"{private}\"]\n"));
    assert!(message.contains("private half") && !message.contains("1GQ9"), "{message}");
    assert!(help.contains("make another"), "{help}");
    let (_, message, _) = wrong(&format!("recipients = [\"{RECIPIENT}\", \"{RECIPIENT}\"]\n"));
    assert!(message.contains("twice"), "{message}");
}

/// A head that is upgraded keeps what it has kept true, and says what is asked for now.
#[test]
fn what_a_head_of_before_kept_true_goes_on_without_recipients() {
    let folder = repository();
    let places = Places { root: folder.path(), home: folder.path() };
    std::fs::write(folder.path().join(FILE), format!("{GOOD}\n[backup]\nfolder = \"/b\"\n")).expect("written");
    let tree = tree::Folder(folder.path());
    assert!(Cluster::of(&tree, places).is_err());
    let kept = Cluster::of_kept(&tree, places).expect("kept");
    assert!(kept.backup.expect("declared").recipients.is_empty());
    assert!(kept.warnings.0.iter().any(|problem| problem.key == "backup.recipients"), "{:?}", kept.warnings);
}

#[test]
fn the_fingerprint_of_the_ca_is_64_digits_with_or_without_colons() {
    let with = |ca: &str| load(&GOOD.replace("[network]", &format!("ca = \"{ca}\"\n\n[network]")));
    let (plain, parts) = ("ab".repeat(32), vec!["AB"; 32].join(":"));
    for ca in [&plain, &parts] {
        assert_eq!(with(ca).expect("it checks").ca, Some(Digest([0xab; 32])), "{ca}");
    }
    for ca in ["", "ab", &plain[1..], &format!("{plain}0"), &plain.replace('a', "x")] {
        let Problems(problems) = with(ca).expect_err("it does not check");
        assert_eq!((problems.len(), problems[0].key.as_str()), (1, "cluster.ca"), "{ca}");
        assert!(problems[0].help.as_ref().is_some_and(|help| help.contains("bramble status")), "{ca}");
    }
}

#[test]
fn what_a_role_says_of_docker_counts_before_what_the_engine_says() {
    let docker = |engine: &str, role: &str| {
        let text = format!("{GOOD}\n[engine]\n{engine}\n").replacen(
            "engine = \"worker\"",
            &format!("engine = \"worker\"\n{role}"),
            1,
        );
        let cluster = load(&text).expect("checks");
        let settings = cluster.nodes[&"w1".parse::<Name>().expect("a name")].docker.expect("it is in the Swarm");
        (settings.no_new_privileges, settings.userns_remap)
    };
    let both = "no_new_privileges = false\nuserns_remap = true";
    assert_eq!(docker("", ""), (None, None), "as the image has it");
    assert_eq!(docker(both, ""), (Some(false), Some(true)));
    assert_eq!(docker(both, "no_new_privileges = true"), (Some(true), Some(true)));
    assert_eq!(docker("", both), (Some(false), Some(true)));
}

#[test]
fn a_firewall_has_defaults_and_opens_where_it_says() {
    let cluster = load(GOOD).expect("checks");
    assert!(cluster.firewall.enabled && cluster.firewall.open.is_empty() && !cluster.encrypted_networks);
    let more = "[firewall.open.web]\nports = [\"80/tcp\"]\nroles = [\"worker\"]\nnodes = [\"m1\"]\n[firewall.open.all]\nports = [\"9/udp\"]\n";
    let cluster = load(&format!("{GOOD}\n{more}")).expect("checks");
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let open = |what: &str| cluster.firewall.open[&name(what)].clone();
    for (node, role, web) in [("m1", "manager", true), ("w1", "worker", true), ("m2", "manager", false)] {
        assert_eq!(open("web").is_for(&name(node), &name(role)), web, "{node}");
        assert!(open("all").is_for(&name(node), &name(role)));
    }
}
