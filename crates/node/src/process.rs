//! Processes that the head starts here for a person: with pipes, or on a terminal.
//!
//! Each has a session of its own, so that it ends with everything it started. It has at most
//! [`WINDOW`] bytes of output on the way to the head, and goes on writing when they have arrived.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bramble_model::hands::{Channel, Data, End, FromProcess, PIECE, Size, Start, ToProcess, WINDOW};
use rustix::process::{Pid, Signal, kill_process_group, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

/// What a process may be told and has not read yet.
const QUEUE: usize = 256;
/// How long a process may take to end when nobody waits for it any more.
const GRACE: Duration = Duration::from_secs(3);
/// How long the outputs of a process that has ended may be silent while something it started holds them open.
const REST: Duration = Duration::from_millis(500);

/// Where processes tell the head what they say.
pub(crate) type Tell = mpsc::Sender<(u64, FromProcess)>;

/// The processes of one connection. Dropped, they are ended.
#[derive(Default)]
pub(crate) struct Processes(HashMap<u64, mpsc::Sender<ToProcess>>);

impl Processes {
    pub(crate) fn start(&mut self, number: u64, start: Start, tell: Tell) {
        self.0.retain(|_, queue| !queue.is_closed());
        let (queue, orders) = mpsc::channel(QUEUE);
        self.0.insert(number, queue);
        tokio::spawn(async move {
            let says = tell.clone();
            let run = tokio::spawn(async move { run(number, start, orders, &says).await });
            let end = match run.await {
                Ok(Ok(end)) => end,
                Ok(Err(error)) => End::Failed { reason: error.to_string().into() },
                Err(error) => {
                    tracing::error!(%error, "a process was given up by an error of bramble's own");
                    End::Failed { reason: "its agent has an error of its own; see its log".into() }
                }
            };
            // Where the connection has ended, nobody waits.
            let _ = tell.send((number, FromProcess::Ended { end })).await;
        });
    }

    /// Tells a process; one that does not listen is ended.
    pub(crate) fn tell(&mut self, number: u64, order: ToProcess) {
        if let Some(queue) = self.0.get(&number)
            && queue.try_send(order).is_err()
        {
            self.0.remove(&number);
        }
    }
}

/// A process's own ends.
struct Ends {
    child: Child,
    input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    outputs: Vec<(Channel, Box<dyn AsyncRead + Send + Unpin>)>,
    terminal: Option<OwnedFd>,
}

fn command(start: &Start) -> io::Result<Command> {
    let (program, arguments) = start.argv.split_first().ok_or_else(|| io::Error::other("there is nothing to run"))?;
    let mut command = Command::new(program);
    let folder = if std::path::Path::new("/root").is_dir() { "/root" } else { "/" };
    command
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("USER", "root")
        .env("LANG", "C.UTF-8")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .kill_on_drop(true);
    if let Some((term, _)) = &start.terminal {
        command.env("TERM", term);
    }
    Ok(command)
}

/// What every process does before it becomes its program: a session of its own, and no more of the agent's
/// protection from the kernel's search for memory.
fn become_own() -> io::Result<()> {
    setsid()?;
    if let Ok(file) =
        rustix::fs::open("/proc/self/oom_score_adj", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())
    {
        // Where it is refused, the process is no worse off.
        let _ = rustix::io::write(&file, b"0");
    }
    Ok(())
}

fn with_pipes(start: &Start) -> io::Result<Ends> {
    let mut command = command(start)?;
    command
        .stdin(if start.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: system calls only, which are safe between fork and exec.
    unsafe {
        command.pre_exec(become_own);
    }
    let mut child = command.spawn()?;
    let input = child.stdin.take().map(|input| Box::new(input) as _);
    let mut outputs: Vec<(Channel, Box<dyn AsyncRead + Send + Unpin>)> = Vec::new();
    outputs.extend(child.stdout.take().map(|output| (Channel::Out, Box::new(output) as _)));
    outputs.extend(child.stderr.take().map(|output| (Channel::Err, Box::new(output) as _)));
    Ok(Ends { child, input, outputs, terminal: None })
}

fn set_size(terminal: &OwnedFd, size: Size) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

fn on_terminal(start: &Start, size: Size) -> io::Result<Ends> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let path = ptsname(&ours, Vec::new())?;
    set_size(&ours, size)?;
    let theirs: std::fs::File =
        rustix::fs::open(path, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY, rustix::fs::Mode::empty())?
            .into();
    let mut command = command(start)?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    // SAFETY: system calls only, which are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            become_own()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    // The command holds the other side; dropped, the terminal ends with the last process on it.
    drop(command);
    // A terminal does not block: what is not there yet is waited for.
    rustix::io::ioctl_fionbio(&ours, true)?;
    let reader = Terminal::new(ours.try_clone()?)?;
    let writer = Terminal::new(ours.try_clone()?)?;
    Ok(Ends {
        child,
        input: Some(Box::new(writer)),
        outputs: vec![(Channel::Out, Box::new(reader))],
        terminal: Some(ours),
    })
}

/// Our side of a terminal, read and written without blocking.
struct Terminal(tokio::io::unix::AsyncFd<OwnedFd>);

impl Terminal {
    fn new(side: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open until it is dropped, and is the same descriptor for as long.
        let side = unsafe { tokio::io::unix::AsyncFd::register(side) };
        Ok(Terminal(side.map_err(io::Error::from)?))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|side| {
                let mut piece = [0; PIECE];
                let most = buffer.remaining().min(PIECE);
                let length = rustix::io::read(side, &mut piece[..most])?;
                buffer.put_slice(&piece[..length]);
                Ok(())
            });
            match read {
                // The last process has left the terminal (Linux says EIO there): it is at its end.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return std::task::Poll::Ready(Ok(()));
                }
                Ok(result) => return std::task::Poll::Ready(result),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|side| Ok(rustix::io::write(side, bytes)?)) {
                return std::task::Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// What is on the way from a process to the head.
struct Way {
    room: Semaphore,
    /// Counts up with each piece that was read.
    pieces: AtomicU64,
    /// Outputs whose next piece waits for room.
    waiting: AtomicUsize,
}

/// Passes on what a process prints, as long as there is room on the way.
async fn pass_on(
    number: u64,
    channel: Channel,
    mut output: Box<dyn AsyncRead + Send + Unpin>,
    way: Arc<Way>,
    tell: Tell,
) {
    let mut piece = vec![0; PIECE];
    loop {
        let Ok(length @ 1..) = output.read(&mut piece).await else { return };
        way.pieces.fetch_add(1, Ordering::Relaxed);
        way.waiting.fetch_add(1, Ordering::Relaxed);
        let taken = way.room.acquire_many(u32::try_from(length).unwrap_or(u32::MAX)).await;
        taken.expect("the semaphore is never closed").forget();
        let data = Data(piece[..length].to_vec());
        let told = tell.send((number, FromProcess::Output { channel, data })).await;
        way.waiting.fetch_sub(1, Ordering::Relaxed);
        if told.is_err() {
            return;
        }
    }
}

/// Writes what comes to a process's input, and says when there is room again.
async fn pass_in(
    number: u64,
    mut input: Box<dyn AsyncWrite + Send + Unpin>,
    mut pieces: mpsc::Receiver<Data>,
    tell: Tell,
) {
    while let Some(Data(bytes)) = pieces.recv().await {
        // A process that reads no more throws the rest away.
        let _ = input.write_all(&bytes).await;
        if tell.send((number, FromProcess::Room { bytes: bytes.len() as u64 })).await.is_err() {
            return;
        }
    }
    let _ = input.shutdown().await;
}

async fn run(number: u64, start: Start, mut orders: mpsc::Receiver<ToProcess>, tell: &Tell) -> io::Result<End> {
    let program = start.argv.first().cloned().unwrap_or_default();
    let began = match &start.terminal {
        Some((_, size)) => on_terminal(&start, *size),
        None => with_pipes(&start),
    };
    let Ends { mut child, input, outputs, terminal } =
        began.map_err(|error| io::Error::other(format!("cannot run {program}: {error}")))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let way = Arc::new(Way {
        room: Semaphore::new(usize::try_from(WINDOW).expect("it fits")),
        pieces: AtomicU64::new(0),
        waiting: AtomicUsize::new(0),
    });
    let mut passing = tokio::task::JoinSet::new();
    for (channel, output) in outputs {
        passing.spawn(pass_on(number, channel, output, Arc::clone(&way), tell.clone()));
    }
    let (pieces, queue) = mpsc::channel(QUEUE);
    let mut pieces = Some(pieces);
    if let Some(input) = input {
        tokio::spawn(pass_in(number, input, queue, tell.clone()));
    }
    let mut status = None;
    let mut seen = 0;
    // The process has ended and so have its outputs; or what it left behind holds them open and is silent.
    while status.is_none() || !passing.is_empty() {
        let order = tokio::select! {
            ended = child.wait(), if status.is_none() => {
                status = Some(ended?);
                continue;
            }
            Some(_) = passing.join_next(), if !passing.is_empty() => continue,
            () = sleep(REST), if status.is_some() => {
                let pieces = way.pieces.load(Ordering::Relaxed);
                if pieces == seen && way.waiting.load(Ordering::Relaxed) == 0 {
                    passing.abort_all();
                }
                seen = pieces;
                continue;
            }
            order = orders.recv() => order,
        };
        match order {
            Some(ToProcess::Input { data }) => {
                // More than the window was sent: whoever does that breaks the rules, and loses it.
                if let Some(pieces) = &pieces {
                    let _ = pieces.try_send(data);
                }
            }
            Some(ToProcess::EndOfInput) => pieces = None,
            Some(ToProcess::Resize { size }) => {
                if let Some(terminal) = &terminal {
                    set_size(terminal, size)?;
                }
            }
            Some(ToProcess::Room { bytes }) => {
                let bytes = usize::try_from(bytes.min(WINDOW)).expect("it fits");
                way.room.add_permits(bytes.min(Semaphore::MAX_PERMITS - way.room.available_permits()));
            }
            // Stopped, or the connection has ended.
            Some(ToProcess::Stop) | None => {
                passing.abort_all();
                let status = match status {
                    Some(status) => status,
                    None => end(&mut child, group).await?,
                };
                return Ok(ended(status));
            }
        }
    }
    Ok(ended(status.expect("the loop goes on until there is one")))
}

/// Ends a process with everything in its session.
async fn end(child: &mut Child, group: Option<Pid>) -> io::Result<ExitStatus> {
    if let Some(group) = group {
        // As a terminal that is closed; a process that has just ended is fine, too.
        let _ = kill_process_group(group, Signal::HUP);
        let _ = kill_process_group(group, Signal::TERM);
        if let Ok(status) = timeout(GRACE, child.wait()).await {
            let _ = kill_process_group(group, Signal::KILL);
            return status;
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.kill().await?;
    child.wait().await
}

fn ended(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited { code },
        (None, Some(signal)) => End::Killed { signal },
        (None, None) => End::Failed { reason: format!("it ended in an unknown way: {status}").into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Running {
        processes: Processes,
        told: mpsc::Receiver<(u64, FromProcess)>,
    }

    fn start(argv: &[&str], terminal: Option<(String, Size)>, input: bool) -> Running {
        let (tell, told) = mpsc::channel(16);
        let mut processes = Processes::default();
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        processes.start(7, Start { argv, terminal, input }, tell);
        Running { processes, told }
    }

    impl Running {
        /// Everything it says, to its end; every byte makes room for another.
        async fn rest(&mut self) -> (String, String, End) {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            loop {
                match self.told.recv().await.expect("it ends").1 {
                    FromProcess::Output { channel, data } => {
                        self.processes.tell(7, ToProcess::Room { bytes: data.0.len() as u64 });
                        if channel == Channel::Out { &mut out } else { &mut err }.extend(data.0);
                    }
                    FromProcess::Room { .. } => {}
                    FromProcess::Ended { end } => {
                        let text = |bytes| String::from_utf8(bytes).expect("text");
                        return (text(out), text(err), end);
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn output_errors_and_exit_code_arrive() {
        let mut running = start(&["sh", "-c", "echo out; echo err >&2; exit 3"], None, false);
        assert_eq!(running.rest().await, ("out\n".into(), "err\n".into(), End::Exited { code: 3 }));
        let (_, _, end) = start(&["/does/not/exist"], None, false).rest().await;
        assert!(matches!(end, End::Failed { reason } if reason.contains("cannot run /does/not/exist")));
        let (_, _, end) = start(&["sh", "-c", "kill -9 $$"], None, false).rest().await;
        assert_eq!(end, End::Killed { signal: 9 });
    }

    #[tokio::test]
    async fn input_is_written_and_ended() {
        let mut running = start(&["wc", "-c"], None, true);
        running.processes.tell(7, ToProcess::Input { data: Data(vec![b'x'; 1000]) });
        running.processes.tell(7, ToProcess::EndOfInput);
        assert_eq!(running.rest().await.0.trim(), "1000");
    }

    #[tokio::test]
    async fn a_process_waits_when_nobody_reads() {
        let mut running = start(&["head", "-c", "1000000", "/dev/zero"], None, false);
        let mut bytes = 0;
        while let Ok(told) = timeout(Duration::from_millis(300), running.told.recv()).await {
            if let (_, FromProcess::Output { data, .. }) = told.expect("output") {
                bytes += data.0.len() as u64;
            }
        }
        assert!((1..=WINDOW).contains(&bytes), "without room, no more than the window comes: {bytes}");
        running.processes.tell(7, ToProcess::Room { bytes });
        let (rest, _, end) = running.rest().await;
        assert_eq!((bytes + rest.len() as u64, end), (1_000_000, End::Exited { code: 0 }));
    }

    #[tokio::test]
    async fn what_it_leaves_behind_does_not_hold_it() {
        let mut running = start(&["sh", "-c", "sleep 1000 & echo $!"], None, false);
        let (out, _, end) = running.rest().await;
        assert_eq!(end, End::Exited { code: 0 });
        let left = Pid::from_raw(out.trim().parse().expect("a number")).expect("a process");
        let _ = rustix::process::kill_process(left, Signal::KILL);
    }

    #[tokio::test]
    async fn stopped_it_takes_its_children_along() {
        let mut running = start(&["sh", "-c", "trap '' HUP TERM; sleep 1000 & echo $!; wait"], None, false);
        let (_, FromProcess::Output { data, .. }) = running.told.recv().await.expect("output") else {
            panic!("output")
        };
        let child: i32 = String::from_utf8(data.0).expect("text").trim().parse().expect("a number");
        running.processes.tell(7, ToProcess::Stop);
        assert!(matches!(running.rest().await.2, End::Killed { .. }));
        let gone = || {
            !std::path::Path::new(&format!("/proc/{child}/environ")).exists()
                || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        for _ in 0..100 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the child lives on");
    }

    #[tokio::test]
    async fn a_shell_has_a_terminal_with_a_size() {
        let size = Size { columns: 91, rows: 17 };
        let mut running = start(&["sh"], Some(("xterm".into(), size)), true);
        running.processes.tell(7, ToProcess::Input { data: Data(b"stty size; echo $TERM; exit 4\n".to_vec()) });
        let (out, _, end) = running.rest().await;
        assert!(out.contains("17 91\r\n") && out.contains("xterm\r\n"), "{out:?}");
        assert_eq!(end, End::Exited { code: 4 });
    }
}
