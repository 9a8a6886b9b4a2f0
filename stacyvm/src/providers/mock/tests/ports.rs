use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{Mock, Script, Step};
use super::{bench_on, code, drain, settle};
use crate::error::ErrorKind;
use crate::provider::Provider;
use crate::sandbox::exec::ExecSpec;

fn mock() -> Mock {
    Mock::builder()
        .command("upper", |_| {
            Script::new().serve(80, <[u8]>::to_ascii_uppercase)
        })
        .command("ask", |call| {
            Script::new().step(Step::Connect {
                port: call.argument(1).parse().unwrap_or(0),
                send: "question".into(),
                then: Box::new(|answer| Script::new().out(answer)),
            })
        })
        .build()
}

#[tokio::test]
async fn a_port_inside_is_dialled_without_a_network() {
    let bench = bench_on(mock()).await;
    let dial = || bench.mock.dial(&bench.cx, &bench.id, 80);
    assert_eq!(dial().await.err().unwrap().kind(), ErrorKind::NotFound);
    let server = bench.start(&ExecSpec::new(["upper"])).await.unwrap();
    settle().await;
    let (mut one, mut two) = (dial().await.unwrap(), dial().await.unwrap());
    for connection in [&mut one, &mut two] {
        connection.write_all(b"abc").await.unwrap();
        let mut answer = [0; 3];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ABC");
    }
    // The connections and the port go with the process.
    drop(server);
    settle().await;
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(dial().await.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_host_listens_on_a_port_inside() {
    let bench = bench_on(mock()).await;
    let mut listener = bench.mock.listen(&bench.cx, &bench.id, 0).await.unwrap();
    let port = listener.port;
    assert_ne!(port, 0);
    let taken = bench.mock.listen(&bench.cx, &bench.id, port).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let ask = ExecSpec::new(["ask", &port.to_string()]);
    let session = bench.start(&ask).await.unwrap();
    let mut connection = listener.incoming.next().await.unwrap().unwrap();
    let mut question = String::new();
    connection.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    connection.write_all(b"answer").await.unwrap();
    drop(connection);
    let ran = drain(session).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("answer", code(0)));
    // Dropping the listener closes the port.
    drop(listener);
    let again = bench.mock.listen(&bench.cx, &bench.id, port).await;
    assert_eq!(again.unwrap().port, port);
}

#[tokio::test]
async fn there_is_no_endpoint_for_others() {
    let bench = bench_on(mock()).await;
    let error = bench
        .mock
        .endpoint(&bench.cx, &bench.id, 80)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!bench.mock.capabilities().endpoint);
}
