use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::Name,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    time::timeout,
};

use super::*;

/// A name server that knows `checkout.shop.svc.test.` as 127.0.0.N, with a time to live of a day, and nothing else.
async fn name_server(last: Arc<AtomicU8>) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut query = [0u8; 512];
        loop {
            let (length, from) = socket.recv_from(&mut query).await.unwrap();
            // The question: a name, its type and class.
            let end = 12 + query[12..length].iter().position(|b| *b == 0).unwrap() + 5;
            let name = query[12..end - 4].to_ascii_lowercase();
            let known = name == b"\x08checkout\x04shop\x03svc\x04test\x00";
            let wants_a = query[end - 4..end - 2] == [0, 1];
            let found = known && wants_a;
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
            answer.extend(&query[12..end]);
            if found {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4, 127, 0, 0, last.load(Ordering::SeqCst)]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    port
}

/// A dialer that asks that name server and searches as a pod does.
fn dialer(port: u16, shared: bool) -> Dialer {
    let mut udp = ConnectionConfig::udp();
    udp.port = port;
    let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
    let search = ["default.svc.test.", "svc.test.", "test."].map(|name| Name::from_ascii(name).unwrap()).to_vec();
    let config = ResolverConfig::from_parts(None, search, vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().ndots = 5;
    builder.options_mut().timeout = Duration::from_millis(200);
    builder.options_mut().attempts = 1;
    Dialer::with(builder, shared).unwrap()
}

#[tokio::test]
async fn names_are_searched_as_in_a_pod_and_looked_up_anew_each_time() {
    let last = Arc::new(AtomicU8::new(7));
    let dialer = dialer(name_server(last.clone()).await, true);
    let find = async || dialer.resolve("checkout.shop").await.unwrap();
    assert_eq!(find().await, [IpAddr::from([127, 0, 0, 7])]);
    // The Service has moved; the answer's time to live of a day must not hide that.
    last.store(8, Ordering::SeqCst);
    assert_eq!(find().await, [IpAddr::from([127, 0, 0, 8])]);
}

#[tokio::test]
async fn a_name_that_is_not_there_is_the_other_sides_failure() {
    let dialer = dialer(name_server(Arc::default()).await, false);
    let error = dialer.resolve("payments.shop").await.unwrap_err();
    assert_eq!((error.whose, error.detail.as_str()), (Whose::Peer, "look up payments.shop: no such name"));
}

#[tokio::test]
async fn a_silent_name_server_is_the_clusters_failure_in_a_pod_and_our_own_elsewhere() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for (shared, whose) in [(true, Whose::Peer), (false, Whose::Own)] {
        assert_eq!(dialer(port, shared).resolve("checkout.shop").await.unwrap_err().whose, whose);
    }
}

#[tokio::test]
async fn addresses_need_no_name_server() {
    let dialer = dialer(1, false);
    assert_eq!(dialer.resolve("10.1.2.3").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
    assert_eq!(dialer.resolve("[::1]").await.unwrap(), [IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    assert_eq!(dialer.resolve("localhost").await.unwrap()[0], IpAddr::V4(Ipv4Addr::LOCALHOST));
}

#[test]
fn own_failures_are_told_from_the_other_sides() {
    use rustix::io::Errno;
    let of = |errno: Errno| whose(&io::Error::from_raw_os_error(errno.raw_os_error()));
    for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NETUNREACH, Errno::NOBUFS] {
        assert_eq!(of(errno), Whose::Own, "{errno}");
    }
    for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::HOSTUNREACH, Errno::TIMEDOUT, Errno::PIPE] {
        assert_eq!(of(errno), Whose::Peer, "{errno}");
    }
}

#[test]
fn addresses_of_http() {
    let url: Url = "http://checkout.shop/healthz?a=b".parse().unwrap();
    assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (false, "checkout.shop", 80, "/healthz?a=b"));
    let url: Url = "https://[::1]:8443".parse().unwrap();
    assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (true, "[::1]", 8443, "/"));
    assert_eq!("http://a:9090/prom/".parse::<Url>().unwrap().join("/api/v1/alerts").to_string(), "http://a:9090/prom/api/v1/alerts");
    for wrong in ["checkout.shop", "ftp://a/", "http://", "http://user:hunter2@a/", "http://a b/", "/path"] {
        let error = wrong.parse::<Url>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// A server that gives each connection its bytes and closes it when told to.
async fn server(answers: &'static [&'static str]) -> (Url, Arc<AtomicU8>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let connections = Arc::new(AtomicU8::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                for answer in answers {
                    if stream.read(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn an_answer_has_its_status_and_as_much_of_its_body_as_was_asked_for() {
    let (url, _) = server(&["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nsorry"]).await;
    let dialer = Dialer::host().unwrap();
    let get = HttpRequest::get(url);
    let whole = request(&dialer, &get, 5).await.unwrap();
    assert_eq!((whole.status, &*whole.body, whole.cut), (503, &b"sorry"[..], false));
    let cut = request(&dialer, &get, 3).await.unwrap();
    assert_eq!((&*cut.body, cut.cut), (&b"sor"[..], true));
}

#[tokio::test]
async fn a_kept_connection_carries_several_requests() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (url, connections) = server(Box::leak(Box::new([ok, ok, ok]))).await;
    let mut connection = HttpConn::open(&Dialer::host().unwrap(), &url).await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.send(&HttpRequest::get(url.clone()), 10).await.unwrap().status, 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn refused_closed_and_nonsense_are_the_other_sides_failures() {
    let dialer = Dialer::host().unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let refused: Url = format!("http://{}/", closed.local_addr().unwrap()).parse().unwrap();
    drop(closed);
    let error = request(&dialer, &HttpRequest::get(refused), 10).await.unwrap_err();
    assert!(error.whose == Whose::Peer && error.detail.contains("refused"), "{error}");
    for answers in [&[""][..], &["nonsense\r\n\r\n"]] {
        let (url, _) = server(Box::leak(answers.to_vec().into_boxed_slice())).await;
        let asked = timeout(Duration::from_secs(5), request(&dialer, &HttpRequest::get(url), 10)).await.unwrap();
        assert_eq!(asked.unwrap_err().whose, Whose::Peer);
    }
}

#[tokio::test]
async fn json_of_an_error_page_is_an_error_with_its_beginning() {
    let (url, _) = server(&["HTTP/1.1 500 Oops\r\ncontent-length: 6\r\n\r\nbroken"]).await;
    let error = get_json::<serde_json::Value>(&Dialer::host().unwrap(), &url).await.unwrap_err();
    assert!(error.detail.contains("status 500: broken"), "{error}");
}
