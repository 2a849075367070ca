//! Lines over a stream, with a [`Session`] beside: it reads while it writes, and sleeps until one deadline.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bramble_model::agent::LONGEST_LINE;
use bramble_model::timeline::Millis;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::session::{Limits, Session, Why};

/// Messages that may wait behind the one that leaves before nothing more is heard: who asks and takes no answers
/// is not asked for more.
const MOST_WAITING: usize = 64;

/// Bytes that a buffer begins with: it grows with what passes. Heartbeats are short, and a head has a thousand of these.
const BUFFER: usize = 1 << 10;

/// How long the other side has for closing its end, once all that was said has left.
const CLOSING: Duration = Duration::from_secs(5);

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Given(#[from] Why),
    #[error("it closed the connection")]
    Closed,
    #[error("its connection broke: {0}")]
    Broken(io::Error),
    #[error("it said a line that is too long")]
    TooLong,
    #[error("it said something malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl From<LinesCodecError> for Ended {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Ended::TooLong,
            LinesCodecError::Io(error) => Ended::Broken(error),
        }
    }
}

/// What happens on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Line(String),
    /// All that was said has left.
    Free,
    /// This side has to say something.
    Beat,
}

/// The longest first message of one that has not said who it is, in bytes: an enrolment has a key and its certificate.
const LONGEST_FIRST: usize = 16 << 10;

/// A connection's stream and its session.
#[derive(Debug)]
pub struct Connection<S> {
    lines: Framed<S, LinesCodec>,
    session: Session,
    began: Instant,
    /// What was said while something else was leaving.
    waiting: VecDeque<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Opens a connection: the stream has the session's first limit to come about, and what is left of it is for
    /// the other side's first message.
    ///
    /// # Errors
    /// When the stream did not come about, or not in time.
    pub async fn open(limits: Limits, stream: impl Future<Output = io::Result<S>>) -> io::Result<Self> {
        let (began, session) = (Instant::now(), Session::new(limits, 0));
        let late = |_| {
            let limit = limits.greeting / 1000;
            io::Error::new(io::ErrorKind::TimedOut, format!("no handshake within {limit} s"))
        };
        let stream = timeout_at(began + Duration::from_millis(session.deadline()), stream).await.map_err(late)??;
        let lines = Framed::with_capacity(stream, LinesCodec::new_with_max_length(LONGEST_LINE), BUFFER);
        Ok(Connection { lines, session, began, waiting: VecDeque::new() })
    }

    pub fn stream(&self) -> &S {
        self.lines.get_ref()
    }

    /// Milliseconds since it began, by a clock that nobody sets.
    fn now(&self) -> Millis {
        Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Whether nothing is on its way out.
    pub fn is_free(&self) -> bool {
        !self.session.is_sending()
    }

    /// The other side may be anyone: its first message is short. Called before anything is read.
    pub fn is_a_strangers(&mut self) {
        *self.lines.codec_mut() = LinesCodec::new_with_max_length(LONGEST_FIRST);
    }

    /// The other side has said who it is.
    pub fn greeted(&mut self) {
        // What it has sent beyond its first line is in the buffer, and stays there.
        *self.lines.codec_mut() = LinesCodec::new_with_max_length(LONGEST_LINE);
        self.session.greeted();
    }

    /// The other side says something at least as often as this one beats: its silence counts from now on.
    pub fn watch(&mut self) {
        self.session.watch(self.now());
    }

    /// Says something. It leaves while [`Connection::next`] is awaited, behind what was said before.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn say(&mut self, message: &impl Serialize) -> Result<(), Ended> {
        let text = serde_json::to_string(message).expect("messages are plain data");
        if !self.is_free() {
            self.waiting.push_back(text);
            return Ok(());
        }
        self.begin(text)
    }

    /// Nothing is on its way out: the codec's buffer is empty, and takes a line of any length.
    fn begin(&mut self, text: String) -> Result<(), Ended> {
        self.session.sending(self.now());
        Ok(self.lines.start_send_unpin(text)?)
    }

    /// What happens next. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if self.session.expired(self.now()).is_some() {
                // This side may have been busy with something else: what came or left meanwhile counts.
                let event = poll_fn(|cx| Poll::Ready(self.poll(cx))).await;
                match (event, self.session.expired(self.now())) {
                    (Poll::Ready(Err(ended)), _) => return Err(ended),
                    (_, Some(why)) => return Err(why.into()),
                    (Poll::Ready(Ok(event)), None) => return Ok(event),
                    (Poll::Pending, None) => {}
                }
            }
            if self.session.beats(self.now()) {
                return Ok(Event::Beat);
            }
            let deadline = self.began + Duration::from_millis(self.session.deadline());
            if let Ok(event) = timeout_at(deadline, poll_fn(|cx| self.poll(cx))).await {
                return event;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        while self.session.is_sending() {
            match SinkExt::<String>::poll_flush_unpin(&mut self.lines, cx)? {
                Poll::Pending => break,
                Poll::Ready(()) => self.session.sent(),
            }
            match self.waiting.pop_front() {
                Some(text) => self.begin(text)?,
                None => return Poll::Ready(Ok(Event::Free)),
            }
        }
        if self.waiting.len() >= MOST_WAITING {
            return Poll::Pending;
        }
        let line = match self.lines.poll_next_unpin(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Err(Ended::Closed)),
            Poll::Ready(Some(line)) => line?,
        };
        self.session.heard(self.now());
        Poll::Ready(Ok(Event::Line(line)))
    }

    /// The other side's first message.
    ///
    /// # Errors
    /// When it did not come in time, or is another.
    pub async fn first<T: DeserializeOwned>(&mut self) -> Result<T, Ended> {
        loop {
            match self.next().await? {
                Event::Line(line) => {
                    let first = serde_json::from_str(&line)?;
                    self.greeted();
                    return Ok(first);
                }
                Event::Free | Event::Beat => {}
            }
        }
    }

    /// Waits until all that was said has left, and until the other side has closed its end, which has a limit; what is
    /// heard meanwhile is heard no more. A stream that is dropped with something unread is reset (RFC 2525, section 2.17),
    /// and what had not arrived by then would be lost. It is closed when the connection is dropped.
    ///
    /// # Errors
    /// When the connection ended before.
    pub async fn finish(&mut self) -> Result<(), Ended> {
        while !self.is_free() {
            self.next().await?;
        }
        let limit = Instant::now() + CLOSING;
        // Whoever is gone, or stays, has had its time.
        let _ = timeout_at(limit, poll_fn(|cx| self.poll_close(cx))).await;
        Ok(())
    }

    /// Says that nothing more comes, and reads to the other side's end.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(self.lines.get_mut());
        ready!(stream.as_mut().poll_shutdown(cx))?;
        let mut bytes = [0; BUFFER];
        loop {
            let mut unread = ReadBuf::new(&mut bytes);
            ready!(stream.as_mut().poll_read(cx, &mut unread))?;
            if unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
