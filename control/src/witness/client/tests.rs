use super::*;
use crate::audit::{Log, SigningKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ORIGIN: &str = "holm.test/log";

fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

/// A log of one entry: its head, and its key.
fn log() -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(&dir.path().join("log"), ORIGIN, SigningKey::fixed(1)).unwrap();
    log.append(&[b"a".to_vec()]).unwrap();
    (log.checkpoint().to_owned(), log.vkey())
}

fn client(port: u16) -> (Client, String) {
    let (note, log) = log();
    let config = CosignerConfig {
        url: format!("http://127.0.0.1:{port}/some/where/"),
        key: WitnessKey::of(&SigningKey::fixed(2), "w.test/1").vkey(),
        ca_file: "/nowhere".into(),
    };
    (Client::new(&config, &log).unwrap(), note)
}

fn text(note: &str) -> String {
    let (text, _) = note.split_once("\n\n").unwrap();
    format!("{text}\n")
}

#[test]
fn of_an_answer_only_its_own_cosignature_of_now_counts() {
    let (client, note) = client(1);
    let read = |status: u16, body: &str| {
        client.read(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &note, now())
    };
    let failed = |status: u16, body: &str| {
        let Answer::Failed(why) = read(status, body) else { panic!("{:?}", read(status, body)) };
        why
    };
    let key = SigningKey::fixed(2);
    let line = |at: &str| cosignature::sign(&key, "w.test/1", &text(&note), at.parse().unwrap());
    let good = line("2026-11-26T12:00:01Z");
    let at = "2026-11-26T12:00:01Z".parse().unwrap();
    assert_eq!(read(200, &good), Answer::Cosigned(format!("{note}{good}"), at));
    // What others say beside it is left out.
    let stranger = cosignature::sign(&SigningKey::fixed(3), "w.test/1", &text(&note), now());
    let both = format!("{stranger}{good}");
    assert_eq!(read(200, &both), Answer::Cosigned(format!("{note}{good}"), at));

    for (body, says) in [
        ("", "not signed by `w.test/1`"),
        ("hello\n", "a signature line is damaged"),
        (stranger.as_str(), "not signed by `w.test/1`"),
        (&good[..good.len() - 1], "cut short"),
        (&format!("{good}\n"), "cut short"),
        // Of another checkpoint: one that was good some time ago.
        (&cosignature::sign(&key, "w.test/1", "holm.test/log\n0\nAAAA\n", now()), "does not fit"),
        // Of this one, and not now.
        (&line("2026-11-25T12:00:00Z"), "one clock is wrong"),
        (&line("2026-11-27T12:00:00Z"), "one clock is wrong"),
    ] {
        let why = failed(200, body);
        assert!(why.contains(says), "{body:?}: {why}");
    }
    assert_eq!((read(409, "7\n"), read(422, "")), (Answer::At(7), Answer::Differs));
    for body in ["", "7", "seven\n", "-1\n", "7\n7\n", "99999999999999999999\n"] {
        assert!(failed(409, body).contains("409"), "{body:?}");
    }
    assert!(failed(404, "").contains("give its operator the log's key"));
    assert!(failed(403, "").contains("another key of this log"));
    assert!(failed(500, "").contains("500") && failed(302, "").contains("302"));
}

/// Answers one request with these bytes, or with none at all.
async fn answers(with: Option<Vec<u8>>) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 64 * 1024];
        let read = tcp.read(&mut request).await.unwrap();
        match with {
            // The other side does not read to the end of what is too much.
            Some(with) => drop(tcp.write_all(&with).await),
            None => drop(tcp.read(&mut [0]).await),
        }
        String::from_utf8(request[..read].to_vec()).unwrap()
    });
    (port, served)
}

#[tokio::test]
async fn it_is_asked_as_the_protocol_says() {
    let (port, served) = answers(Some(b"HTTP/1.1 409 C\r\ncontent-length: 2\r\n\r\n5\n".to_vec())).await;
    let (client, note) = client(port);
    assert_eq!(client.add(1, &[[0; 32], [1; 32]], &note, now()).await, Answer::At(5));
    let request = served.await.unwrap();
    assert!(request.starts_with("POST /some/where/add-checkpoint HTTP/1.1\r\n"), "{request}");
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let one = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    assert!(request.ends_with(&format!("\r\n\r\nold 1\n{zero}\n{one}\n\n{note}")), "{request}");
}

#[tokio::test]
async fn one_that_is_dead_huge_or_no_witness_holds_nothing_up() {
    let huge = [b"HTTP/1.1 200 O\r\ncontent-length: 99999999\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    for with in [huge, b"SSH-2.0-x\r\n".to_vec(), Vec::new()] {
        let (port, _served) = answers(Some(with)).await;
        let (client, note) = client(port);
        assert!(matches!(client.add(0, &[], &note, now()).await, Answer::Failed(_)));
    }
    // Nobody is there; and one who takes the request and says nothing.
    let (client_of_none, note) = client(1);
    assert!(matches!(client_of_none.add(0, &[], &note, now()).await, Answer::Failed(_)));
    let (port, _served) = answers(None).await;
    let (client, note) = client(port);
    let quiet = Client { server: client.server.limited(Duration::from_millis(50)), ..client };
    let Answer::Failed(why) = quiet.add(0, &[], &note, now()).await else { panic!() };
    assert!(why.contains("no answer within"), "{why}");
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_starts() {
    let key = WitnessKey::of(&SigningKey::fixed(2), "w.test/1").vkey();
    let new = |url: &str, key: &str| {
        let config = CosignerConfig { url: url.to_owned(), key: key.to_owned(), ca_file: "/nowhere".into() };
        Client::new(&config, "log").err().unwrap_or_default()
    };
    assert_eq!(new("http://127.0.0.1:1", &key), "");
    assert!(new("http://w.example/", &key).contains("this machine alone"));
    assert!(new("ftp://w.example/", &key).contains("say https://"));
    assert!(new("https://ada@w.example/", &key).contains("no URL of a server"));
    assert!(new("https://w.example/?a=b", &key).contains("more than a prefix of URLs"));
    assert!(new("https://w.example/", &key).contains("/nowhere"));
    // A log's key is none of a witness's.
    assert!(new("http://127.0.0.1:1", &SigningKey::fixed(2).vkey("w.test/1")).contains("no public key"));
}
