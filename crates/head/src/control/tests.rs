use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener as Listener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bramble_testing::{USER, as_root, given};
use tokio::task::JoinHandle;

use super::*;

const SOCKET: &str = "BRAMBLE_TEST_SOCKET";
const RUN_AND_STATE: [&str; 2] = ["BRAMBLE_TEST_RUN", "BRAMBLE_TEST_STATE"];

/// A machine with root's `/run`, and a state folder of a user's in a place that all can reach.
struct World {
    top: tempfile::TempDir,
    run: PathBuf,
    state: PathBuf,
    /// The test's program, which may lie where others cannot read.
    program: PathBuf,
}

impl World {
    fn new() -> Self {
        let top = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(top.path(), Permissions::from_mode(0o755)).expect("opened");
        let at = |name: &str| top.path().join(name);
        let (run, state, program) = (at("run"), at("state"), at("test"));
        for folder in [&run, &state] {
            fs::create_dir(folder).expect("made");
        }
        fs::copy(std::env::current_exe().expect("a program"), &program).expect("copied");
        given(&state);
        given(&program);
        World { top, run, state, program }
    }

    /// The folder that logins of the user have of their own.
    fn users_own(&self) -> PathBuf {
        let folder = self.run.join("user").join(USER.to_string());
        fs::create_dir_all(&folder).expect("made");
        given(&folder);
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("closed");
        folder
    }

    /// Where the folder of the state can have no socket.
    fn has_no_place(&self) {
        fs::create_dir_all(self.state.join("head.sock/full")).expect("made");
    }

    /// Another test of this file, by a user: what it says, where it passes.
    fn by(&self, user: u32, test: &str, variables: &[(&str, &OsStr)]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(["--exact", "--nocapture", &format!("control::tests::{test}")]).uid(user).gid(user);
        let output = command.envs(variables.iter().copied()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    fn connects(&self, user: u32, socket: &Path) -> bool {
        self.by(user, "connects_to_the_socket", &[(SOCKET, socket.as_os_str())]).is_ok()
    }

    /// What becomes of a head of the user's own.
    fn opens_elsewhere(&self) -> String {
        let places = [self.run.as_os_str(), self.state.as_os_str()];
        let variables: Vec<_> = RUN_AND_STATE.into_iter().zip(places).collect();
        self.by(USER, "opens_its_socket_elsewhere", &variables).expect("no panic")
    }
}

/// Run by other tests as other users.
#[test]
fn connects_to_the_socket() {
    if let Some(path) = std::env::var_os(SOCKET) {
        UnixStream::connect(path).expect("connected");
    }
}

/// Run by other tests as other users.
#[tokio::test]
async fn opens_its_socket_elsewhere() {
    if let [Some(run), Some(state)] = RUN_AND_STATE.map(std::env::var_os) {
        let (run, state) = (Path::new(&run), Path::new(&state));
        for place in others(run, state) {
            match open_elsewhere(&place, state) {
                Ok(_) => println!("made {}", place.display()),
                Err(error) => println!("not {}: {error}", place.display()),
            }
        }
    }
}

/// Run by other tests as other users.
#[test]
fn lists_what_runs() {
    if let Some(run) = std::env::var_os(RUN_AND_STATE[0]) {
        println!("{:?}", shared::running_below(Path::new(&run)));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

fn routes() -> Router {
    Router::new().fallback(|| async { "here I am" })
}

fn serving(run: &Path, state: &Path, stop: &CancellationToken) -> JoinHandle<Part> {
    tokio::spawn(serve_below(run, routes(), state, None, crate::gate::Gate::new(64, 64), stop.clone()))
}

async fn ended(serving: JoinHandle<Part>, stop: &CancellationToken) {
    stop.cancel();
    serving.await.expect("no panic").expect("it ended");
}

async fn answers(path: &Path) -> bool {
    let path = path.to_owned();
    let asked = move || {
        let Ok(mut stream) = UnixStream::connect(path) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).expect("an answer");
        answer.contains("here I am")
    };
    tokio::task::spawn_blocking(asked).await.expect("no panic")
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn taken(&self) -> String {
        String::from_utf8(std::mem::take(&mut *bramble_system::locked(&self.0))).expect("text")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bramble_system::locked(&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Also where that is in `/run/bramble`, whose owner is root; and whatever mode that had.
#[tokio::test]
async fn roots_socket_is_for_the_owner_of_the_folder() {
    if !as_root("control::tests::roots_socket_is_for_the_owner_of_the_folder") {
        return;
    }
    let world = World::new();
    fs::create_dir(world.run.join("bramble")).expect("made");
    fs::set_permissions(world.run.join("bramble"), Permissions::from_mode(0o700)).expect("closed");
    let usual = usual(&world.state);
    let (listener, owners) = open(&usual, &world.state).expect("made");
    let [place] = &others(&world.run, &world.state)[..] else { panic!("root goes to one other place") };
    assert!(place.starts_with(world.run.join("bramble")), "{}", place.display());
    let (spare, spare_owners) = open_elsewhere(place, &world.state).expect("made");
    for (listener, owners, path) in [(listener, owners, &usual), (spare, spare_owners, place)] {
        assert_eq!(mode(path), 0o600);
        assert!(world.connects(USER, path), "{}", path.display());
        let (stream, _) = listener.accept().await.expect("a connection");
        assert!(owners.have(stream.peer_cred().expect("known").uid()));
        assert!(world.connects(0, path), "root may always");
        assert!(!world.connects(USER + 1, path), "another one could open the folder, and not the socket");
        assert!(!owners.have(USER + 1));
    }
}

/// As one that lies deep in a home; a disk that is read-only is in the tests of the lab.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_too_long_a_path_has_its_socket_elsewhere() {
    if !as_root("control::tests::a_folder_with_too_long_a_path_has_its_socket_elsewhere") {
        return;
    }
    let top = tempfile::tempdir().expect("a temporary folder");
    let (state, run) = (top.path().join("deep".repeat(40)), top.path().join("run"));
    fs::create_dir(&state).and_then(|()| fs::create_dir(&run)).expect("made");
    let stop = CancellationToken::new();
    let head = serving(&run, &state, &stop);
    // By another path to the same folder.
    let link = top.path().join("link");
    symlink(&state, &link).expect("linked");
    let place = places(&run, &link).swap_remove(1);
    assert!(answers(&place).await);
    ended(head, &stop).await;
    assert!(!place.exists(), "nothing is left");
    // Where there is no place at all, the head serves on without.
    fs::remove_dir_all(&run).expect("removed");
    let stop = CancellationToken::new();
    ended(serving(&run, &state, &stop), &stop).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_starts_without_a_place_and_takes_the_first_that_comes() {
    if !as_root("control::tests::a_head_starts_without_a_place_and_takes_the_first_that_comes") {
        return;
    }
    let world = World::new();
    let (stop, socket) = (CancellationToken::new(), usual(&world.state));
    let log = Log::default();
    let _logging = log.begin();
    fs::remove_dir(&world.state).expect("removed");
    let head = serving(&world.run, &world.state, &stop);
    tokio::time::sleep(10 * AGAIN).await;
    let told = log.taken();
    assert!(told.contains(&socket.display().to_string()) && told.contains("No such file"), "{told}");
    assert_eq!(told.lines().count(), 2, "what is wrong and what to do, once: {told}");
    // It comes, and another program has its place.
    fs::create_dir(&world.state).expect("made");
    world.has_no_place();
    fs::write(world.run.join("bramble"), "").expect("written");
    tokio::time::sleep(10 * AGAIN).await;
    let told = log.taken();
    assert!(told.contains("directory") && told.contains("bramble is no folder: remove it"), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");
    fs::remove_file(world.run.join("bramble")).expect("removed");
    tokio::time::sleep(2 * AGAIN).await;
    let elsewhere = others(&world.run, &world.state).remove(0);
    assert!(answers(&elsewhere).await, "{}", log.taken());
    fs::remove_dir_all(&socket).expect("removed");
    tokio::time::sleep(2 * AGAIN).await;
    assert!(answers(&socket).await && answers(&elsewhere).await, "{}", log.taken());
    ended(head, &stop).await;
    assert!(!socket.exists() && !elsewhere.exists(), "nothing is left");
}

/// Its disk is torn off.
#[test]
fn a_head_serves_on_whose_folder_goes_while_it_waits_for_a_place_there() {
    if !as_root("control::tests::a_head_serves_on_whose_folder_goes_while_it_waits_for_a_place_there") {
        return;
    }
    let world = World::new();
    let disk = world.top.path().join("disk");
    let state = disk.join("state");
    fs::create_dir(&disk).expect("made");
    let run = |program: &str, words: &[&str]| {
        let done = Command::new(program).args(words).arg(&disk).status().expect("it runs");
        assert!(done.success(), "{program} {words:?}");
    };
    run("mount", &["-t", "tmpfs", "tmpfs"]);
    fs::create_dir(&state).expect("made");
    run("mount", &["-o", "remount,ro"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let stop = CancellationToken::new();
        let head = serving(&world.run, &state, &stop);
        let elsewhere = places(&world.run, &state).swap_remove(1);
        assert!(answers(&elsewhere).await);
        run("umount", &[]);
        tokio::time::sleep(3 * AGAIN).await;
        assert!(!head.is_finished() && answers(&elsewhere).await);
        // A file lies where it was.
        fs::write(&state, "").expect("written");
        tokio::time::sleep(3 * AGAIN).await;
        assert!(!head.is_finished() && answers(&elsewhere).await);
        fs::remove_file(&state).and_then(|()| fs::create_dir(&state)).expect("it comes back");
        tokio::time::sleep(3 * AGAIN).await;
        assert!(answers(&usual(&state)).await && answers(&elsewhere).await);
        ended(head, &stop).await;
    });
}

/// The owner of the folder puts a link in the socket's place as soon as that is made.
#[tokio::test]
async fn no_link_to_another_file_changes_its_mode() {
    if !as_root("control::tests::no_link_to_another_file_changes_its_mode") {
        return;
    }
    let world = World::new();
    let (socket, precious) = (usual(&world.state), world.top.path().join("precious"));
    fs::write(&precious, "root's").expect("written");
    fs::set_permissions(&precious, Permissions::from_mode(0o644)).expect("set");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let link = world.state.join("link");
            while !over.load(Ordering::Relaxed) {
                if fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket()) {
                    let _ = symlink(&precious, &link).and_then(|()| fs::rename(&link, &socket));
                }
            }
        });
        for _ in 0..5000 {
            // It may find the link.
            let _ = open(&socket, &world.state);
        }
        over.store(true, Ordering::Relaxed);
    });
    let data = fs::metadata(&precious).expect("there");
    assert_eq!((data.mode() & 0o777, data.uid()), (0o644, 0));
    // One that lies there from the start goes, and what it leads to stays.
    let _ = fs::remove_file(&socket);
    symlink(&precious, &socket).expect("linked");
    open(&socket, &world.state).expect("made");
    assert!(fs::symlink_metadata(&socket).expect("there").file_type().is_socket());
    assert_eq!(fs::read(&precious).expect("there"), b"root's");
}

#[tokio::test]
async fn root_makes_its_socket_below_no_link_and_in_no_users_folder() {
    if !as_root("control::tests::root_makes_its_socket_below_no_link_and_in_no_users_folder") {
        return;
    }
    let world = World::new();
    let (precious, state) = (world.top.path().join("precious"), world.top.path().join("deep".repeat(40)));
    fs::create_dir(&precious).and_then(|()| fs::create_dir(&state)).expect("made");
    given(&state);
    fs::set_permissions(&precious, Permissions::from_mode(0o700)).expect("closed");
    let untouched = || {
        assert_eq!(fs::read_dir(&precious).expect("there").count(), 0, "a socket was made there");
        assert_eq!(mode(&precious), 0o700);
    };
    // No `/run/bramble` can be made.
    fs::write(world.run.join("bramble"), "").expect("written");
    let own = world.users_own();
    for planted in [true, false] {
        if planted {
            symlink(&precious, own.join("bramble")).expect("linked");
        }
        let stop = CancellationToken::new();
        let head = serving(&world.run, &state, &stop);
        untouched();
        ended(head, &stop).await;
        if planted {
            fs::remove_file(own.join("bramble")).expect("removed");
        }
        assert_eq!(fs::read_dir(&own).expect("there").count(), 0, "root was there");
    }
    fs::remove_file(world.run.join("bramble")).expect("removed");
    symlink(&precious, world.run.join("bramble")).expect("linked");
    let place = others(&world.run, &state).remove(0);
    let error = open_elsewhere(&place, &state).expect_err("a link is no folder");
    assert!(error.to_string().contains("bramble is no folder: remove it"), "{error}");
    untouched();
    // A link in the socket's own place.
    fs::remove_file(world.run.join("bramble")).expect("removed");
    fs::create_dir(world.run.join("bramble")).expect("made");
    symlink(precious.join("file"), &place).expect("linked");
    open_elsewhere(&place, &state).expect("made");
    assert!(fs::symlink_metadata(&place).expect("there").file_type().is_socket());
    untouched();
}

#[tokio::test]
async fn no_socket_is_made_where_others_can_make_one() {
    if !as_root("control::tests::no_socket_is_made_where_others_can_make_one") {
        return;
    }
    let world = World::new();
    let folder = world.run.join("bramble");
    let place = others(&world.run, &world.state).remove(0);
    let refused = || open_elsewhere(&place, &world.state).expect_err("refused").to_string();
    fs::create_dir(&folder).expect("made");
    for mode in [0o777, 0o1777, 0o775] {
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("set");
        assert!(refused().contains("others can write to") && refused().contains("chmod go-w"), "{}", refused());
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("set");
    given(&folder);
    assert!(refused().contains("is of user 12345, and the head runs as user 0"), "{}", refused());
    assert_eq!(fs::read_dir(&folder).expect("there").count(), 0);
}

#[test]
fn a_head_of_a_users_own_has_its_socket_in_what_is_the_users_own() {
    if !as_root("control::tests::a_head_of_a_users_own_has_its_socket_in_what_is_the_users_own") {
        return;
    }
    let world = World::new();
    let told = world.opens_elsewhere();
    assert!(told.contains("Permission denied") && told.contains("No such file") && !told.contains("made "), "{told}");
    let own = world.users_own();
    let made = format!("made {}/bramble/", own.display());
    let told = world.opens_elsewhere();
    assert!(told.contains(&made) && !told.contains("/run/bramble: "), "{told}");
    fs::remove_dir_all(own.join("bramble")).expect("removed");
    let other = world.top.path().join("other");
    fs::create_dir(&other).expect("made");
    given(&other);
    symlink(&other, own.join("bramble")).expect("linked");
    let told = world.opens_elsewhere();
    assert!(told.contains("bramble is no folder: remove it") && !told.contains("made "), "{told}");
    assert_eq!(fs::read_dir(&other).expect("there").count(), 0);
    // Of somebody else's repository.
    fs::remove_file(own.join("bramble")).expect("removed");
    std::os::unix::fs::chown(&world.state, Some(USER + 1), None).expect("given");
    let theirs = world.run.join("user").join((USER + 1).to_string());
    fs::create_dir(&theirs).and_then(|()| fs::set_permissions(&theirs, Permissions::from_mode(0o777))).expect("made");
    let told = world.opens_elsewhere();
    assert!(!told.contains("made ") && !told.contains("/user/"), "{told}");
}

#[tokio::test]
async fn a_dead_heads_socket_goes_and_a_living_ones_stays() {
    if !as_root("control::tests::a_dead_heads_socket_goes_and_a_living_ones_stays") {
        return;
    }
    let world = World::new();
    let place = others(&world.run, &world.state).remove(0);
    fs::create_dir(world.run.join("bramble")).expect("made");
    drop(Listener::bind(&place).expect("bound"));
    given(&place);
    let stop = CancellationToken::new();
    let head = serving(&world.run, &world.state, &stop);
    assert!(answers(&usual(&world.state)).await);
    assert!(!place.exists(), "it is dead");
    ended(head, &stop).await;
    let _living = Listener::bind(&place).expect("bound");
    let stop = CancellationToken::new();
    ended(serving(&world.run, &world.state, &stop), &stop).await;
    UnixStream::connect(&place).expect("it lives");
    // In a folder that is not the head's, nothing goes.
    fs::remove_file(&place).expect("removed");
    drop(Listener::bind(&place).expect("bound"));
    given(&world.run.join("bramble"));
    let stop = CancellationToken::new();
    ended(serving(&world.run, &world.state, &stop), &stop).await;
    assert!(place.exists());
}

/// Lets a user of this group do something with a socket.
fn connects_as(world: &World, user: u32, group: u32, socket: &Path) -> bool {
    let mut command = Command::new(&world.program);
    command.args(["--exact", "--nocapture", "control::tests::connects_to_the_socket"]).uid(user).gid(group);
    command.env(SOCKET, socket).output().expect("it starts").status.success()
}

fn of_cluster(world: &World, shared: &Shared) -> PathBuf {
    shared.place(&others(&world.run, &world.state).remove(0))
}

const MEMBERS: u32 = USER + 50;

fn shared(cluster: &str, group: Option<u32>) -> Option<Shared> {
    Some(Shared { cluster: cluster.into(), group })
}

fn serving_shared(world: &World, state: &Path, shared: Option<Shared>, stop: &CancellationToken) -> JoinHandle<Part> {
    let gate = crate::gate::Gate::new(64, 64);
    tokio::spawn(serve_below(&world.run, routes(), state, shared, gate, stop.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_socket_is_for_its_group_and_for_nobody_else() {
    if !as_root("control::tests::the_clusters_socket_is_for_its_group_and_for_nobody_else") {
        return;
    }
    let world = World::new();
    let of_group = shared("home", Some(MEMBERS));
    let place = of_cluster(&world, of_group.as_ref().expect("it is"));
    assert!(place.starts_with(world.run.join("bramble/home")), "{}", place.display());
    // As a head of before made it: nobody but root could list it.
    let top = world.run.join("bramble");
    fs::create_dir(&top).and_then(|()| fs::set_permissions(&top, Permissions::from_mode(0o711))).expect("made");
    let stop = CancellationToken::new();
    let head = serving_shared(&world, &world.state, of_group, &stop);
    assert!(answers(&place).await && answers(&usual(&world.state)).await);
    assert_eq!(mode(&top), 0o755);
    let listed = |user| {
        let run = [(RUN_AND_STATE[0], world.run.as_os_str())];
        world.by(user, "lists_what_runs", &run).expect("no panic")
    };
    // The user of this number is in the group of this number.
    assert!(listed(MEMBERS).contains(&place.display().to_string()), "a member finds it: {}", listed(MEMBERS));
    assert!(listed(USER + 1).contains("socket: None"), "another one knows of it: {}", listed(USER + 1));
    let folder = fs::metadata(folder_of(&place)).expect("there");
    assert_eq!((folder.mode() & 0o7777, folder.uid(), folder.gid()), (0o750, 0, MEMBERS));
    let data = fs::metadata(&place).expect("there");
    assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o660, 0, MEMBERS));
    assert!(connects_as(&world, USER + 1, MEMBERS, &place), "a member");
    assert!(!connects_as(&world, USER + 1, USER + 1, &place), "another one");
    assert!(!connects_as(&world, USER + 1, MEMBERS, &usual(&world.state)), "that one is the owner's alone");
    ended(head, &stop).await;
    assert!(!place.exists(), "nothing is left");
    // Without a group it is the head's owner's, also in the folder that a group had before.
    fs::create_dir(folder_of(&place)).expect("made");
    std::os::unix::fs::chown(folder_of(&place), None, Some(MEMBERS)).expect("given");
    fs::set_permissions(folder_of(&place), Permissions::from_mode(0o750)).expect("opened");
    let stop = CancellationToken::new();
    let head = serving_shared(&world, &world.state, shared("home", None), &stop);
    assert!(answers(&place).await);
    assert_eq!((mode(&place), mode(folder_of(&place))), (0o600, 0o700));
    assert!(!connects_as(&world, USER + 1, MEMBERS, &place));
    ended(head, &stop).await;
}

/// All that it may hold is served, and stays for as long as it likes.
#[test]
fn a_member_of_the_group_keeps_the_owner_out_of_no_socket() {
    let gate = crate::gate::Gate::new(8, 8);
    let member = counted_at(USER + 1, false);
    let passes: Vec<_> = (0..8).map(|_| gate.enter(member).expect("room")).collect();
    let _served: Vec<_> = passes.iter().map(|pass| pass.speaks().expect("it is held")).collect();
    gate.enter(counted_at(0, true)).expect("one of the crowd goes for it");
    // Whatever its number is.
    assert!((0..4).all(|user| counted_at(user, false) != counted_at(user, true)));
}

/// As two repositories of one name, or a cluster and its lab.
#[tokio::test(flavor = "multi_thread")]
async fn two_heads_of_one_name_have_a_socket_each_and_each_is_found_by_its_folder() {
    if !as_root("control::tests::two_heads_of_one_name_have_a_socket_each_and_each_is_found_by_its_folder") {
        return;
    }
    let world = World::new();
    let other = world.top.path().join("other");
    fs::create_dir(&other).expect("made");
    // Neither can have its usual place, so that the cluster's is the only one.
    world.has_no_place();
    fs::create_dir_all(other.join("head.sock/full")).expect("made");
    let stop = CancellationToken::new();
    let heads = [&world.state, &other].map(|state| serving_shared(&world, state, shared("home", None), &stop));
    let at = |state: &Path| Shared { cluster: "home".into(), group: None }.place(&others(&world.run, state).remove(0));
    let (one, two) = (at(&world.state), at(&other));
    assert!(one != two && answers(&one).await && answers(&two).await);
    let found = running_of(&world);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|head| head.cluster == "home"), "{found:?}");
    for place in [&world.state, &other].map(|state| places(&world.run, state).swap_remove(1)) {
        fs::remove_file(place).expect("the one without a name");
    }
    assert_eq!(socket_below(&world.run, &world.state), one);
    assert_eq!(socket_below(&world.run, &other), two);
    stop.cancel();
    for head in heads {
        head.await.expect("no panic").expect("it ended");
    }
    assert_eq!(running_of(&world), []);
}

fn running_of(world: &World) -> Vec<Running> {
    shared::running_below(&world.run)
}

/// A head that was killed; one that still runs is not touched by a head of another folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_heads_socket_of_the_cluster_is_made_anew() {
    if !as_root("control::tests::a_dead_heads_socket_of_the_cluster_is_made_anew") {
        return;
    }
    let world = World::new();
    let of_group = shared("home", Some(MEMBERS));
    let place = of_cluster(&world, of_group.as_ref().expect("it is"));
    fs::create_dir_all(folder_of(&place)).expect("made");
    drop(Listener::bind(&place).expect("bound"));
    let neighbour = folder_of(&place).join("1-2.sock");
    let _living = Listener::bind(&neighbour).expect("bound");
    let stop = CancellationToken::new();
    let head = serving_shared(&world, &world.state, of_group, &stop);
    assert!(answers(&place).await);
    UnixStream::connect(&neighbour).expect("it lives");
    ended(head, &stop).await;
    assert!(neighbour.exists() && !place.exists());
}

/// A folder, a link or a file of somebody else's in its place: the head serves on at its own socket, and says so once.
#[tokio::test(start_paused = true)]
async fn nobody_puts_a_socket_of_the_cluster_there_before_the_head() {
    if !as_root("control::tests::nobody_puts_a_socket_of_the_cluster_there_before_the_head") {
        return;
    }
    let world = World::new();
    let of_group = shared("home", Some(MEMBERS));
    let place = of_cluster(&world, of_group.as_ref().expect("it is"));
    let (folder, elsewhere) = (folder_of(&place), world.top.path().join("elsewhere"));
    fs::create_dir(&elsewhere).and_then(|()| fs::create_dir(world.run.join("bramble"))).expect("made");
    let theirs = |folder: &Path| fs::create_dir(folder).map(|()| given(folder)).expect("made");
    let open = |folder: &Path| {
        fs::create_dir(folder).and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o777))).expect("made");
    };
    let link = |folder: &Path| symlink(&elsewhere, folder).expect("linked");
    let file = |folder: &Path| fs::write(folder, "").expect("written");
    type Way<'a> = (&'a dyn Fn(&Path), &'a str);
    let ways: [Way<'_>; 4] =
        [(&theirs, "is of user"), (&open, "others can write"), (&link, "is no folder"), (&file, "is no folder")];
    for (put, why) in ways {
        put(folder);
        let log = Log::default();
        let _logging = log.begin();
        let stop = CancellationToken::new();
        let head = serving_shared(&world, &world.state, of_group.clone(), &stop);
        tokio::time::sleep(10 * AGAIN).await;
        assert!(answers(&usual(&world.state)).await);
        assert!(!place.exists(), "{why}");
        let told = log.taken();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(why), "{told}");
        // It goes, and the head takes its place.
        let _ = fs::remove_file(folder).or_else(|_| fs::remove_dir(folder));
        tokio::time::sleep(2 * AGAIN).await;
        assert!(answers(&place).await, "{}", log.taken());
        ended(head, &stop).await;
        assert!(!folder.exists(), "nothing is left");
    }
    assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
}

/// Of the longest name of a cluster, and the greatest numbers. Where a user's own does not fit, that is told.
#[test]
fn no_name_of_a_cluster_makes_its_socket_too_long() {
    let of = Shared { cluster: "c".repeat(63), group: None };
    for elsewhere in ["/run/bramble/ffffffff-ffffffffffffffff.sock", "/run/user/1000/bramble/fe01-1a2b3c4.sock"] {
        let place = of.place(Path::new(elsewhere));
        assert!(SocketAddrUnix::new(&place).is_ok(), "{}", place.display());
    }
}
