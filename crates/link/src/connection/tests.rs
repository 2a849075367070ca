//! Over a pipe in memory, whose clock runs by itself while everyone waits; and over TCP, where a kernel is in between.

use std::future::pending;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpSocket;

use super::*;

/// Bytes that a pipe holds.
const HOLDS: usize = 1024;

/// A connection whose other side has greeted, and that other side's end.
async fn greeted() -> (Connection<DuplexStream>, DuplexStream) {
    let (here, mut there) = duplex(HOLDS);
    let mut connection = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
    there.write_all(b"\"hello\"\n").await.expect("taken");
    assert_eq!(connection.first::<String>().await.expect("it greets"), "hello");
    connection.watch();
    (connection, there)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_come_about_has_a_limit() {
    let began = Instant::now();
    let late = Connection::<DuplexStream>::open(Limits::USUAL, std::future::pending()).await.expect_err("too late");
    assert_eq!((late.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_one_limit_for_all_that_it_says() {
    let (here, mut there) = duplex(HOLDS);
    let slow = async move {
        tokio::time::sleep(Duration::from_secs(15)).await;
        Ok(here)
    };
    let mut connection = Connection::open(Limits::USUAL, slow).await.expect("in time");
    there.write_all(b"\"no end of line").await.expect("taken");
    let ended = connection.first::<Value>().await.expect_err("too late");
    assert!(matches!(ended, Ended::Given(Why::NoGreeting { .. })), "{ended}");
    assert_eq!(connection.began.elapsed().as_secs(), 20);
}

/// One line of it without an end took four megabytes of whoever listened.
#[tokio::test(start_paused = true)]
async fn a_stranger_says_little_before_it_has_said_who_it_is() {
    let (here, mut there) = duplex(1 << 20);
    let mut connection = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
    connection.is_a_strangers();
    there.write_all(&vec![b'x'; LONGEST_FIRST + 2]).await.expect("taken");
    let ended = connection.first::<Value>().await.expect_err("too long");
    assert!(!matches!(ended, Ended::Given(_)), "{ended}");

    let (here, mut there) = duplex(1 << 20);
    let mut connection = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
    connection.is_a_strangers();
    let long = format!("\"{}\"", "x".repeat(2 * LONGEST_FIRST));
    there.write_all(format!("\"hello\"\n{long}\n").as_bytes()).await.expect("taken");
    assert_eq!(connection.first::<String>().await.expect("short"), "hello");
    assert_eq!(connection.first::<String>().await.expect("it is known now").len() + 2, long.len());
}

#[tokio::test(start_paused = true)]
async fn it_beats_and_ends_what_is_silent() {
    let (mut connection, _there) = greeted().await;
    let mut beats = Vec::new();
    let ended = loop {
        match connection.next().await {
            Ok(Event::Beat) => beats.push(connection.began.elapsed().as_secs()),
            Ok(event) => panic!("{event:?}"),
            Err(ended) => break ended,
        }
    };
    assert!(matches!(ended, Ended::Given(Why::Silent { .. })), "{ended}");
    assert_eq!((beats, connection.began.elapsed().as_secs()), (vec![10, 20], 30));
}

/// An agent that applies its document for long looks at nothing meanwhile: that is not the head's silence.
#[tokio::test(start_paused = true)]
async fn what_came_while_this_side_was_busy_counts() {
    let (mut connection, mut there) = greeted().await;
    there.write_all(b"\"I live\"\n").await.expect("taken");
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!(connection.next().await.expect("it spoke"), Event::Line("\"I live\"".into()));
    assert_eq!(connection.next().await.expect("it stays"), Event::Beat);
    tokio::time::advance(Duration::from_secs(100)).await;
    let ended = connection.next().await.expect_err("it did not speak");
    assert!(matches!(ended, Ended::Given(Why::Silent { .. })), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_does_not_save_who_takes_nothing() {
    let (mut connection, there) = greeted().await;
    let (_reads, mut writes) = tokio::io::split(there);
    tokio::spawn(async move {
        while writes.write_all(b"\"I live\"\n").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    connection.say(&"x".repeat(2 * HOLDS)).expect("begun");
    let (began, mut heard) = (Instant::now(), 0);
    let ended = loop {
        match connection.next().await {
            Ok(Event::Line(_)) => heard += 1,
            Ok(event) => panic!("{event:?}"),
            Err(ended) => break ended,
        }
    };
    assert!(matches!(ended, Ended::Given(Why::TakesNothing { .. })), "{ended}");
    assert!(heard >= 19 && began.elapsed().as_secs() == 20, "{heard} in {:?}", began.elapsed());
}

/// Each side is in the middle of a message that fits no buffer: a side that read only between its own messages would
/// wait for the other for ever.
#[tokio::test(start_paused = true)]
async fn two_that_talk_at_once_hear_each_other() {
    let (here, there) = duplex(HOLDS);
    let mut one = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
    let mut other = Connection::open(Limits::USUAL, async { Ok(there) }).await.expect("open");
    let long = "x".repeat(100 * HOLDS);
    for side in [&mut one, &mut other] {
        side.say(&long).expect("begun");
        side.say(&"and").expect("waits");
    }
    let hear = async |side: &mut Connection<DuplexStream>| {
        let mut heard = Vec::new();
        while heard.len() < 2 || !side.is_free() {
            if let Event::Line(line) = side.next().await.expect("it goes on") {
                heard.push(line.len());
            }
        }
        heard
    };
    let heard = tokio::join!(hear(&mut one), hear(&mut other));
    assert_eq!(heard, (vec![long.len() + 2, 5], vec![long.len() + 2, 5]));
    assert_eq!(one.began.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_words_leave_in_their_order() {
    let (mut connection, mut there) = greeted().await;
    for number in 0..200 {
        connection.say(&json!({ "number": number })).expect("said");
    }
    let reader = tokio::spawn(async move {
        let mut text = String::new();
        there.read_to_string(&mut text).await.expect("read");
        text
    });
    connection.finish().await.expect("all of it");
    drop(connection);
    let expected: String = (0..200).map(|number| format!("{{\"number\":{number}}}\n")).collect();
    assert_eq!(reader.await.expect("no panic"), expected);
}

/// A stream that is dropped with something unread is reset, and what had not left the kernel was lost.
#[tokio::test]
async fn the_last_words_arrive_though_the_other_side_says_something_all_the_while() {
    for accepts in [true, false] {
        let [listens, socket] = [(), ()].map(|()| {
            let socket = TcpSocket::new_v4().expect("a socket");
            // Its kernel takes less than is said, and ours the whole of it.
            socket.set_recv_buffer_size(4 << 10).expect("set");
            socket.set_send_buffer_size(256 << 10).expect("set");
            socket
        });
        listens.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let listener = listens.listen(1).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let (one, other) = tokio::join!(socket.connect(address), listener.accept());
        let (one, (other, _)) = (one.expect("it listens"), other.expect("it comes"));
        let (here, there) = if accepts { (other, one) } else { (one, other) };
        let mut connection = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
        let (mut reads, mut writes) = there.into_split();
        writes.write_all(b"\"more\"\n").await.expect("sent");
        let last = "x".repeat(64 << 10);
        connection.say(&last).expect("begun");
        let ends = async {
            connection.finish().await.expect("all of it");
            drop(connection);
        };
        let says = async move {
            while writes.write_all(b"\"more\"\n").await.is_ok() {}
            pending().await
        };
        let mut heard = String::new();
        let hears = async {
            tokio::select! {
                heard = reads.read_to_string(&mut heard) => heard.map(drop),
                never = says => never,
            }
        };
        let ((), read) = tokio::join!(ends, hears);
        read.expect("to its end");
        assert!(heard == format!("\"{last}\"\n"), "{} bytes arrived", heard.len());
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_closes_its_end_is_waited_for_no_longer_than_a_limit() {
    let (mut connection, mut there) = greeted().await;
    connection.say(&"bye").expect("begun");
    let began = Instant::now();
    connection.finish().await.expect("all of it");
    assert_eq!(began.elapsed(), CLOSING);
    drop(connection);
    let mut heard = String::new();
    there.read_to_string(&mut heard).await.expect("read");
    assert_eq!(heard, "\"bye\"\n");
}

/// Who asks and takes no answers is not heard further: what waits for it has an end.
#[tokio::test(start_paused = true)]
async fn who_takes_no_answers_is_not_asked_for_more() {
    let (mut connection, there) = greeted().await;
    let (_reads, mut writes) = tokio::io::split(there);
    tokio::spawn(async move { while writes.write_all(b"\"again\"\n").await.is_ok() {} });
    let mut heard = 0;
    while let Ok(event) = connection.next().await {
        heard += usize::from(matches!(event, Event::Line(_)));
        connection.say(&"x".repeat(HOLDS)).expect("said");
    }
    assert!(heard <= MOST_WAITING + 4, "{heard}");
}

#[tokio::test(start_paused = true)]
async fn lines_that_are_none_end_it() {
    for (bytes, expected) in [
        (&b"\xff\xfe\n"[..], "its connection broke"),
        (b"{}\n", "it said something malformed"),
        (b"", "it closed the connection"),
    ] {
        let (here, mut there) = duplex(HOLDS);
        let mut connection = Connection::open(Limits::USUAL, async { Ok(here) }).await.expect("open");
        there.write_all(bytes).await.expect("taken");
        drop(there);
        let ended = connection.first::<String>().await.expect_err("no message").to_string();
        assert!(ended.starts_with(expected), "{ended}");
    }
}
