//! A stream whose other side has to take what it is sent: one that reads nothing holds its connection for a while and not
//! for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Within so long the other side takes at least [`LEAST`] bytes of what waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// As slow as the slowest link that boots anything: a kernel of 10 MB in forty minutes.
const LEAST: usize = 128 << 10;

/// A stream with a limit on how slowly it is read from.
#[derive(Debug)]
pub(crate) struct Timely<S> {
    stream: S,
    /// The other side may take its time: a person who reads what a process prints.
    is_patient: Arc<AtomicBool>,
    /// Since something waits to be taken: until when, and how much has been.
    waits: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Timely<S> {
    /// Until `is_patient` is set.
    pub(crate) fn new(stream: S, is_patient: Arc<AtomicBool>) -> Self {
        Timely { stream, is_patient, waits: None }
    }

    /// Without any limit.
    pub(crate) fn patient(stream: S) -> Self {
        Timely::new(stream, Arc::new(true.into()))
    }

    /// What came of a write: where it has to wait, it does so no longer than the limit.
    fn bound(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(taken)) => {
                if let Some((_, so_far)) = &mut self.waits {
                    *so_far += taken;
                    if *so_far >= LEAST {
                        self.waits = None;
                    }
                }
                Poll::Ready(Ok(taken))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.is_patient.load(Ordering::Relaxed) => {
                self.waits = None;
                Poll::Pending
            }
            Poll::Pending => {
                let begin = || (Box::pin(sleep_until(Instant::now() + PATIENCE)), 0);
                let (until, _) = self.waits.get_or_insert_with(begin);
                ready!(until.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it does not take what it is sent")))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timely<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timely<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        // All of it has been taken.
        if let Poll::Ready(Ok(_)) = flushed {
            self.waits = None;
        }
        self.bound(cx, flushed).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx).map_ok(|()| 0);
        self.bound(cx, closed).map_ok(drop)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_left() {
        let (near, far) = duplex(1024);
        let mut near = Timely::new(near, Arc::default());
        let error = near.write_all(&[7; 4096]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_now_and_then_is_left_too() {
        let (near, mut far) = duplex(1024);
        let mut near = Timely::new(near, Arc::default());
        let reader = tokio::spawn(async move {
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        let error = near.write_all(&[7; 1 << 20]).await.expect_err("it would take months");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(near);
        reader.await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_person_may_take_a_while() {
        let (near, mut far) = duplex(1024);
        let mut near = Timely::patient(near);
        let reader = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.map(|_| all.len())
        });
        near.write_all(&[7; 4096]).await.expect("they come back");
        drop(near);
        assert_eq!(reader.await.expect("read").expect("whole"), 4096);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_gets_all_of_it() {
        let (near, mut far) = duplex(64 << 10);
        let mut near = Timely::new(near, Arc::default());
        let reader = tokio::spawn(async move {
            let (mut all, mut piece) = (0, vec![0; 64 << 10]);
            while let Ok(length @ 1..) = far.read(&mut piece).await {
                all += length;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            all
        });
        near.write_all(&vec![7; 2 << 20]).await.expect("it goes on");
        near.shutdown().await.expect("closed");
        drop(near);
        assert_eq!(reader.await.expect("read"), 2 << 20);
    }
}
