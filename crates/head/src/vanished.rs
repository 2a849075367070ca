//! Ends of connections that are not there any more: a laptop that was closed, a cable that was pulled. Whatever waits for
//! nothing but the other end, as `bramble logs --follow` of a silent node, would wait for ever, and keep its place.
//!
//! The kernel asks, and not the program: one that is stopped, or shows slowly what it is told, as in a pager, is there.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// When it is noticed that a connection's other end has vanished.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vanished {
    /// After so long a silence it is asked whether it is there.
    after: Duration,
    /// And again,
    every: Duration,
    /// so many times without an answer.
    times: u32,
}

impl Vanished {
    /// Within a minute.
    pub(crate) const USUAL: Vanished =
        Vanished { after: Duration::from_secs(30), every: Duration::from_secs(10), times: 3 };

    /// Has the kernel end this connection then (tcp(7)). What has been sent and not acknowledged it gives up by itself, in
    /// about a quarter of an hour.
    ///
    /// # Errors
    /// As the kernel says.
    pub(crate) fn is_noticed(self, stream: impl AsFd) -> io::Result<()> {
        sockopt::set_tcp_keepidle(&stream, self.after)?;
        sockopt::set_tcp_keepintvl(&stream, self.every)?;
        sockopt::set_tcp_keepcnt(&stream, self.times)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::time::Instant;

    use bramble_testing::as_root;

    use super::*;

    const INSIDE: &str = "BRAMBLE_TEST_OWN_NETWORK";
    const NAME: &str = "vanished::tests::an_end_that_vanishes_without_a_word_is_noticed";

    /// Its network is the test's own, and is taken away: nothing of what is sent arrives any more.
    #[test]
    fn an_end_that_vanishes_without_a_word_is_noticed() {
        if !as_root(NAME) {
            return;
        }
        if std::env::var_os(INSIDE).is_none() {
            let mut inside = Command::new("unshare");
            inside.arg("--net").arg(std::env::current_exe().expect("this program")).args([NAME, "--exact"]);
            let ended = inside.env(INSIDE, "").output().expect("unshare starts");
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
            return;
        }
        let lo = |state: &str| {
            let set = Command::new("ip").args(["link", "set", "lo", state]).status().expect("ip starts");
            assert!(set.success(), "lo is {state}");
        };
        lo("up");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut head, _) = listener.accept().expect("a connection");
        let quick = Vanished { after: Duration::from_secs(1), every: Duration::from_secs(1), times: 2 };
        quick.is_noticed(&head).expect("set");
        // One that says nothing, and is there, is left alone.
        head.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let quiet = head.read(&mut [0]).expect_err("it says nothing");
        assert_eq!(quiet.kind(), io::ErrorKind::WouldBlock, "{quiet}");
        lo("down");
        head.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let began = Instant::now();
        let gone = head.read(&mut [0]).expect_err("it has vanished");
        assert_ne!(gone.kind(), io::ErrorKind::WouldBlock, "it was waited for in vain: {gone}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        drop(client);
    }
}
